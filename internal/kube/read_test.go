package kube

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
)

const readable = `
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: web}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: secret, name: vault}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web-1}, spec: {serviceAccountName: web}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {tulle.dev/access: enforce}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {namespace: shop, name: ok}, spec: {destination: {kind: ServiceAccount, name: web}, rules: [{kind: TCPRoute, name: r}], sources: [{kind: ServiceAccount, name: c}]}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {namespace: shop, name: bad}, spec: {}}
`

// What somebody may not read is left out, and named. Where only all namespaces together are refused, those that the
// question is about are read one by one.
func TestReadWithTheRightsOfWhoAsks(t *testing.T) {
	for _, tc := range []struct{ name, refused, want string }{
		{"everything", "", "services [web vault], pods [web-1], namespaces [shop=enforce], nodes 1, targets [ok], problems 1, hidden []"},
		{"one namespace", "cluster", "services [web], pods [web-1], namespaces [shop=enforce], nodes 0, targets [ok], problems 1, hidden [nodes]"},
		{"nothing", "all", "services [], pods [], namespaces [], nodes 0, targets [], problems 0, hidden [services in shop endpointslices in shop pods in shop serviceaccounts in shop namespaces in shop nodes trafficsplits in shop httproutegroups in shop tcproutes in shop traffictargets in shop]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := fakeapi.New(t)
			for _, o := range fakeapi.Parse(readable) {
				api.Put(o)
			}
			api.Refuse = func(_, resource, namespace, name string) *apierrors.StatusError {
				if tc.refused == "all" || tc.refused == "cluster" && namespace == "" && name == "" {
					return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", fmt.Errorf("not you"))
				}
				return nil
			}
			r := reader(t, api.URL)
			s, hidden, err := r.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var services, pods, namespaces, targets []string
			for _, o := range s.Resources.Services {
				services = append([]string{o.Name}, services...)
			}
			for _, o := range s.Resources.Pods {
				pods = append(pods, o.Name)
			}
			for _, o := range s.Resources.Namespaces {
				namespaces = append(namespaces, o.Name+"="+o.Labels["tulle.dev/access"])
			}
			for _, o := range s.Resources.SMI.TrafficTargets {
				targets = append(targets, o.Ref.Name)
			}
			got := fmt.Sprintf("services %v, pods %v, namespaces %v, nodes %d, targets %v, problems %d, hidden %v",
				services, pods, namespaces, len(s.Resources.Nodes), targets, len(s.Resources.Undecodable), hidden)
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// A failure that is no want of rights is no answer.
func TestReadFails(t *testing.T) {
	api := fakeapi.New(t)
	api.Refuse = func(_, resource, _, _ string) *apierrors.StatusError {
		if resource == "pods" {
			return apierrors.NewGenericServerResponse(http.StatusInternalServerError, "list", schema.GroupResource{}, "", "broken", 0, true)
		}
		return nil
	}
	r := reader(t, api.URL)
	if _, _, err := r.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "list pods: ") {
		t.Errorf("got %v", err)
	}
}

func reader(t *testing.T, url string) *Reader {
	t.Helper()
	config := &rest.Config{Host: url, QPS: 1000, Burst: 1000}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Reader{Client: client, Dynamic: dyn, Namespaces: []string{"shop"}}
}
