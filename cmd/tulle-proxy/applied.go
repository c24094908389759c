//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/push"
)

// applied passes config on and remembers what is in use, for people who ask. It holds no secrets: none are sent.
type applied struct {
	next push.Applier

	mu  sync.Mutex
	all map[configv1.Key]configv1.Resource
}

func newApplied(next push.Applier) *applied {
	return &applied{next: next, all: map[configv1.Key]configv1.Resource{}}
}

// Apply implements push.Applier.
func (a *applied) Apply(u configv1.Update) []configv1.Refusal {
	refusals := a.next.Apply(u)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range u.Removed {
		delete(a.all, k)
	}
	for _, r := range u.Set {
		if !slices.ContainsFunc(refusals, func(f configv1.Refusal) bool { return f.Key == r.Key }) {
			a.all[r.Key] = r
		}
	}
	return refusals
}

// write writes the config as a JSON object of kind and name, sorted.
func (a *applied) write(out io.Writer) error {
	a.mu.Lock()
	all := slices.SortedFunc(maps.Values(a.all), func(x, y configv1.Resource) int { return x.Compare(y.Key) })
	a.mu.Unlock()
	type entry struct {
		Kind    string          `json:"kind"`
		Name    string          `json:"name"`
		Version string          `json:"version"`
		Config  json.RawMessage `json:"config"`
	}
	entries := make([]entry, 0, len(all))
	for _, r := range all {
		b, err := protojson.Marshal(r.Message)
		if err != nil {
			return fmt.Errorf("encode %s: %w", r.Key, err)
		}
		kind := string(r.Message.ProtoReflect().Descriptor().Name())
		entries = append(entries, entry{kind, r.Name, r.Version, b})
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(entries)
}
