package meter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Entry is one line of the access log. It has no query strings and no header values: those may hold secrets.
type Entry struct {
	Time            time.Time `json:"time"`
	Protocol        string    `json:"protocol"` // "HTTP/1.1", "HTTP/2.0"
	Client          string    `json:"client"`   // IP address
	SourceNamespace string    `json:"source_namespace,omitempty"`
	SourcePod       string    `json:"source_pod,omitempty"`
	SourceWorkload  string    `json:"source_workload,omitempty"`
	Namespace       string    `json:"namespace,omitempty"` // of the service called
	Service         string    `json:"service,omitempty"`
	Port            uint32    `json:"port,omitempty"`
	Split           string    `json:"split,omitempty"` // the TrafficSplit that chose the backend
	Backend         string    `json:"backend,omitempty"`
	Endpoint        string    `json:"endpoint,omitempty"` // "ip:port"
	Method          string    `json:"method"`
	Host            string    `json:"host"`
	Path            string    `json:"path"`
	Status          int       `json:"status"` // 0 = the client went away first
	Reason          string    `json:"reason,omitempty"`
	Audit           string    `json:"audit,omitempty"` // why access control would have refused it, were it enforced
	BytesIn         int64     `json:"bytes_in"`
	BytesOut        int64     `json:"bytes_out"`
	Seconds         float64   `json:"seconds"`
	Attempts        int       `json:"attempts,omitempty"`
}

const (
	flushEvery = 200 * time.Millisecond
	flushSize  = 32 << 10
	maxPending = 4 << 20
)

// AccessLog writes entries as JSON lines, in batches. A reader that can't keep up costs lines, never requests.
type AccessLog struct {
	out     io.Writer
	wake    chan struct{}
	dropped prometheus.Counter

	mu      sync.Mutex
	pending bytes.Buffer // guarded by mu
}

// NewAccessLog returns a log that Run writes to out.
func NewAccessLog(out io.Writer) *AccessLog {
	return &AccessLog{
		out: out, wake: make(chan struct{}, 1),
		dropped: counter("access_log_dropped_total", "Lines of the access log that were lost because it was read too slowly."),
	}
}

func (l *AccessLog) droppedTotal() prometheus.Collector { return l.dropped }

// lines are buffers in which entries are encoded before the log is locked.
var lines = sync.Pool{New: func() any { return new([]byte) }}

// Write adds an entry. It never waits for the reader. A nil log takes nothing.
func (l *AccessLog) Write(e *Entry) {
	if l == nil {
		return
	}
	scratch := lines.Get().(*[]byte)
	defer lines.Put(scratch)
	line := e.append((*scratch)[:0])
	*scratch = line
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending.Len()+len(line) >= maxPending {
		l.dropped.Inc()
		return
	}
	l.pending.Write(line)
	if l.pending.Len() >= flushSize {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Run writes batches until ctx ends, and what is left then.
func (l *AccessLog) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var batch bytes.Buffer
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		case <-l.wake:
		}
		l.mu.Lock()
		batch, l.pending = l.pending, batch
		l.mu.Unlock()
		if batch.Len() > 0 {
			if _, err := l.out.Write(batch.Bytes()); err != nil {
				return fmt.Errorf("write access log: %w", err)
			}
		}
		batch.Reset()
		if ended {
			return nil
		}
	}
}

// Logs says whether entries go anywhere, which saves making them.
func (m *Meter) Logs() bool { return m.log != nil }

// Log writes an entry to the access log.
func (m *Meter) Log(e *Entry) { m.log.Write(e) }
