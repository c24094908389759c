// Package configv1 is the contract between the controller and the proxies: protobuf messages, one resource for each thing
// that changes by itself, and what names and compares them.
package configv1

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// TypePrefix precedes a message's full name in a type URL.
const TypePrefix = "type.googleapis.com/"

// The type URLs of the resources.
const (
	MeshType      = TypePrefix + "tulle.config.v1.Mesh"
	PolicyType    = TypePrefix + "tulle.config.v1.Policy"
	EndpointsType = TypePrefix + "tulle.config.v1.Endpoints"
	ServiceType   = TypePrefix + "tulle.config.v1.Service"
	ProxyType     = TypePrefix + "tulle.config.v1.Proxy"

	TrustBundleType = TypePrefix + "tulle.config.v1.TrustBundle"
	NodeProxiesType = TypePrefix + "tulle.config.v1.NodeProxies"
)

// TypeURL returns the type URL of m.
func TypeURL(m proto.Message) string {
	return TypePrefix + string(m.ProtoReflect().Descriptor().FullName())
}

// Key names a resource.
type Key struct {
	Type string // type URL
	Name string // "mesh", "namespace/name" or a proxy pod's name
}

func (k Key) String() string { return k.Type[len(TypePrefix):] + " " + k.Name }

// Compare orders keys by type, then name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Type, o.Type), cmp.Compare(k.Name, o.Name))
}

// Resource is one message with its name and content hash. It is immutable once made.
type Resource struct {
	Key
	Version string // hex content hash; equal versions mean equal content
	Message proto.Message
}

// NewResource makes a Resource of m, with the hash of its deterministic encoding as version.
func NewResource(name string, m proto.Message) (Resource, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return Resource{}, fmt.Errorf("encode %s %q: %w", m.ProtoReflect().Descriptor().FullName(), name, err)
	}
	h := sha256.Sum256(b)
	return Resource{Key: Key{Type: TypeURL(m), Name: name}, Version: hex.EncodeToString(h[:8]), Message: m}, nil
}

// Update is what changed since the last one that an Applier was given.
type Update struct {
	Set     []Resource
	Removed []Key
}

// Refusal is one resource that an Applier could not use; the others of the update are in use, and what the resource
// was before stays in use.
type Refusal struct {
	Key
	Version string
	Reason  string
	// BusyPort is the target port that could not be bound, 0 if that was not the reason.
	BusyPort uint32
	BusyUDP  bool
}
