package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// options are the flags.
type options struct {
	process

	zones         []string
	clusterDomain string

	watchNamespaces, ignoreNamespaces      []string
	defaultMode                            string
	endpointsAllow, podCIDRs, serviceCIDRs []string
	foreignPods                            bool

	accessDefault, accessMinimum, accessReason string
	trustDomain                                string
	identityLifetime                           time.Duration

	identity identityOptions

	bypass       string
	allowFrom    []string
	antiSpoofing bool
	podIP        string

	addressesHTTP, firstHop string
	settle, overlap         time.Duration
	sliceSize               int

	engine, entryPoints string

	pushAddress, webhookAddress, adminAddress, traefikAddress string

	webhookStopLag time.Duration

	lease, renew, retry time.Duration
	writeQPS            float32
	writeBurst          int
	quiet, maxWait      time.Duration
}

func (o *options) addFlags(f *pflag.FlagSet) {
	o.process.addFlags(f)

	f.StringSliceVar(&o.zones, "zones", []string{"mesh"}, "DNS zones that lead into the mesh")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster itself")

	f.StringSliceVar(&o.watchNamespaces, "watch-namespaces", nil, "namespaces whose services are in the mesh (default all)")
	f.StringSliceVar(&o.ignoreNamespaces, "ignore-namespaces", []string{"kube-system"}, "namespaces whose services are not in the mesh; the mesh's own never is")
	f.StringVar(&o.defaultMode, "default-mode", "http", "protocol of TCP ports that say nothing about theirs: http or tcp")
	f.StringSliceVar(&o.endpointsAllow, "endpoints-allow", nil, "CIDRs that endpoints may lie in although they are refused otherwise")
	f.BoolVar(&o.foreignPods, "endpoints-foreign-pods", false, "allow EndpointSlices that point at pods of another namespace")
	f.StringSliceVar(&o.podCIDRs, "pod-cidrs", nil, "ranges of pods, besides those that nodes publish")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidrs", nil, "ranges of Services, besides those that the cluster publishes")

	f.StringVar(&o.accessDefault, "access-default", "off", "access control of namespaces that say nothing: off, audit or enforce")
	f.StringVar(&o.accessMinimum, "access-minimum", "off", "what access control no namespace can fall below: off, audit or enforce")
	f.StringVar(&o.accessReason, "access-client-reason", "code", "how much clients are told of why access was denied: none, code or full")
	f.StringVar(&o.trustDomain, "trust-domain", "", "trust domain of SPIFFE IDs (default: the cluster's domain)")
	f.DurationVar(&o.identityLifetime, "identity-lifetime", time.Hour, "how long proxies take a pod's address for the pod without hearing so again")
	f.StringVar(&o.identity.mode, "identity", identityTulle, "who certifies identities: tulle (the mesh's own CA), spire (proxies ask a SPIFFE Workload API) or off")
	f.DurationVar(&o.identity.svidLife, "svid-life", time.Hour, "how long a certificate of an identity lasts: no address is taken for a pod for longer")

	f.StringVar(&o.bypass, "bypass", "report", "calls past the mesh to enforced workloads, in namespaces that say nothing: report, or close by NetworkPolicies")
	f.StringSliceVar(&o.allowFrom, "bypass-allow-from", nil, "who may call past the mesh everywhere: namespace, namespace/label=value+label=value or CIDR")
	f.BoolVar(&o.antiSpoofing, "anti-spoofing", false, "the network lets no pod send with another's address")
	f.StringVar(&o.podIP, "pod-ip", "", "address of this pod")

	f.StringVar(&o.addressesHTTP, "addresses-http", "dedicated", "mesh addresses of HTTP services: one for each (dedicated) or one for all (shared)")
	f.StringVar(&o.firstHop, "first-hop", "prefer-same-node", "how calls get to a proxy: prefer-same-node (with fail-over), or local where the cluster's proxy does not know that")
	f.DurationVar(&o.settle, "address-settle", 10*time.Second, "how long a mesh address exists before the names of a service that has another one move to it")
	f.DurationVar(&o.overlap, "address-overlap", 10*time.Minute, "how long a mesh address is served after names moved away from it")

	f.IntVar(&o.sliceSize, "slice-size", 100, "endpoints in an EndpointSlice of a mesh address, at most (up to 1000)")

	f.StringVar(&o.engine, "engine", "tulle", "what carries the traffic: tulle, or stock traefik")
	f.StringVar(&o.entryPoints, "entry-points", "20000-20249", "ports that stock Traefik's static entry points listen on; each service's port takes one")

	f.StringVar(&o.pushAddress, "push-address", ":15010", "address of the config stream")
	f.StringVar(&o.webhookAddress, "webhook-address", ":15017", `address at which the API server has SMI objects converted and judged; "" = none`)
	f.DurationVar(&o.webhookStopLag, "webhook-stop-lag", 3*time.Second, "how long webhooks are answered after the end of this pod was announced")
	f.StringVar(&o.traefikAddress, "traefik-address", ":15011", "address where stock Traefik asks for its configuration, with --engine traefik")
	f.StringVar(&o.adminAddress, "admin-address", "127.0.0.1:15000", `address of /first-hop and /debug/pprof; "" = none`)

	f.DurationVar(&o.lease, "lease-duration", 12*time.Second, "how long another replica waits for a leader that is gone")
	f.DurationVar(&o.renew, "lease-renew", 8*time.Second, "how long a leader that cannot renew its lease goes on leading")
	f.DurationVar(&o.retry, "lease-retry", time.Second, "how often the lease is renewed, or looked at")
	f.Float32Var(&o.writeQPS, "write-qps", 200, "writes of mesh addresses per second")
	f.IntVar(&o.writeBurst, "write-burst", 400, "writes of mesh addresses at once")
	f.DurationVar(&o.quiet, "quiet", 10*time.Millisecond, "how long changes must have ended before config is made of them")
	f.DurationVar(&o.maxWait, "max-wait", 100*time.Millisecond, "how long a change waits at most for others")
}

