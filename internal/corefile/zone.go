package corefile

import (
	"fmt"
	"strconv"
	"strings"
)

// address is the name of a server block taken apart, e.g. dns://mesh:1053.
type address struct {
	transport string // "dns", "tls", ...
	zone      string // lower case, without the trailing dot; "" is the root
	port      string // as written, "" if not
}

func parseAddress(key string) address {
	a := address{transport: "dns"}
	if t, rest, ok := strings.Cut(key, "://"); ok {
		a.transport, key = t, rest
	}
	if i := strings.LastIndexByte(key, ':'); i >= 0 {
		if _, err := strconv.ParseUint(key[i+1:], 10, 16); err == nil {
			key, a.port = key[:i], key[i+1:]
		}
	}
	a.zone = normalZone(key)
	return a
}

func normalZone(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// within is true if name is zone or below it. The root has nothing below it here: everything would be.
func within(name, zone string) bool {
	return zone != "" && (name == zone || strings.HasSuffix(name, "."+zone))
}

// ValidZone says what is wrong with a zone of the mesh in a cluster with this domain, or nil.
func ValidZone(zone, clusterDomain string) error {
	if zone != normalZone(zone) {
		return fmt.Errorf("zone %q has to be lower case and without a dot at the end", zone)
	}
	if len(zone) == 0 || len(zone) > 200 {
		return fmt.Errorf("zone %q has to have 1 to 200 characters", zone)
	}
	for label := range strings.SplitSeq(zone, ".") {
		if !isLabel(label) {
			return fmt.Errorf("zone %q is not a DNS name: %q is not a label", zone, label)
		}
	}
	domain := normalZone(clusterDomain)
	if within(zone, domain) || within(domain, zone) {
		return fmt.Errorf("zone %q overlaps with the cluster's own domain %s", zone, domain)
	}
	if within(zone, "arpa") {
		return fmt.Errorf("zone %q is for addresses' names", zone)
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}) < 0
}

// Hijack returns the namespace that can take over names of zone: with the usual search path and ndots:5 a client asks for
// web.shop.mesh.svc.cluster.local before web.shop.mesh, and that is a pod "web" behind a headless Service "shop" in
// namespace "mesh".
func Hijack(zone string) string { return zone[strings.LastIndexByte(zone, '.')+1:] }
