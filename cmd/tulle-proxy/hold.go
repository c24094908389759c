//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"

	"github.com/tulle-mesh/tulle/internal/holder"
)

// hold is PID 1: it keeps a worker running until the pod is told to stop.
func (o *options) hold(ctx context.Context) error {
	l, err := net.Listen("tcp", o.healthAddress)
	if err != nil {
		return fmt.Errorf("serve health: %w", err)
	}
	o.log.Info("holder started", "health", l.Addr().String())
	// The holder allocates next to nothing; the memory of the pod is the worker's.
	debug.SetGCPercent(10)
	debug.FreeOSMemory()
	return holder.Run(ctx, holder.Config{
		Args: append([]string{"worker"}, o.args...), Health: l, Log: o.log,
		HangLimit: o.hangLimit, HardLimit: o.hangHardLimit, Grace: o.readyGrace,
	})
}
