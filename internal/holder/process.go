//go:build linux

package holder

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// process is a running worker.
type process struct {
	pid     int
	started time.Time
	session *session
}

// start starts a worker and begins to talk to it.
func (h *holder) start(ctx context.Context) (*process, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	defer syscall.Close(pair[1])
	ours := os.NewFile(uintptr(pair[0]), "worker")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	pid, err := syscall.ForkExec("/proc/self/exe", append([]string{os.Args[0]}, h.Args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	s := &session{
		conn: conn.(*net.UnixConn), sockets: h.sockets, ready: h.status.workerReady, leave: h.status.workerLeaves, done: make(chan struct{}),
		hello: Hello{Crashes: h.crashes, Restarts: h.restarts, Stopping: h.stopping, Note: h.note}, log: h.Log,
	}
	go s.run(context.WithoutCancel(ctx))
	return &process{pid: pid, started: time.Now(), session: s}, nil
}

func (p *process) signal(s syscall.Signal) {
	syscall.Kill(p.pid, s) //nolint:errcheck // it is our child and not reaped yet, so it exists
}

// reap takes the status of all children that ended; as PID 1 the holder inherits processes that others left behind.
// ok says that pid was one of them.
func reap(pid int) (end syscall.WaitStatus, ok bool) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || got <= 0:
			return end, ok
		case got == pid:
			end, ok = status, true
		}
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
