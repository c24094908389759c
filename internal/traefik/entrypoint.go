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
	Address string      `json:"address"` // ":20000", ":20000/udp"
	HTTP    *StaticHTTP `json:"http,omitempty"`
}

// StaticHTTP is what an entry point does with requests.
type StaticHTTP struct {
	EncodedCharacters EncodedCharacters `json:"encodedCharacters"`
}

// EncodedCharacters are those that a path may have. The mesh's own proxy refuses the same: servers disagree on what they
// mean, and a rule would judge another path than the server sees.
type EncodedCharacters struct {
	Slash     bool `json:"allowEncodedSlash"`
	BackSlash bool `json:"allowEncodedBackSlash"`
	Null      bool `json:"allowEncodedNullCharacter"`
}

// StaticOf lists the entry points that a rendering of these addresses uses.
func StaticOf(a shadow.Assigned) Static {
	s := Static{EntryPoints: map[string]StaticEntryPoint{}}
	add := func(port int32, udp bool) {
		address := fmt.Sprintf(":%d", port)
		point := StaticEntryPoint{Address: address, HTTP: &StaticHTTP{}}
		if udp {
			point = StaticEntryPoint{Address: address + "/udp"}
		}
		s.EntryPoints[EntryPoint(port, udp)] = point
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
