//go:build !linux

package cluster

import (
	"errors"
	"syscall"
)

var errLinux = errors.New("an embedded cluster needs Linux")

func usable() error                    { return errLinux }
func lasting() *syscall.SysProcAttr    { return nil }
func namespaced() *syscall.SysProcAttr { return nil }
func joinNet(string) error             { return errLinux }
func setHostname(string) error         { return errLinux }
func mount(_, _, _, _ string) error    { return errLinux }
func bind(_, _ string) error           { return errLinux }
func setPropagation(bool) error        { return errLinux }
func onOverlay(string) bool            { return false }
func onCgroup2(string) bool            { return false }
