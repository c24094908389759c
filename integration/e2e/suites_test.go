package e2e

import (
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

// suite is a rule, or a few that belong together.
type suite struct {
	name string
	on   []string // names of places; none means all
	run  func(t *testing.T, e *env)
}

func suites() []suite {
	return []suite{
		{name: "smoke", run: smoke},
		{name: "smoke dual-stack", on: []string{dualStack}, run: smokeDualStack},
		{name: "lookups", on: []string{honest}, run: lookups},
		{name: "install", run: install},
		{name: "mesh names", on: []string{nftables, iptables}, run: meshNames},
		{name: "splits", on: []string{nftables, iptables}, run: splits},
		{name: "quarantine", on: []string{nftables, iptables}, run: quarantine},
		{name: "versions", on: []string{iptables}, run: versions},
		{name: "flagger", on: []string{nftables}, run: flagger},
		{name: "argo", on: []string{nftables}, run: argo},
		{name: "shared address", on: []string{nftables, iptables}, run: sharedAddress},
		{name: "access", on: []string{nftables}, run: accessControl},
		{name: "tunnels", on: []string{nftables}, run: tunnels},
		{name: "way around", on: []string{policies}, run: wayAround},
		{name: "way around without an engine", on: []string{nftables}, run: noEngine},
		{name: "push", on: []string{nftables}, run: pushed},
		{name: "mesh names dual-stack", on: []string{dualStack}, run: meshDualStack},
		{name: "custom stub domain", on: []string{dualStack}, run: customStubDomain},
		{name: "stub domain", on: []string{honest}, run: stubDomain},
		{name: "roll-outs", on: []string{honest}, run: rollouts},
		{name: "released", on: []string{iptables}, run: released},
		{name: "stock Traefik", on: []string{nftables}, run: stockTraefik}, // the last one before the mesh goes
		{name: "uninstall", run: uninstall},
		{name: "lookups' end", on: []string{honest}, run: lookupsEnd},
		{name: "upgrade", on: []string{honest}, run: upgrades},
	}
}

// runsOn says whether the suite is for that place. On a given cluster all suites run; they skip what it can't do.
func (s suite) runsOn(p place) bool {
	return len(s.on) == 0 || p.name == given || slices.Contains(s.on, p.name)
}

// place is a cluster to run suites on.
type place struct {
	name    string
	options cluster.Options
}

const (
	nftables  = "nftables"
	iptables  = "iptables"
	policies  = "policies" // NetworkPolicies are enforced
	honest    = "honest"
	dualStack = "dual-stack"
	given     = "given" // by KUBECONFIG
)

// phases are what runs one after the other: places one after the other, in rows that run beside each other.
func phases() [][][]place {
	if givenKubeconfig() != "" {
		return [][][]place{{{{name: given}}}}
	}
	return [][][]place{
		{{{name: nftables, options: cluster.Options{ProxyMode: "nftables"}}}},
		{
			// It waits more than it works, for DNS to be read again.
			{{name: honest, options: cluster.Options{Profile: cluster.Honest}}},
			{
				{name: dualStack, options: cluster.Options{DualStack: true, DNSImports: true}},
				{name: iptables, options: cluster.Options{ProxyMode: "iptables"}},
				// Beside a kube-proxy that uses iptables, kube-router may bring back rules that the other one has just removed: it
				// writes the whole filter table, from a copy. "No endpoints, REJECT" for the API server's Service then stays for
				// an hour.
				{name: policies, options: cluster.Options{ProxyMode: "nftables", NetworkPolicies: true}},
			},
		},
	}
}
