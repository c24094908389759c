package traefik

// Limits are what Traefik can't do that the mesh's own proxy can, for people: docs/design/engines.md says more.
func Limits() []string {
	return []string{
		"calls between nodes are not encrypted and carry no identity",
		"access control: HTTP by the caller's address on the client's side only; what cannot be enforced is closed",
		"every port of a service takes one of a fixed range of entry points",
		"security support of Traefik v2 itself ended on 2026-02-01",
	}
}
