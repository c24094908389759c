package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/status"
)

const (
	controllerName = "tulle-controller"
	dnsName        = kube.DNSWriter
	proxyName      = "tulle-proxy"
	caName         = "tulle-ca"

	validationKind = "ValidatingWebhookConfiguration"
)

// waitUntilItWorks waits until controllers and proxies of this version are ready and mesh names resolve.
func (i *Installer) waitUntilItWorks(ctx context.Context, objects []*unstructured.Unstructured) error {
	if err := i.wait(ctx, "controllers", i.deployment(controllerName)); err != nil {
		return i.diagnose(ctx, "controller", err)
	}
	i.say("controllers available")
	if err := i.waitForSigners(ctx, objects); err != nil {
		return err
	}
	if hasSigners(objects) {
		i.say("identities are certified")
	}
	if err := i.wait(ctx, "proxies", i.proxies); err != nil {
		return i.diagnose(ctx, "proxy", err)
	}
	i.say("proxies ready on every node")
	if hasWebhooks(objects) {
		if err := i.wait(ctx, "the versions of SMI", i.versions); err != nil {
			return WithNext(err, "see why: kubectl -n %s logs -l %s", i.Namespace, selector("controller"))
		}
		i.say("all versions of SMI objects are served")
	}
	if deploymentOf(objects, dnsName) == nil {
		i.say("mesh names don't resolve: dns.mode is off")
		return nil
	}
	if err := i.wait(ctx, "what keeps the cluster's DNS", i.deployment(dnsName)); err != nil {
		return i.diagnose(ctx, "dns", err)
	}
	var last *status.DNS
	err := i.wait(ctx, "DNS", func(ctx context.Context) (string, error) {
		var progress string
		var err error
		last, progress, err = i.dns(ctx)
		return progress, err
	})
	if err != nil {
		return WithNext(err, "%s", nextForDNS(last, i.Namespace))
	}
	if last.State == "print" {
		i.say("dns.mode is print; put this into the cluster's DNS configuration:\n%s", last.Message)
		return nil
	}
	i.say("mesh names resolve (%s)", last.Object)
	return nil
}

// wait polls until check says nothing is missing. It prints what is missing whenever that changes. An error of check
// ends the wait; one of the API server is tried again until the timeout.
func (i *Installer) wait(ctx context.Context, what string, check func(context.Context) (missing string, err error)) error {
	timeout := cmp.Or(i.Timeout, 5*time.Minute)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(cmp.Or(i.Poll, 500*time.Millisecond))
	defer tick.Stop()
	for said := ""; ; {
		missing, err := check(limited)
		var final *Error
		switch {
		case limited.Err() != nil: // whatever it says is about that
			missing = ""
		case errors.As(err, &final):
			return err
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			missing = err.Error()
		case missing == "" && err == nil:
			return nil
		}
		if missing != said && missing != "" {
			i.say("waiting for %s: %s", what, missing)
			said = missing
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return WithNext(fmt.Errorf("interrupted while waiting for %s (%s)", what, cmp.Or(said, "not looked yet")),
					"what is applied stays; run the command again to go on")
			}
			return fmt.Errorf("%s not ready after %s: %s", what, timeout, cmp.Or(said, "no answer from the API server"))
		}
	}
}

// deployment says what is missing until all pods of a Deployment are of this version and available.
func (i *Installer) deployment(name string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		d, err := i.Cluster.Kube.AppsV1().Deployments(i.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		want, s := Wanted(d), d.Status
		if s.ObservedGeneration >= d.Generation && s.UpdatedReplicas >= want && s.AvailableReplicas >= want && s.Replicas == s.UpdatedReplicas {
			return "", nil
		}
		return fmt.Sprintf("%d of %d are available, %d of this version", s.AvailableReplicas, want, s.UpdatedReplicas), nil
	}
}

func (i *Installer) proxies(ctx context.Context) (string, error) {
	d, err := i.Cluster.Kube.AppsV1().DaemonSets(i.Namespace).Get(ctx, proxyName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return missingProxies(d), nil
}

func missingProxies(d *appsv1.DaemonSet) string {
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return "the cluster hasn't looked at the new DaemonSet yet"
	case s.DesiredNumberScheduled == 0:
		return "no node takes one: proxy.nodeSelector fits none"
	case s.UpdatedNumberScheduled >= s.DesiredNumberScheduled && s.NumberAvailable >= s.DesiredNumberScheduled:
		return ""
	}
	return fmt.Sprintf("%d of %d are ready, %d of this version", s.NumberAvailable, s.DesiredNumberScheduled, s.UpdatedNumberScheduled)
}

