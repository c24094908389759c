// Package observed knows what was called in audit mode: a bounded Store in each proxy records it, a Report shows it, and
// Generate proposes the TrafficTargets that would allow it and nothing else.
//
// But for the Store, which is safe for concurrent use, it is pure. It has no goroutines and no clock.
package observed

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
)

// Report is what one proxy recorded since it started.
type Report struct {
	Pod   string    `json:"pod"`
	Node  string    `json:"node"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Lost are calls between peers that the store had no room for at all.
	Lost  uint64 `json:"lost,omitempty"`
	Edges []Edge `json:"edges"`
}

// Peers say who called what.
type Peers struct {
	From     string `json:"from,omitempty"` // "namespace/serviceaccount"; empty if nobody knows
	To       string `json:"to"`             // the same, of the pod that was called
	Service  string `json:"service"`        // "namespace/name" of the Service that led there
	Port     uint32 `json:"port"`           // the Service's
	Protocol string `json:"protocol"`       // "http", "tcp" or "udp"
}

// Edge is what was seen between two peers.
type Edge struct {
	Peers
	Lost  uint64 `json:"lost,omitempty"` // calls that there was no room for: Calls has not all
	Calls []Call `json:"calls"`
}

// Call is a kind of call: a request of HTTP, a connection of TCP, a flow of UDP.
type Call struct {
	Method string `json:"method,omitempty"` // of HTTP, and only of callers with an identity
	Path   string `json:"path,omitempty"`   // a pattern; see Pattern
	// Reason says why no rule allowed it then; empty if one did.
	Reason access.Reason `json:"reason,omitempty"`
	// Past says that it was judged by a policy that is not in use any more, or not in audit mode.
	Past  bool      `json:"past,omitempty"`
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Reports are those of several proxies, as they are saved.
type Reports struct {
	Proxies []Report `json:"proxies"`
	Missing []string `json:"missing,omitempty"` // proxies that were asked and did not answer
}

// Validate says what makes no sense in reports that were read from somewhere: what they say ends up in YAML.
func (r *Reports) Validate() error {
	for _, name := range r.Missing {
		if !isName(name) {
			return fmt.Errorf("%q is no name of a proxy", name)
		}
	}
	for i := range r.Proxies {
		if err := r.Proxies[i].Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate says what makes no sense in a report that was read from somewhere.
func (r *Report) Validate() error {
	for _, e := range r.Edges {
		if err := e.validate(); err != nil {
			return fmt.Errorf("proxy %q: calls from %q to %q: %w", r.Pod, e.From, e.To, err)
		}
	}
	return nil
}

func (e *Edge) validate() error {
	if e.From != "" && !isIdentity(e.From, false) || !isIdentity(e.To, true) {
		return errors.New("not namespace/serviceaccount")
	}
	if !isPlain(e.Service) {
		return fmt.Errorf("the service %q is none", e.Service)
	}
	if e.Port == 0 || e.Port > 65535 {
		return fmt.Errorf("%d is no port number", e.Port)
	}
	if e.Protocol != http && e.Protocol != tcp && e.Protocol != udp {
		return fmt.Errorf("protocol %q is none of http, tcp and udp", e.Protocol)
	}
	for _, c := range e.Calls {
		switch {
		case !isPlain(string(c.Reason)):
			return fmt.Errorf("the reason %q is none", c.Reason)
		case c.Method != "" && c.Method != Other && !isMethod(c.Method):
			return fmt.Errorf("the method %q is none", c.Method)
		case c.Path != "" && !isPattern(c.Path):
			return fmt.Errorf("the path %q is none", c.Path)
		case (c.Method == "") != (c.Path == "") || c.Method != "" && (e.Protocol != http || e.From == ""):
			return errors.New("method and path do not go with the rest")
		}
	}
	return nil
}

const (
	http = "http"
	tcp  = "tcp"
	udp  = "udp"
)

// isIdentity takes "namespace/name", with names as Kubernetes has them.
func isIdentity(s string, nobody bool) bool {
	namespace, name, ok := strings.Cut(s, "/")
	return ok && isName(namespace) && (isName(name) || nobody && name == "")
}

func isName(s string) bool { return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, notInName) }

func notInName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
}

// isPlain takes what is made of names, slashes and dots.
func isPlain(s string) bool {
	return len(s) <= 1000 && !strings.ContainsFunc(s, func(c rune) bool { return notInName(c) && c != '/' })
}

// isMethod takes the methods that a rule can name: rules know upper case only.
func isMethod(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
