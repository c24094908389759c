package corefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// member is one member of a JSON object, by its place in the text.
type member struct {
	name       string
	start, end int // of "name": value
}

// members finds the members of the JSON object that text is, and the offset after its opening brace.
func members(text string) (list []member, open int, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	t, err := d.Token()
	if err != nil || t != json.Delim('{') {
		return nil, 0, errors.Join(fmt.Errorf("stubDomains is not a JSON object"), err)
	}
	open = int(d.InputOffset())
	for d.More() {
		before := int(d.InputOffset())
		t, err := d.Token()
		if err != nil {
			return nil, 0, fmt.Errorf("stubDomains: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, 0, fmt.Errorf("stubDomains: %w", err)
		}
		name, _ := t.(string)
		start := before + strings.IndexByte(text[before:], '"')
		list = append(list, member{name: name, start: start, end: int(d.InputOffset())})
	}
	if _, err := d.Token(); err != nil {
		return nil, 0, fmt.Errorf("stubDomains: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("stubDomains: something follows the JSON object")
	}
	return list, open, nil
}

// patchStubDomains sets the zones' members in the text and leaves the rest as it is written. owned are the members that
// are the mesh's already.
func (b Block) patchStubDomains(text string, owned []string) (string, error) {
	if strings.TrimSpace(text) == "" {
		text = "{}"
	}
	text, err := unpatchStubDomains(text, owned)
	if err != nil {
		return "", err
	}
	list, open, err := members(text)
	if err != nil {
		return "", err
	}
	for _, zone := range b.Zones {
		for _, m := range list {
			if within(normalZone(m.name), zone) {
				return "", &TakenError{Zone: zone, Where: fmt.Sprintf("stub domain %q", m.name)}
			}
		}
	}
	to, err := json.Marshal(b.Servers)
	if err != nil {
		return "", fmt.Errorf("encode servers: %w", err)
	}
	var add bytes.Buffer
	for i, zone := range b.Zones {
		fmt.Fprintf(&add, "%q: %s", zone, to)
		if i < len(b.Zones)-1 || len(list) > 0 {
			add.WriteString(", ")
		}
	}
	return text[:open] + add.String() + text[open:], nil
}

// unpatchStubDomains takes the owned members out, with the comma and the space that came with them.
func unpatchStubDomains(text string, owned []string) (string, error) {
	for {
		list, _, err := members(text)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(list, func(m member) bool { return slices.Contains(owned, m.name) })
		if i < 0 {
			return text, nil
		}
		from, to := list[i].start, list[i].end
		switch {
		case i < len(list)-1:
			to += strings.IndexByte(text[to:], ',') + 1
			if text[to] == ' ' {
				to++
			}
		case i > 0:
			from = list[i-1].end
		}
		text = text[:from] + text[to:]
	}
}
