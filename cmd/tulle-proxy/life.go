//go:build linux

package main

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/tulle-mesh/tulle/internal/push"
)

// The stored config may be what workers crash with. From distrustStore crashes in a row on, every second worker does
// without it and gives the controller distrustWait to send a better one.
const (
	distrustStore = 3
	distrustWait  = 5 * time.Second
)

// settleAfter is how long sockets that the stored config doesn't know are kept for the controller's word on them.
const settleAfter = 30 * time.Second

var errNoController = errors.New("no controller sent a config: the stored one is tried again")

// live waits for the things that happen once in a worker's life, in their order.
func (w *worker) live(signal, running context.Context) error {
	if ready, err := w.getReady(signal, running); !ready {
		return err
	}
	if since := w.held.Hello.Stopping; !since.IsZero() {
		w.stop(running, since)
		return nil
	}
	settle := time.NewTimer(settleAfter)
	defer settle.Stop()
	for synced := w.client.Synced(); ; {
		select {
		case <-synced:
			synced = nil
			w.settle()
		case <-settle.C:
			w.settle()
		case <-signal.Done():
			w.stop(running, time.Now())
			return nil
		case <-running.Done():
			return nil
		}
	}
}

// getReady waits for a whole config, and a new pod for its identity, too, and tells the holder. It returns false if the
// worker is to end before.
func (w *worker) getReady(signal, running context.Context) (bool, error) {
	if !w.held.Hello.Stopping.IsZero() { // What another worker began to stop, this one may have to serve on for a while.
		var cancel context.CancelFunc
		signal, cancel = context.WithTimeout(running, w.stopWait)
		defer cancel()
	}
	var giveUp <-chan time.Time
	if w.distrusts() {
		giveUp = time.After(distrustWait)
	}
	select {
	case <-w.client.Ready():
	case <-giveUp:
		return false, errNoController
	case <-signal.Done():
		return false, nil
	case <-running.Done():
		return false, nil
	}
	if hello := w.held.Hello; hello.Stopping.IsZero() && hello.Crashes == 0 && !w.client.Status().FromDisk {
		wait, cancel := context.WithTimeout(signal, w.identityReadyWait)
		w.identities.awaitOwn(wait)
		cancel()
	}
	if err := w.held.Ready(); err != nil {
		return false, err
	}
	w.log.Info("ready", "pod", w.podName, "node", w.nodeName, "version", w.client.Status().Version)
	return true, nil
}

// settle is called when a whole config is in use: what was needed to get there is given back.
func (w *worker) settle() {
	if err := w.held.Settle(); err != nil {
		w.log.Error("could not give up unused sockets", "err", err)
	}
	// An idle proxy would keep twice of what its config takes for hours.
	debug.FreeOSMemory()
}

// stored is where the last good config is kept; nil if there is to be none or it isn't trusted.
func (w *worker) stored() *push.Store {
	if w.store == "" {
		return nil
	}
	if w.distrusts() {
		w.log.Warn("the stored config is left alone: workers crashed with it", "crashes", w.held.Hello.Crashes)
		return nil
	}
	return &push.Store{Path: w.store}
}

func (w *worker) distrusts() bool {
	crashes := w.held.Hello.Crashes
	return crashes >= distrustStore && crashes%2 == distrustStore%2
}
