package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Diagnosis is why pods of a component are not ready, and what to do about it.
type Diagnosis struct{ Cause, Next string }

// diagnose adds to err why pods of the component are not ready, as far as the cluster says.
func (i *Installer) diagnose(ctx context.Context, component string, err error) error {
	if _, has := errors.AsType[*Error](err); has {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	d := Diagnose(ctx, i.Cluster, i.Namespace, component)
	if d == nil {
		return WithNext(err, "look at the pods: kubectl -n %s describe pods -l app.kubernetes.io/component=%s", i.Namespace, component)
	}
	return WithNext(fmt.Errorf("%w\n%s", err, d.Cause), "%s", d.Next)
}

// Diagnose looks at pods and events of a component; nil if nothing tells.
func Diagnose(ctx context.Context, c *Cluster, namespace, component string) *Diagnosis {
	pods, err := c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component=" + component})
	if err != nil {
		return nil
	}
	events, err := c.Kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		events = &corev1.EventList{}
	}
	for _, p := range pods.Items {
		if podReady(&p) {
			continue
		}
		if d := diagnosePod(&p, events.Items); d != nil {
			return d
		}
	}
	return diagnoseOwner(component, events.Items)
}

func diagnosePod(p *corev1.Pod, events []corev1.Event) *Diagnosis {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			if next := nextForWaiting(w.Reason, p, s.Image); next != "" {
				return &Diagnosis{strings.TrimSuffix(fmt.Sprintf("pod %s: %s: %s", p.Name, w.Reason, cmp.Or(w.Message, s.Image)), ": "), next}
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return &Diagnosis{
				fmt.Sprintf("pod %s can't be scheduled: %s", p.Name, c.Message),
				"make room on the node, or change resources, nodeSelector or tolerations by values",
			}
		}
	}
	if e := lastWarning(events, func(o corev1.ObjectReference) bool { return o.Kind == "Pod" && o.Name == p.Name }); e != nil {
		return &Diagnosis{fmt.Sprintf("pod %s: %s: %s", p.Name, e.Reason, e.Message), nextForEvent(e.Reason, p)}
	}
	return nil
}

func nextForWaiting(reason string, p *corev1.Pod, image string) string {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable":
		return fmt.Sprintf("make the image %s available to the nodes (`tulle images push`), name another with --set controller.image.repository, proxy.image.repository or their tag, or set image.pullSecrets", image)
	case "CrashLoopBackOff", "RunContainerError", "CreateContainerError":
		return fmt.Sprintf("see why it stops: kubectl -n %s logs %s --previous", p.Namespace, p.Name)
	case "CreateContainerConfigError":
		return fmt.Sprintf("see what is missing: kubectl -n %s describe pod %s", p.Namespace, p.Name)
	}
	return ""
}

func nextForEvent(reason string, p *corev1.Pod) string {
	switch reason {
	case "FailedMount":
		return fmt.Sprintf("the controllers and tulle-identity make what the proxies mount: kubectl -n %s logs -l 'app.kubernetes.io/component in (controller, identity)'", p.Namespace)
	case "FailedCreatePodSandBox":
		return "the node's container runtime or network plugin fails: look at the node with `kubectl describe node`"
	}
	return fmt.Sprintf("see its log: kubectl -n %s logs %s", p.Namespace, p.Name)
}

// diagnoseOwner looks for pods that were not even created.
func diagnoseOwner(component string, events []corev1.Event) *Diagnosis {
	e := lastWarning(events, func(o corev1.ObjectReference) bool {
		return (o.Kind == "ReplicaSet" || o.Kind == "DaemonSet") && strings.HasPrefix(o.Name, "tulle-"+component)
	})
	switch {
	case e == nil:
		return nil
	case strings.Contains(e.Message, "PodSecurity"):
		return &Diagnosis{e.Message, "the namespace's PodSecurity level and podSecurityContext don't fit: undo what changed either"}
	case strings.Contains(e.Message, "quota"):
		return &Diagnosis{e.Message, "set criticalPodsQuota=true, which admits the priority classes, or raise the namespace's ResourceQuota"}
	}
	return &Diagnosis{fmt.Sprintf("%s %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Message), "remove what refuses the pods, then run the command again"}
}

func lastWarning(events []corev1.Event, about func(corev1.ObjectReference) bool) *corev1.Event {
	var found []corev1.Event
	for _, e := range events {
		if e.Type == corev1.EventTypeWarning && about(e.InvolvedObject) {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return nil
	}
	last := slices.MaxFunc(found, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	return &last
}
