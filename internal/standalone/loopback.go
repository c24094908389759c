package standalone

import (
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/files"
)

// DetectLoopback finds out what this machine's loopback allows.
func DetectLoopback() files.Loopback {
	l := files.Loopback{FirstPort: firstPort()}
	if c, err := net.ListenPacket("udp", "127.64.0.1:0"); err != nil {
		l.OneAddress = true
	} else {
		c.Close()
	}
	return l
}

// firstPort is the lowest port that this process may bind.
func firstPort() int32 {
	if os.Geteuid() == 0 {
		return 1
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, bad := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 32); err == nil && bad == nil {
		return int32(n)
	}
	return 1024
}
