package install

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// identityName is the process that certifies identities.
const identityName = "tulle-identity"

// hasSigners is true if the mesh has a CA of its own.
func hasSigners(objects []*unstructured.Unstructured) bool {
	return deploymentOf(objects, identityName) != nil
}

// waitForSigners waits until whoever certifies identities is of this version and does. New proxies come after that: they
// aren't ready without a certificate, and mount what it makes.
func (i *Installer) waitForSigners(ctx context.Context, objects []*unstructured.Unstructured) error {
	if !hasSigners(objects) {
		return nil
	}
	err := i.wait(ctx, identityName, i.deployment(identityName))
	if err != nil {
		return i.diagnose(ctx, "identity", err)
	}
	return nil
}

// Wanted is how many replicas a Deployment is to have.
func Wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// Signers are the replicas of who certifies identities.
type Signers struct {
	Missing   bool  `json:"missing,omitempty"` // there is no Deployment
	Available int32 `json:"available"`
	Wanted    int32 `json:"wanted"`
}

// SignersOf returns those of an installed mesh; nil if it has no CA of its own, or one of a version in which the controllers
// were that.
func SignersOf(ctx context.Context, c *Cluster, namespace string, s Settings) (*Signers, error) {
	if _, older := s["identity-root-life"]; s["identity"] != "tulle" || older {
		return nil, nil
	}
	d, err := c.Kube.AppsV1().Deployments(namespace).Get(ctx, identityName, metav1.GetOptions{})
	if isNotFound(err) {
		return &Signers{Missing: true}, nil
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("get Deployment %s/%s: %w", namespace, identityName, err))
	}
	return &Signers{Available: d.Status.AvailableReplicas, Wanted: Wanted(d)}, nil
}