// waitForCA waits for the ConfigMap that the controllers make at their first start.
func (i *Installer) waitForCA(ctx context.Context) error {
	err := i.wait(ctx, "the first controller", func(ctx context.Context) (string, error) {
		_, err := i.Cluster.Kube.CoreV1().ConfigMaps(i.Namespace).Get(ctx, caName, metav1.GetOptions{})
		if isNotFound(err) {
			return "it has not made ConfigMap " + caName + " yet", nil
		}
		return "", err
	})
	if err != nil {
		return i.diagnose(ctx, "controller", err)
	}
	return nil
}

// dns says what is missing until mesh names resolve, as the leading controller passes it on. What an earlier leader wrote
// doesn't count, nor what pods of an earlier version found.
func (i *Installer) dns(ctx context.Context) (*status.DNS, string, error) {
	s, err := ReadStatus(ctx, i.Cluster, i.Namespace)
	switch {
	case err != nil:
		return nil, "", err
	case s == nil:
		return nil, "the controllers have not reported yet", nil
	}
	if stays, err := i.stays(ctx, s.Leader.Pod); err != nil || !stays {
		return nil, "a new controller has not taken the lead yet", err
	}
	d := s.Leader.DNS
	if d == nil || d.Writer == "" {
		return nil, "nobody has looked at it yet", nil
	}
	if stays, err := i.stays(ctx, d.Writer); err != nil || !stays {
		return nil, "who looked at it last is gone", err
	}
	switch d.State {
	case "ok", "print":
		return d, "", nil
	case "refused", "unsupported", "fighting":
		return d, "", WithNext(fmt.Errorf("DNS is %s: %s", d.State, d.Message), "%s", nextForDNS(d, i.Namespace))
	}
	return d, cmp.Or(d.Message, d.State), nil
}

// stays says whether there is such a pod and it is not about to go.
func (i *Installer) stays(ctx context.Context, pod string) (bool, error) {
	p, err := i.Cluster.Kube.CoreV1().Pods(i.Namespace).Get(ctx, pod, metav1.GetOptions{})
	if isNotFound(err) {
		return false, nil
	}
	return err == nil && p.DeletionTimestamp == nil, err
}

func nextForDNS(d *status.DNS, namespace string) string {
	switch {
	case d == nil:
		return fmt.Sprintf("look at the logs: kubectl -n %s logs -l 'app.kubernetes.io/component in (controller,dns)'", namespace)
	case d.State == "unsupported":
		return "see docs/dns.md for what this kind of DNS needs, or set dns.mode=off"
	case d.State == "fighting":
		return "stop whoever puts the DNS configuration back (an add-on manager, GitOps), or set dns.mode=print and put the block into its source"
	case d.State == "restart":
		return "restart the cluster's DNS as the message says, or let the mesh do it: --set dns.restart=true"
	case d.State == "reverted", d.State == "unserved":
		return "look at the logs of the cluster's DNS pods that the message names"
	case d.State == "refused":
		return "choose another zone with --set zones={...}, or list the ConfigMap in dns.configMaps"
	}
	return "`tulle check` shows the state of DNS; the cluster's DNS pods may need up to two minutes to read a change"
}

// ReadStatus reads what the controllers wrote down, nil if they have not yet.
func ReadStatus(ctx context.Context, c *Cluster, namespace string) (*status.Status, error) {
	cm, err := c.Kube.CoreV1().ConfigMaps(namespace).Get(ctx, status.ConfigMap, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get ConfigMap %s/%s: %w", namespace, status.ConfigMap, err)
	}
	s, err := status.Decode(cm.Data, cm.BinaryData)
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", namespace, status.ConfigMap, err)
	}
	if s.Leader.Pod == "" && len(s.Replicas) == 0 {
		return nil, nil // it holds the kill switch only
	}
	return &s, nil
}

// hasWebhooks is true if the API server is to ask the controllers.
func hasWebhooks(objects []*unstructured.Unstructured) bool {
	return slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == validationKind })
}

// podReady is true if the pod is ready and stays.
func podReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
