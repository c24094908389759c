package kube

import (
	"cmp"
	"fmt"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ClientsConfig says how to reach the API server.
type ClientsConfig struct {
	Kubeconfig string // a file; "" = the pod's own ServiceAccount
	UserAgent  string
	WriteQPS   float32 // of mesh addresses; default 200
	WriteBurst int     // default 400
}

// Clients are the controller's clients. Each has a rate of its own, so that one thing never waits for another: a Lease
// that is renewed late because 5,000 slices are written would be lost.
type Clients struct {
	Read     kubernetes.Interface // watches, tokens, the Lease and the state
	Write    kubernetes.Interface // mesh addresses
	Events   kubernetes.Interface
	DNS      kubernetes.Interface
	Policies kubernetes.Interface // NetworkPolicies
	Dynamic  dynamic.Interface
}

// NewClients makes the clients. Nothing is asked of the API server yet.
func NewClients(c ClientsConfig) (*Clients, error) {
	base, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	base.UserAgent = c.UserAgent
	out := &Clients{}
	for _, k := range []struct {
		client  *kubernetes.Interface
		qps     float32
		burst   int
		timeout time.Duration // of a request; watches have none
	}{
		{&out.Read, 50, 200, 0},
		{&out.Write, cmp.Or(c.WriteQPS, 200), cmp.Or(c.WriteBurst, 400), 15 * time.Second},
		{&out.Events, 50, 100, 15 * time.Second},
		{&out.DNS, 20, 40, 0},
		{&out.Policies, 50, 100, 15 * time.Second},
	} {
		config := rest.CopyConfig(base)
		config.QPS, config.Burst, config.Timeout = k.qps, k.burst, k.timeout
		config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("make a client: %w", err)
		}
		*k.client = client
	}
	config := rest.CopyConfig(base)
	config.QPS, config.Burst = 20, 40
	if out.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return out, nil
}