// complete checks the flags. Every error names the flag.
func (o *options) complete() (*command, error) {
	err := o.check()
	if err != nil {
		return nil, err
	}
	c := &command{options: o, shadow: shadow.Config{Namespace: o.podNamespace, Settle: o.settle, Overlap: o.overlap, SliceSize: o.sliceSize}}
	if c.shadow.SharedHTTP, err = oneOf("addresses-http", o.addressesHTTP, "dedicated", "shared"); err != nil {
		return nil, err
	}
	if c.shadow.Local, err = oneOf("first-hop", o.firstHop, "prefer-same-node", "local"); err != nil {
		return nil, err
	}
	if c.traefik, err = oneOf("engine", o.engine, "tulle", "traefik"); err != nil {
		return nil, err
	}
	if c.traefik {
		if c.shadow.TargetPorts, err = o.ports(); err != nil {
			return nil, err
		}
	}
	if c.names, err = o.names(); err != nil {
		return nil, err
	}
	if c.topology, err = o.topology(); err != nil {
		return nil, err
	}
	if o.renew >= o.lease || float64(o.retry)*1.2 >= float64(o.renew) {
		return nil, fmt.Errorf("--lease-duration %s, --lease-renew %s, --lease-retry %s: each must be well below the one before", o.lease, o.renew, o.retry)
	}
	if o.identityLifetime < time.Second {
		return nil, fmt.Errorf("--identity-lifetime %s: want a second at least", o.identityLifetime)
	}
	if o.sliceSize < 1 || o.sliceSize > 1000 {
		return nil, fmt.Errorf("--slice-size %d: want 1 to 1000", o.sliceSize)
	}
	if c.traefik {
		o.identity.mode = identityOff // it has none
	}
	if err = o.identity.check(); err != nil {
		return nil, err
	}
	if _, err = identity.ParseTrustDomain(c.names.TrustDomain); err != nil {
		return nil, fmt.Errorf("--trust-domain: %w", err)
	}
	if o.identity.mode == identityTulle {
		o.identityLifetime = min(o.identityLifetime, o.identity.svidLife) // no address is good for longer than a certificate
	}
	if c.bypass, err = o.bypassConfig(); err != nil {
		return nil, err
	}
	return c, nil
}

// oneOf says whether the value is the second of two.
func oneOf(flag, value, first, second string) (bool, error) {
	if value != first && value != second {
		return false, fmt.Errorf("--%s %q: want %s or %s", flag, value, first, second)
	}
	return value == second, nil
}

