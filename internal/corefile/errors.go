package corefile

import "fmt"

// LayoutError is a Corefile that nothing can safely be added to: it does not parse, or only by CoreDNS's lenience.
type LayoutError struct {
	Line int // 1-based; 0 = the file as a whole
	Why  string
}

func (e *LayoutError) Error() string {
	if e.Line == 0 {
		return "the Corefile cannot be edited: " + e.Why
	}
	return fmt.Sprintf("the Corefile cannot be edited: line %d: %s", e.Line, e.Why)
}

// TakenError is a zone that somebody else serves.
type TakenError struct {
	Zone  string // ours
	Where string // theirs, e.g. "server block mesh:53 (line 12)"
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("zone %s is already served by %s", e.Zone, e.Where)
}

// OtherMeshError is the block of a tulle of another namespace: one cluster's DNS has one.
type OtherMeshError struct{ Namespace string }

func (e *OtherMeshError) Error() string {
	return fmt.Sprintf("a mesh in namespace %s already keeps a block here", e.Namespace)
}

// DamagedError is a block of which so much is missing that what is ours cannot be told from what is not.
type DamagedError struct {
	Line int
	Why  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the block of tulle is damaged: line %d: %s", e.Line, e.Why)
}
