//go:build linux

package main

import (
	"bytes"
	"fmt"
	"time"
)

// plot draws the outcome as bars: the CPU per request, or the latencies.
func (o *outcome) plot() []byte {
	type bar struct {
		label  string
		values []time.Duration
	}
	names, colours := []string{"CPU per request"}, []string{"#3b7dd8", "#9fc1ee"}
	if o.latency {
		names = []string{"p50", "p99"}
	}
	var bars []bar
	longest := time.Duration(1)
	for _, t := range o.targets {
		b := bar{label: t.name}
		switch {
		case o.latency:
			b.values = []time.Duration{
				median(t.results, func(r result) time.Duration { return r.p50 }),
				median(t.results, func(r result) time.Duration { return r.p99 }),
			}
		case t.pid != 0:
			b.values = []time.Duration{median(t.results, func(r result) time.Duration { return r.cpu })}
		default:
			continue
		}
		for _, v := range b.values {
			longest = max(longest, v)
		}
		bars = append(bars, b)
	}
	const row, left, width = 22, 110, 420
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", left+width+90, (len(bars)*len(names)+1)*row+8)
	for i, name := range names {
		fmt.Fprintf(&b, `<rect x="%d" y="6" width="10" height="10" fill="%s"/><text x="%d" y="15" fill="#888">%s</text>`+"\n", left+i*60, colours[i], left+i*60+14, name)
	}
	for i, one := range bars {
		for j, v := range one.values {
			y := row + (i*len(names)+j)*row
			if j == 0 {
				fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#888">%s</text>`+"\n", left-8, y+15, one.label)
			}
			long := float64(v) / float64(longest) * width
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" fill="#888">%s</text>`+"\n",
				left, y+2, long, row-6, colours[j], left+long+6, y+14, micros(v))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
