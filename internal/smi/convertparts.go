package smi

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
)

// backends returns the backends of a split that may be changed, each nil if it is no object.
func (c conversion) backends() []map[string]any {
	spec := c.own("spec")
	return conversion{spec}.objects("backends")
}

// objects returns the elements of a list that may be changed, each nil if it is no object.
func (c conversion) objects(field string) []map[string]any {
	list, ok := c.content[field].([]any)
	if !ok {
		return nil
	}
	list = slices.Clone(list)
	c.content[field] = list
	out := make([]map[string]any, len(list))
	for i, e := range list {
		if m, ok := e.(map[string]any); ok {
			out[i] = maps.Clone(m)
			list[i] = out[i]
		}
	}
	return out
}

// weightsUp makes whole numbers of the quantities of v1alpha1, and keeps how they were written.
func (c conversion) weightsUp() {
	c.take(OlderAnnotation)
	var written []any
	plain := true
	for _, b := range c.backends() {
		raw := b["weight"]
		written = append(written, raw)
		if w, err := thousandths(raw); err == nil {
			b["weight"] = w
			plain = plain && raw == quantityOf(w)
		} else if _, err := wholeNumber(raw); err == nil {
			// Too large for a number of thousandths, which it must not become by itself.
			b["weight"] = fmt.Sprint(raw)
			plain = false
		}
	}
	if !plain {
		c.keep(OlderAnnotation, map[string]any{"weights": written})
	}
}

// weightsDown makes quantities of whole numbers: as they were written, if they still mean the same.
func (c conversion) weightsDown() {
	written, _ := c.take(OlderAnnotation)["weights"].([]any)
	for i, b := range c.backends() {
		w, err := wholeNumber(b["weight"])
		var was any
		if i < len(written) {
			was = written[i]
		}
		meant, wrong := thousandths(was)
		switch {
		case err == nil && wrong == nil && meant == w, err != nil && wrong != nil && fmt.Sprint(was) == b["weight"]:
			b["weight"] = was
		case err == nil:
			b["weight"] = quantityOf(w)
		}
	}
}

// quantityOf is a number of thousandths as people write it: 1000 is 1, 500 is 500m.
func quantityOf(w int64) any { return resource.NewMilliQuantity(w, resource.DecimalSI).String() }

// headersDown takes the headers out of matches: v1alpha1 has none. They are kept by the match's name, and its place
// among matches of that name, so that they survive a change of other matches.
func (c conversion) headersDown(kept map[string]any) {
	var headers []any
	seen := map[string]int64{}
	for _, m := range c.objects("matches") {
		name := nameOf(m)
		seen[name]++
		if h, has := m["headers"]; has {
			delete(m, "headers")
			headers = append(headers, map[string]any{"match": name, "number": seen[name], "headers": h})
		}
	}
	if headers != nil {
		kept["headers"] = headers
	}
}

// headersUp gives matches their headers back.
func (c conversion) headersUp(kept any) {
	type place struct {
		name   string
		number int64
	}
	headers := map[place]any{}
	list, _ := kept.([]any)
	for _, e := range list {
		h, _ := e.(map[string]any)
		name, _ := h["match"].(string)
		number, _ := h["number"].(int64)
		headers[place{name, number}] = h["headers"]
	}
	seen := map[string]int64{}
	for _, m := range c.objects("matches") {
		name := nameOf(m)
		seen[name]++
		h, has := headers[place{name, seen[name]}]
		if _, taken := m["headers"]; has && m != nil && !taken {
			m["headers"] = h
		}
	}
}

func nameOf(match map[string]any) string {
	name, _ := match["name"].(string)
	return name
}