// ports reads the range of the entry points.
func (o *options) ports() (shadow.Range, error) {
	var r shadow.Range
	if n, err := fmt.Sscanf(o.entryPoints+"\n", "%d-%d\n", &r.First, &r.Last); n != 2 || err != nil || r.First < 1024 || r.Last < r.First || r.Last > 65535 {
		return r, fmt.Errorf("--entry-points %q: want a range of ports such as 20000-20249", o.entryPoints)
	}
	if r.First <= 15999 && r.Last >= 15000 {
		return r, fmt.Errorf("--entry-points %q: 15000 to 15999 are the mesh's own ports", o.entryPoints)
	}
	return r, nil
}

func (o *options) names() (proxyconfig.Config, error) {
	out := proxyconfig.Config{ClusterDomain: o.clusterDomain, TrustDomain: strings.ToLower(cmp.Or(o.trustDomain, o.clusterDomain)), ReasonDetail: o.accessReason}
	if errs := validation.IsDNS1123Subdomain(out.TrustDomain); errs != nil {
		return out, fmt.Errorf("--trust-domain %q: %s", out.TrustDomain, errs[0])
	}
	if !slices.Contains([]string{"none", "code", "full"}, o.accessReason) {
		return out, fmt.Errorf("--access-client-reason %q: want none, code or full", o.accessReason)
	}
	var err error
	out.Zones, err = zones(o.zones)
	return out, err
}

// zones checks the flag.
func zones(flag []string) ([]string, error) {
	var out []string
	for _, z := range flag {
		z = strings.ToLower(strings.Trim(z, "."))
		if errs := validation.IsDNS1123Subdomain(z); errs != nil {
			return nil, fmt.Errorf("--zones %q: %s", z, errs[0])
		}
		out = append(out, z)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("--zones: the mesh needs one")
	}
	return out, nil
}

func (o *options) topology() (topology.Config, error) {
	out := topology.Config{
		WatchNamespaces: o.watchNamespaces, IgnoreNamespaces: o.ignoreNamespaces, MeshNamespace: o.podNamespace,
		DefaultMode: topology.HTTP, ForeignPods: o.foreignPods,
	}
	tcp, err := oneOf("default-mode", o.defaultMode, "http", "tcp")
	if err != nil {
		return out, err
	}
	if tcp {
		out.DefaultMode = topology.TCP
	}
	if out.AccessDefault, err = accessMode("access-default", o.accessDefault); err != nil {
		return out, err
	}
	if out.AccessMinimum, err = accessMode("access-minimum", o.accessMinimum); err != nil {
		return out, err
	}
	if out.AllowedEndpoints, err = prefixes("endpoints-allow", o.endpointsAllow); err != nil {
		return out, err
	}
	if out.PodCIDRs, err = prefixes("pod-cidrs", o.podCIDRs); err != nil {
		return out, err
	}
	out.ServiceCIDRs, err = prefixes("service-cidrs", o.serviceCIDRs)
	return out, err
}

func (o *options) bypassConfig() (bypass.Config, error) {
	out := bypass.Config{Namespace: o.podNamespace, Default: bypass.Mode(o.bypass), AntiSpoofing: o.antiSpoofing}
	if _, err := oneOf("bypass", o.bypass, string(bypass.Report), string(bypass.Close)); err != nil {
		return out, err
	}
	for _, text := range o.allowFrom {
		p, err := bypass.ParsePeer(text)
		if err != nil {
			return out, fmt.Errorf("--bypass-allow-from: %w", err)
		}
		out.AllowFrom = append(out.AllowFrom, p)
	}
	if a, err := netip.ParseAddr(o.podIP); err == nil {
		out.Prober = []netip.Addr{a.Unmap()}
	}
	return out, nil
}

func accessMode(flag, value string) (topology.AccessMode, error) {
	m := topology.AccessMode(value)
	if !slices.Contains([]topology.AccessMode{topology.AccessOff, topology.AccessAudit, topology.AccessEnforce}, m) {
		return "", fmt.Errorf("--%s %q: want off, audit or enforce", flag, value)
	}
	return m, nil
}

// prefixes reads CIDRs; an address is one of its own.
func prefixes(flag string, texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("--%s %q: want a CIDR such as 10.0.0.0/8", flag, text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
