package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flooder is a client of HTTP/2 that keeps no rules.
type flooder struct {
	*http2.Framer
	conn net.Conn
	head []byte // a request's header block, the same for all of them
}

func flood(t *testing.T, address, path string) *flooder {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := &flooder{Framer: http2.NewFramer(c, c), conn: c, head: block(path)}
	f.AllowIllegalWrites = true
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// block is the header block of a request, which leaves the other end's table as it is.
func block(path string, more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "web"}, {Name: ":path", Value: path},
	}, more...) {
		_ = e.WriteField(f) // to memory
	}
	return b.Bytes()
}

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// What floods a connection ends it, or is taken without harm; others don't notice.
func TestFloods(t *testing.T) {
	m := start(t)
	var now, most, seen atomic.Int64
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flood" {
			seen.Add(1)
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, "ok")
	}))
	const all = 1 << 21 // more than the sockets between them and net/http's queues take
	until := func(ends bool, times int, one func(f *flooder, i int) error) func(*testing.T) {
		return func(t *testing.T) {
			f := flood(t, front, "/flood")
			before := heap()
			var err error
			for i := 0; i < times && err == nil; i++ {
				err = one(f, i)
			}
			if ends && err == nil {
				t.Error("it does not end")
			}
			// net/http serves 250 requests at a time, and lets 1,000 wait that were reset before; each takes some 8 KiB.
			if after := heap(); after > before+24<<20 {
				t.Errorf("%d KiB of memory became %d", before>>10, after>>10)
			}
			eventually(t, func() error {
				if after := heap(); after > before+8<<20 {
					return fmt.Errorf("%d KiB of memory became %d", before>>10, after>>10)
				}
				return nil
			})
			if got := ask(t, &http.Transport{}, front); got != "ok" {
				t.Errorf("another client: %s", got)
			}
		}
	}
	t.Run("resets", func(t *testing.T) {
		until(false, 20_000, func(f *flooder, i int) error {
			id := uint32(2*i + 1)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head, EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		})(t)
		if n := most.Load(); n > 260 {
			t.Errorf("%d requests at a time got through", n)
		}
	})
	t.Run("continuations", until(true, all, func(f *flooder, i int) error {
		if i == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head})
		}
		return f.WriteContinuation(1, false, block("/", hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 1000)})[20:])
	}))
	// These cost as much as whoever sends them pays for them.
	t.Run("empty continuations", until(false, 200_000, func(f *flooder, i int) error {
		if i == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head})
		}
		return f.WriteContinuation(1, false, nil)
	}))
	t.Run("settings", until(false, 200_000, func(f *flooder, _ int) error { return f.WriteSettings() }))
	t.Run("pings", until(true, all, func(f *flooder, _ int) error { return f.WritePing(false, [8]byte{}) }))
	t.Run("a head that unfolds", func(t *testing.T) {
		seen.Store(0)
		f := flood(t, front, "/flood")
		var b bytes.Buffer
		e := hpack.NewEncoder(&b)
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"},
			{Name: ":scheme", Value: "http"},
			{Name: ":authority", Value: "web"},
			{Name: ":path", Value: "/flood"},
			{Name: "x", Value: strings.Repeat("y", 3500)},
		} {
			_ = e.WriteField(field) // to memory
		}
		for b.Len() < 12<<10 { // an octet each, 3,500 when unfolded
			_ = e.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 3500)})
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		status := ""
		dec := hpack.NewDecoder(4096, func(h hpack.HeaderField) {
			if h.Name == ":status" {
				status = h.Value
			}
		})
		for status == "" {
			frame, err := f.ReadFrame()
			if err != nil {
				break // which is an answer, too
			}
			if h, ok := frame.(*http2.HeadersFrame); ok {
				if _, err := dec.Write(h.HeaderBlockFragment()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if status != "" && status != "431" || seen.Load() != 0 {
			t.Errorf("status %q, %d requests got through", status, seen.Load())
		}
	})
}
