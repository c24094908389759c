package main

import (
	"context"
	"log/slog"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/push"
	"github.com/tulle-mesh/tulle/internal/status"
)

// proxies shows a push.Server as controller.Proxies.
type proxies struct{ *push.Server }

// Connected returns each proxy once: of two streams, the newer one counts.
func (p proxies) Connected() []status.Proxy {
	var out []status.Proxy
	for _, c := range p.Connections() {
		s := status.Proxy{Pod: c.Peer.Pod, Node: c.Peer.Node, Connected: c.Since.UTC(), Current: c.Acked == c.Version && c.Acked != ""}
		for _, r := range c.Refusals[:min(len(c.Refusals), status.MaxRefused)] {
			s.Refused = append(s.Refused, status.Refusal{
				Type: strings.TrimPrefix(r.Type, configv1.TypePrefix), Name: r.Name, Version: r.Version, Reason: r.Reason,
				BusyPort: r.BusyPort, BusyUDP: r.BusyUDP,
			})
		}
		if n := len(out); n > 0 && out[n-1].Pod == s.Pod {
			out[n-1] = s
		} else {
			out = append(out, s)
		}
	}
	return out
}

// atLeast drops records below a level, of a library that says too much.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}
