//go:build !linux

package proxy

// parking takes no listeners here: each has a goroutine.
type parking struct{}

func (*parking) open() (bool, error) { return false, nil }
func (*parking) run(func(*listener)) {}
func (*parking) park(*listener) bool { return false }
func (*parking) remove(*listener)    {}
func (*parking) close()              {}
