//go:build !linux

package proxy_test

import (
	"net"
	"testing"
)

// heard can't tell here, and hopes.
func heard(testing.TB, *net.TCPConn) bool { return true }
