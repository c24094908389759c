//go:build !linux

package upstream

// quiet can't be told here: a connection that broke is found when it is used.
func quiet(uintptr) bool { return true }
