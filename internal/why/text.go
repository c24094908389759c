package why

import (
	"fmt"
	"io"
	"strings"
)

// Write writes an answer for people.
func Write(w io.Writer, a *Answer) error {
	var b strings.Builder
	verdict := "denied"
	if a.Allow {
		verdict = "allowed"
	}
	fmt.Fprintf(&b, "%s", verdict)
	if a.Reason != "" {
		fmt.Fprintf(&b, " (%s)", a.Reason)
	}
	if len(a.Hidden) > 0 {
		b.WriteString(", as far as you may read")
	}
	who := a.Caller
	switch {
	case who == "":
		who = "somebody without an identity"
	case a.Pod != "":
		who += " (pod " + a.Pod + ")"
	}
	fmt.Fprintf(&b, ": %s calls %s port %d by %s", who, a.Service, a.Port, a.Protocol)
	if a.Request != "" {
		fmt.Fprintf(&b, ", %s", a.Request)
	}
	b.WriteString("\n")
	writeRoute(&b, a)
	for _, d := range a.Destinations {
		writeDestination(&b, d)
	}
	fmt.Fprintf(&b, "the way around: %s\n", a.WayAround)
	for _, n := range a.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err //nolint:wrapcheck // the terminal's
}

func writeRoute(b *strings.Builder, a *Answer) {
	if a.Split != "" {
		fmt.Fprintf(b, "route: TrafficSplit %s\n", a.Split)
	} else if len(a.Backends) > 0 {
		b.WriteString("route: the Service's own endpoints\n")
	}
	for _, backend := range a.Backends {
		fmt.Fprintf(b, "  %5.1f%%  %s port %d\n", backend.Percent, backend.Service, backend.Port)
		for i, e := range backend.Endpoints {
			if i == maxEndpoints {
				fmt.Fprintf(b, "            and %d more\n", len(backend.Endpoints)-i)
				break
			}
			fmt.Fprintf(b, "            %s", e.Address)
			if e.Pod != "" {
				fmt.Fprintf(b, " pod %s", e.Pod)
			}
			if e.Node != "" {
				fmt.Fprintf(b, " on %s", e.Node)
			}
			fmt.Fprintf(b, " runs as %s\n", e.Workload)
		}
		if len(backend.Endpoints) == 0 {
			b.WriteString("            no ready endpoint\n")
		}
	}
}

// maxEndpoints is how many endpoints of a backend are written.
const maxEndpoints = 5

func writeDestination(b *strings.Builder, d Destination) {
	verdict := "denied"
	if d.Allow {
		verdict = "allowed"
	}
	fmt.Fprintf(b, "destination %s: %s, access control is %s", d.Workload, verdict, d.Mode)
	switch {
	case d.Rule != "":
		fmt.Fprintf(b, ", by %s", d.Rule)
	case d.Reason != "" && d.Allow:
		fmt.Fprintf(b, "; enforced, it would be denied (%s)", d.Reason)
	case d.Reason != "":
		fmt.Fprintf(b, " (%s)", d.Reason)
	}
	if d.Path != "" {
		fmt.Fprintf(b, ", forwarded as %s", d.Path)
	}
	b.WriteString("\n")
	for _, t := range d.Targets {
		if t.Allow {
			fmt.Fprintf(b, "  TrafficTarget %s allows it\n", t.Name)
		} else {
			fmt.Fprintf(b, "  TrafficTarget %s does not (%s)\n", t.Name, t.Reason)
		}
		for _, r := range t.Rules {
			name := strings.TrimSpace(r.Kind + " " + r.Name + " " + r.Match)
			if r.Fits {
				fmt.Fprintf(b, "    %s fits\n", name)
			} else {
				fmt.Fprintf(b, "    %s does not: %s\n", name, r.Why)
			}
		}
	}
}
