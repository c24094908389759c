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
// out of every mesh address and all nodes know, which is when nobody connects any more; then what is being served is
// asked to end. Who asks for names goes elsewhere with the next connection; flows of UDP stay where they are, by kube-proxy,
// until the pod is not ready. since is when the signal came, perhaps to a worker before this one.
func (w *worker) stop(running context.Context, since time.Time) {
	limit, cancel := context.WithDeadline(running, since.Add(w.stopLimit))
	defer cancel()
	w.log.Info("stopping", "connected", w.client.Status().Connected)
	accept, cancelAccept := context.WithDeadline(limit, since.Add(max(w.stopWait+w.stopLag, w.stopLimit-w.drainLimit)))
	defer cancelAccept()
	if err := w.outOfSlices(accept, since); err != nil {
		w.log.Warn("stopping without the controller's word that no mesh address points here", "err", err)
	}
	w.log.Info("others serve instead", "after", time.Since(since))
	w.dns.Leave()
	if err := w.held.Leave(); err != nil {
		w.log.Error("the proxy stays ready: who asks for names may go on to ask here", "err", err)
	}
	if err := w.proxy.WaitQuiet(accept, w.stopLag); err != nil {
		w.log.Warn("stopping while there are still new connections")
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

// outOfSlices waits for the controller's word that no mesh address points here: for stopWait, and longer as long as a
// controller is connected, which may have many addresses to write.
func (w *worker) outOfSlices(ctx context.Context, since time.Time) error {
	for until := since.Add(w.stopWait); ; until = time.Now().Add(time.Second) {
		wait, cancel := context.WithDeadline(ctx, until)
		err := w.proxy.WaitOutOfSlices(wait)
		cancel()
		if err == nil || ctx.Err() != nil || !w.client.Status().Connected {
			return err //nolint:wrapcheck // ctx's
		}
	}
}
