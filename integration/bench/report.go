//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// outcome is what came of a scenario.
type outcome struct {
	scenario

	targets []*target
	rows    [][]string // of a table that is not about targets; the first one is its head
}

// table is the outcome for people.
func (o *outcome) table() [][]string {
	if o.rows != nil {
		return o.rows
	}
	base := o.targets[0]
	rows := [][]string{{"", "CPU per request", "in the kernel", "ratio to " + base.name, "requests/s", "p50", "p99", "memory"}}
	for _, t := range o.targets {
		row := []string{t.name, "", "", "", fmt.Sprintf("%.0f", median(t.results, func(r result) float64 { return r.rate }))}
		if t.pid != 0 {
			row[1] = micros(median(t.results, func(r result) time.Duration { return r.cpu }))
			row[2] = micros(median(t.results, func(r result) time.Duration { return r.kernel }))
			row[3] = ratio(base, t)
		}
		row = append(row, micros(median(t.results, func(r result) time.Duration { return r.p50 })), micros(median(t.results, func(r result) time.Duration { return r.p99 })), "")
		if t.memory > 0 && t.pid != 0 {
			row[7] = mebibytes(t.memory)
		}
		rows = append(rows, row)
	}
	return rows
}

// ratio is the median of the rounds' ratios of CPU per request, with the least and the greatest.
func ratio(base, t *target) string {
	var all []float64
	for i, r := range t.results {
		all = append(all, float64(r.cpu)/float64(base.results[i].cpu))
	}
	slices.Sort(all)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", all[len(all)/2], all[0], all[len(all)-1])
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d)/1e3) }

func median[T ~int64 | ~float64](results []result, of func(result) T) T {
	var list []T
	for _, r := range results {
		list = append(list, of(r))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

func (o *outcome) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s: %s\n", o.name, o.title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range o.table() {
		fmt.Fprintln(w, strings.Join(row, "\t")+"\t")
	}
	_ = w.Flush() // the terminal's trouble
}

func (o *outcome) markdown(out io.Writer) {
	fmt.Fprintf(out, "%s%s\n\n`%s`, %s\n\n", heading, strings.ToUpper(o.title[:1])+o.title[1:], o.name, time.Now().UTC().Format(time.DateOnly))
	for i, row := range o.table() {
		fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(out, "|---|"+strings.Repeat("--:|", len(row)-1))
		}
	}
	fmt.Fprintln(out)
	if o.rows == nil {
		fmt.Fprintf(out, "![%s](performance/%s.svg)\n\n", o.title, o.name)
	}
}

// The results stand between the outer ones of these in the page, each under a heading.
const (
	opening = "<!-- results: written by make bench -->\n"
	heading = "### "
	closing = "<!-- end of results -->\n"
)

// write replaces results in a page, and the plots in the folder of its name. What was not measured now stays, if it was
// measured on this machine.
func write(page string, done []*outcome) error {
	old, err := os.ReadFile(page) //nolint:gosec // as told
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), opening)
	results, after, also := strings.Cut(rest, closing)
	if !found || !also {
		return fmt.Errorf("%s has no place for results", page)
	}
	dir := strings.TrimSuffix(page, ".md")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // documents
		return err
	}
	on := machine()
	sections := map[string]string{}
	if was, list, found := strings.Cut(results, heading); found && strings.TrimSpace(was) == on {
		for text := range strings.SplitSeq(list, "\n"+heading) {
			_, name, _ := strings.Cut(text, "`")
			name, _, _ = strings.Cut(name, "`")
			sections[name] = heading + strings.TrimSpace(text) + "\n"
		}
	}
	for _, o := range done {
		var b strings.Builder
		o.markdown(&b)
		sections[o.name] = strings.TrimSpace(b.String()) + "\n"
		if o.rows != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, o.name+".svg"), o.plot(), 0o644); err != nil { //nolint:gosec // documents
			return err
		}
	}
	var all []string
	for _, name := range names() {
		if sections[name] != "" {
			all = append(all, sections[name])
		}
	}
	text := before + opening + on + "\n\n" + strings.Join(all, "\n") + "\n" + closing + after
	return os.WriteFile(page, []byte(text), 0o644) //nolint:gosec // documents
}

// names are all that can be measured, in order.
func names() (out []string) {
	for _, s := range scenarios {
		out = append(out, s.name)
	}
	for _, o := range others {
		out = append(out, o.name)
	}
	return out
}

// machine says on what the results were got.
func machine() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cores (%s), %s", runtime.NumCPU(), model(), runtime.Version())
	for _, c := range [][]string{{"uname", "-sr"}, {"nginx", "-v"}, {"haproxy", "-v"}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err == nil { //nolint:gosec,noctx // as above
			line, _, _ := strings.Cut(string(out), "\n")
			line, _, _ = strings.Cut(line, " 20") // HAProxy's date
			b.WriteString(", " + strings.TrimPrefix(line, "nginx version: "))
		}
	}
	return b.String()
}

func model() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, found := strings.Cut(s.Text(), ":"); found && strings.HasPrefix(name, "model name") {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
