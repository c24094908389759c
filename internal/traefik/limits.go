package traefik

// Limits are what Traefik can't do that the mesh's own proxy can, for people: docs/design/engines.md says more.
func Limits() []string {
	return []string{
		"access control: HTTP by the caller's address, port and method; what is allowed by paths or headers is closed, and so are TCP and UDP",
		"access control in audit mode counts nothing",
		"every port of a service takes one of a fixed range of entry points",
		"security support of Traefik v2 itself ended on 2026-02-01",
	}
}
