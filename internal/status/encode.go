package status

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	plainLimit = 64 << 10  // larger documents are compressed
	sizeLimit  = 700 << 10 // a ConfigMap holds 1 MiB; the replicas need room, too
	inflated   = 64 << 20  // no document of ours is larger
)

// Compressed ends the key, in binaryData, of a document that is compressed.
const Compressed = ".gz"

// Encode returns the document as the ConfigMap keeps it: compressed if it is large.
func Encode(doc any) (data []byte, compressed bool, err error) {
	data, err = json.Marshal(doc)
	if err != nil {
		return nil, false, fmt.Errorf("encode status: %w", err)
	}
	if len(data) <= plainLimit {
		return data, false, nil
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		return nil, false, fmt.Errorf("compress status: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, false, fmt.Errorf("compress status: %w", err)
	}
	return b.Bytes(), true, nil
}

// EncodeLeader is Encode with as many problems, and then workloads, as there is room for.
func EncodeLeader(l Leader) (data []byte, compressed bool, err error) {
	for {
		data, compressed, err = Encode(l)
		switch {
		case err != nil || len(data) <= sizeLimit || len(l.Problems)+len(l.Direct) == 0:
			return data, compressed, err
		case len(l.Problems) > 0:
			l.Problems = l.Problems[:len(l.Problems)/2]
		default:
			l.Direct = l.Direct[:len(l.Direct)/2]
		}
	}
}

// Decode reads a ConfigMap's data and binaryData. What it does not know it ignores; a document that cannot be read is
// an error.
func Decode(data map[string]string, binary map[string][]byte) (Status, error) {
	var s Status
	for key, text := range data {
		if err := s.add(key, []byte(text)); err != nil {
			return Status{}, err
		}
	}
	for key, packed := range binary {
		key, ok := strings.CutSuffix(key, Compressed)
		if !ok {
			continue
		}
		plain, err := inflate(packed)
		if err != nil {
			return Status{}, fmt.Errorf("uncompress %s: %w", key, err)
		}
		if err := s.add(key, plain); err != nil {
			return Status{}, err
		}
	}
	slices.SortFunc(s.Replicas, func(a, b Replica) int { return strings.Compare(a.Pod, b.Pod) })
	return s, nil
}

func (s *Status) add(key string, doc []byte) error {
	var err error
	switch {
	case key == BypassKey:
		s.Bypass = string(doc) == BypassOn
	case key == LeaderKey:
		err = json.Unmarshal(doc, &s.Leader)
	case strings.HasPrefix(key, ReplicaPrefix):
		var r Replica
		if err = json.Unmarshal(doc, &r); err == nil {
			s.Replicas = append(s.Replicas, r)
		}
	}
	if err != nil {
		return fmt.Errorf("decode %s: %w", key, err)
	}
	return nil
}

func inflate(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, inflated))
}

// cut shortens s to at most n bytes, at a character's border.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n -= len("…"); n > 0 && !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + "…"
}
