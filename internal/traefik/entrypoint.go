package traefik

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/shadow"
)

// EntryPoint names the entry point of a port number: "tcp-20000" for HTTP and TCP, "udp-20000".
func EntryPoint(port int32, udp bool) string {
	if udp {
		return fmt.Sprintf("udp-%d", port)
	}
	return fmt.Sprintf("tcp-%d", port)
}

// Static is the part of Traefik's static configuration that the dynamic one relies on: the entry points, by name.
type Static struct {
	EntryPoints map[string]StaticEntryPoint `json:"entryPoints"`
}

// StaticEntryPoint is an entry point of the static configuration.
type StaticEntryPoint struct {
	Address string `json:"address"` // ":20000", ":20000/udp"
}

// StaticOf lists the entry points that a rendering of these addresses uses.
func StaticOf(a shadow.Assigned) Static {
	s := Static{EntryPoints: map[string]StaticEntryPoint{}}
	add := func(port int32, udp bool) {
		address := fmt.Sprintf(":%d", port)
		if udp {
			address += "/udp"
		}
		s.EntryPoints[EntryPoint(port, udp)] = StaticEntryPoint{Address: address}
	}
	for _, p := range a.Shared {
		add(p.TargetPort, false)
	}
	for _, u := range a.Units {
		for _, k := range slices.Collect(maps.Keys(u.TargetPorts)) {
			add(u.TargetPorts[k], k.UDP)
		}
	}
	return s
}
