//go:build !linux

package cluster

type packets struct{}

func openPackets(string, string) (packets, error) { return packets{}, errLinux }
func (packets) close() error                      { return nil }

func (*Capture) look(packets, []string) error { return errLinux }
