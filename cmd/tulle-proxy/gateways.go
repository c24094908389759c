//go:build linux

package main

import (
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// gateways are the addresses that this network's routes go by. They are no pods: in most networks the gateway of pods is
// their node, and it is by this address that the calls of the node's own processes come.
func gateways() []netip.Addr {
	v4, _ := os.ReadFile("/proc/net/route")      // without it, such calls
	v6, _ := os.ReadFile("/proc/net/ipv6_route") // take a little longer to be refused
	return append(nextHops(string(v4), 2), nextHops(string(v6), 4)...)
}

// nextHops reads the next hops from a routing table of /proc/net, where they are the fields of that number. Those of IPv4
// are in the machine's byte order there.
func nextHops(table string, field int) []netip.Addr {
	var all []netip.Addr
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) <= field {
			continue
		}
		b, err := hex.DecodeString(words[field])
		if err != nil { // the head of the table
			continue
		}
		if len(b) == 4 {
			slices.Reverse(b)
		}
		if a, ok := netip.AddrFromSlice(b); ok && !a.IsUnspecified() && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}
