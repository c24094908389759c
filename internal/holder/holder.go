//go:build linux

package holder

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// BeatInterval is how often a worker says that it lives.
const BeatInterval = 50 * time.Millisecond

const (
	stableAfter = 10 * time.Second // a worker that lived as long has not crashed at once
	crashLimit  = 5                // so many in a row are a loop
	firstPause  = 100 * time.Millisecond
	longestWait = 5 * time.Second
	hangMemory  = 5 * time.Minute
)

var (
	errLooping  = errors.New("the worker crashes again and again")
	errLeft     = errors.New("the pod stops, and others serve instead")
	errStarting = errors.New("no worker has been ready yet")
)

// Config says what a holder runs and how patient it is. Zero durations mean the defaults.
type Config struct {
	Args   []string     // the worker's arguments; its binary is this one
	Health net.Listener // gets /readyz and /healthz; Run closes it
	// HangLimit is how long a worker may be silent, a time in which it gets no CPU not counted (default 400 ms; half as
	// long again if it uses CPU). It doubles with every worker but the first two that are killed for it within 5
	// minutes.
	HangLimit time.Duration
	// HardLimit is how long a worker may be silent at all (default 10 s). It also is the time to start.
	HardLimit time.Duration
	// Grace is how long the proxy stays ready without a ready worker (default 2 s).
	Grace time.Duration
	Log   *slog.Logger
}

// holder is owned by Run's goroutine.
type holder struct {
	Config
	status   status
	sockets  sockets
	signals  chan os.Signal
	stop     <-chan struct{} // nil once seen
	stopping time.Time
	note     string
	restarts int // workers that ended
	failures int // of those, unasked and in a row
	crashes  int // of those, by themselves: not killed
	hangs    int // of those, killed for silence within hangMemory
	lastHang time.Time
}

// Run is the holder: it keeps a worker running until ctx is done, then tells it to stop with SIGTERM and returns when
// it did, with an error if it could not.
func Run(ctx context.Context, c Config) error {
	h := newHolder(ctx, c)
	server := &http.Server{Handler: h.status.handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(c.Health) }() //nolint:errcheck // it ends when it is closed below
	defer func() { server.Close(); <-served }()

	// The worker is killed when the thread that started it ends, so that one must live as long as the holder.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signal.Notify(h.signals, syscall.SIGCHLD, syscall.SIGQUIT)
	defer signal.Stop(h.signals)
	return h.run(ctx)
}

func newHolder(ctx context.Context, c Config) *holder {
	for d, value := range map[*time.Duration]time.Duration{&c.HangLimit: 400 * time.Millisecond, &c.HardLimit: 10 * time.Second, &c.Grace: 2 * time.Second} {
		if *d == 0 {
			*d = value
		}
	}
	return &holder{
		Config: c, status: status{grace: c.Grace, now: time.Now}, sockets: sockets{},
		signals: make(chan os.Signal, 16), stop: ctx.Done(),
	}
}

// run starts one worker after the other.
func (h *holder) run(ctx context.Context) error {
	for {
		p, err := h.start(ctx)
		if err != nil {
			h.Log.Error("could not start a worker", "err", err)
			h.pause(h.failed(0, false))
			continue
		}
		h.Log.Info("worker started", "pid", p.pid, "failures", h.failures)
		end := h.attend(p)
		if !h.stopping.IsZero() && end.Exited() && end.ExitStatus() == 0 {
			h.Log.Info("worker stopped")
			return nil
		}
		h.Log.Error("worker ended", "pid", p.pid, "how", describe(end), "after", time.Since(p.started))
		wait := h.failed(time.Since(p.started), end.Exited())
		if !h.stopping.IsZero() && h.failures >= crashLimit {
			return errLooping
		}
		h.pause(wait)
	}
}

// attend watches a worker until it has ended.
func (h *holder) attend(p *process) syscall.WaitStatus {
	tick := time.NewTicker(BeatInterval)
	defer tick.Stop()
	w, beats, last, killed := h.watch(p.pid), uint64(0), time.Now(), false
	for {
		select {
		case <-h.stop:
			h.stop, h.stopping = nil, time.Now()
			p.signal(syscall.SIGTERM)
		case s := <-h.signals:
			if s == syscall.SIGQUIT { // Go's way to ask for all stacks; it ends the worker.
				p.signal(syscall.SIGQUIT)
			}
		case now := <-tick.C:
			n := p.session.beats.Load()
			why := w.tick(now.Sub(last), n != beats)
			beats, last = n, now
			if why != "" && !killed {
				killed = true
				h.hung(p, why)
			}
			if h.failures > 0 && time.Since(p.started) > stableAfter {
				h.failures, h.crashes = 0, 0
				h.status.stable()
			}
		}
		if end, ok := reap(p.pid); ok {
			p.session.end()
			if note := p.session.note.Load(); note != nil {
				h.note = *note
			}
			return end
		}
	}
}

func (h *holder) watch(pid int) *watch {
	limit := min(h.HangLimit<<max(0, h.hangs-2), h.HardLimit)
	return &watch{
		beat: BeatInterval, limit: limit, busy: limit * 3 / 2, hard: h.HardLimit,
		threads: func() (map[int]thread, error) { return threads(pid) },
	}
}

func (h *holder) hung(p *process, why string) {
	h.Log.Error("worker hangs: it is killed", "pid", p.pid, "why", why)
	if time.Since(h.lastHang) > hangMemory {
		h.hangs = 0
	}
	h.hangs, h.lastHang = min(h.hangs+1, 16), time.Now()
	p.signal(syscall.SIGKILL)
}

// failed counts a worker that ended unasked and returns how long to wait before the next.
func (h *holder) failed(lived time.Duration, exited bool) time.Duration {
	if lived > stableAfter {
		h.failures, h.crashes = 0, 0
	}
	h.failures++
	if exited {
		h.crashes++
	}
	h.restarts++
	h.status.workerGone(h.failures >= crashLimit)
	if h.failures <= 2 {
		return 0
	}
	return min(firstPause<<min(h.failures-3, 10), longestWait)
}

// pause waits for d, or until the holder is told to stop.
func (h *holder) pause(d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-h.stop:
			h.stop, h.stopping = nil, time.Now()
			return
		case <-h.signals:
			reap(0)
		}
	}
}
