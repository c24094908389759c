//go:build linux

package main

import (
	"context"
	"sync"
	"time"
)

// drainingNote tells the next worker that this one gave up its sockets: nobody is left to serve.
const drainingNote = "draining"

// stop lets go in the order in which nobody notices: clients are sent here until the controller has taken this proxy
// out of every mesh address and all nodes know; then what is being served is asked to end. since is when the signal
// came, perhaps to a worker before this one.
func (w *worker) stop(running context.Context, since time.Time) {
	limit, cancel := context.WithDeadline(running, since.Add(w.stopLimit))
	defer cancel()
	w.log.Info("stopping", "connected", w.client.Status().Connected)
	wait, cancelWait := context.WithDeadline(limit, since.Add(w.stopWait))
	defer cancelWait()
	if err := w.proxy.WaitOutOfSlices(wait); err != nil {
		w.log.Warn("stopping without the controller's word that no mesh address points here", "err", err)
	}
	select {
	case <-time.After(w.stopLag):
	case <-limit.Done():
	}
	if err := w.held.Remember(drainingNote); err != nil {
		w.log.Error("the next worker would not know that this one is draining", "err", err)
	}
	w.log.Info("draining", "after", time.Since(since))
	drain, cancelDrain := context.WithTimeout(limit, w.drainLimit)
	defer cancelDrain()
	var tunnels sync.WaitGroup
	tunnels.Go(func() { w.identities.drain(drain, w) })
	if err := w.proxy.Drain(drain); err != nil {
		w.log.Warn("some connections were cut", "err", err)
	}
	tunnels.Wait()
	w.log.Info("stopped", "after", time.Since(since))
}
