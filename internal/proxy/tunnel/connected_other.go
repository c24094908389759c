//go:build !linux

package tunnel

// Connected says that the other end has not closed or lost the connection below, as far as reading and writing have found.
func (c *Conn) Connected() bool { return !c.broken.Load() }
