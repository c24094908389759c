package push

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// storeFormat heads the file; another number is another format.
const storeFormat = "tulle-config 1\n"

// ErrNotStored says that there is no stored config.
var ErrNotStored = errors.New("no stored config")

// Store keeps the last good config in a file, for a restart of the proxy's container while no controller answers. It
// holds resources of the types below and nothing else: never a key, never a token.
//
// The file is a line that names the format, a line with the SHA-256 of the rest in hex, and a DeltaDiscoveryResponse
// with the config's version and the resources, sorted.
type Store struct{ Path string }

// storable are the types that may be on disk.
func storable() []string {
	return order()
}

// Save replaces the stored config. A reader sees the old file or the new one, never a part.
func (s *Store) Save(version string, resources []configv1.Resource) error {
	doc := &discovery.DeltaDiscoveryResponse{SystemVersionInfo: version}
	for _, r := range resources {
		if !slices.Contains(storable(), r.Type) {
			continue
		}
		b, err := proto.Marshal(r.Message)
		if err != nil {
			return fmt.Errorf("encode %s: %w", r.Key, err)
		}
		doc.Resources = append(doc.Resources, &discovery.Resource{
			Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.Type, Value: b},
		})
	}
	slices.SortFunc(doc.Resources, func(a, b *discovery.Resource) int { return keyOf(a).Compare(keyOf(b)) })
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode config: %w", err)
	}
	return s.write(body)
}

// write puts the file in place as a whole. It is not synced to disk: it serves restarts of a container, not of a node,
// and a torn file does not pass its checksum.
func (s *Store) write(body []byte) error {
	part := s.Path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	_, err = f.WriteString(storeFormat + hex.EncodeToString(sum[:]) + "\n")
	if err == nil {
		_, err = f.Write(body)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, s.Path)
	}
	return err
}

// Load returns the stored config. It is ErrNotStored if there is none; a file that is not whole and of this format is
// an error, and nothing of it is returned.
func (s *Store) Load() (version string, resources []configv1.Resource, err error) {
	b, err := os.ReadFile(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, ErrNotStored
	}
	if err != nil {
		return "", nil, fmt.Errorf("read stored config: %w", err)
	}
	body, err := verify(b)
	if err != nil {
		return "", nil, fmt.Errorf("stored config %s: %w", s.Path, err)
	}
	var doc discovery.DeltaDiscoveryResponse
	if err := proto.Unmarshal(body, &doc); err != nil {
		return "", nil, fmt.Errorf("decode stored config %s: %w", s.Path, err)
	}
	for _, item := range doc.GetResources() {
		if !slices.Contains(storable(), item.GetResource().GetTypeUrl()) {
			continue
		}
		r, err := decodeResource(keyOf(item), item)
		if err != nil {
			return "", nil, fmt.Errorf("stored config %s: %s: %w", s.Path, keyOf(item), err)
		}
		resources = append(resources, r)
	}
	return doc.GetSystemVersionInfo(), resources, nil
}

// verify checks format and checksum and returns what follows.
func verify(b []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(b, []byte(storeFormat))
	if !ok {
		return nil, errors.New("not in a format that this version knows")
	}
	sum, body, ok := bytes.Cut(rest, []byte("\n"))
	want := sha256.Sum256(body)
	if !ok || string(sum) != hex.EncodeToString(want[:]) {
		return nil, errors.New("damaged: the checksum does not fit")
	}
	return body, nil
}

func keyOf(item *discovery.Resource) configv1.Key {
	return configv1.Key{Type: item.GetResource().GetTypeUrl(), Name: item.GetName()}
}
