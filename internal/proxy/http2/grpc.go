package http2

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// isGRPC says whether the client speaks gRPC, which HTTP/1 can't carry.
func isGRPC(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return false
	}
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcLate says that the client's own time limit for a gRPC call has passed. Servers keep to it, too, by resetting the
// stream, which says less than the client would have found out by itself a moment later.
func (c *carrier) grpcLate() bool {
	if !isGRPC(c.r) {
		return false
	}
	limit, ok := grpcTimeout(c.r.Header.Get("Grpc-Timeout"))
	return ok && time.Since(c.Begun) >= limit
}

// grpcTimeout reads a grpc-timeout header: up to eight digits and a unit.
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	units := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !ok || err != nil || n > uint64(math.MaxInt64/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
