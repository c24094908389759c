package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// eventSource is who says it, in `kubectl describe`.
const eventSource = "tulle-controller"

// ReporterConfig is what a Reporter needs. Client and Pod are required.
type ReporterConfig struct {
	Client kubernetes.Interface // with a rate of its own
	Pod    string
	// Refresh is when the Event of a problem that is still there is written again, as API servers forget Events after an
	// hour. Default 30 min.
	Refresh time.Duration
	// Quiet is the least time between two Events of a problem that comes and goes. Default 10 min.
	Quiet time.Duration
	// Batch is how many Events are written at once. Default 100.
	Batch int
}

// Reporter is a controller.Reporter: it writes Warning Events on the objects that problems are about. It is used by one
// goroutine.
type Reporter struct {
	config ReporterConfig
	told   map[problem.Problem]told
}

type told struct {
	at    time.Time
	count int32
}

// NewReporter makes a Reporter.
func NewReporter(c ReporterConfig) *Reporter {
	c.Refresh, c.Quiet, c.Batch = cmp.Or(c.Refresh, 30*time.Minute), cmp.Or(c.Quiet, 10*time.Minute), cmp.Or(c.Batch, 100)
	return &Reporter{config: c, told: map[problem.Problem]told{}}
}

// Report writes Events of problems that were not told, or long ago. more says that there was not time for all of them.
func (r *Reporter) Report(ctx context.Context, problems []problem.Problem) (more bool, err error) {
	now := time.Now()
	current := make(map[problem.Problem]bool, len(problems))
	var errs []error
	written := 0
	for _, p := range problems {
		current[p] = true
		last, known := r.told[p]
		if known && now.Sub(last.at) < r.config.Refresh {
			continue
		}
		if written == r.config.Batch {
			return true, errors.Join(errs...)
		}
		written++
		next := told{at: now, count: last.count + 1}
		if err := r.write(ctx, p, next); err != nil && ctx.Err() == nil {
			errs = append(errs, fmt.Errorf("write Event of %s: %w", p, err))
			if !isFinal(err) {
				continue
			}
		}
		r.told[p] = next
	}
	maps.DeleteFunc(r.told, func(p problem.Problem, t told) bool { return !current[p] && now.Sub(t.at) >= r.config.Quiet })
	return false, errors.Join(errs...)
}

// isFinal says that there is no use in trying again soon: the object's namespace ends, say.
func isFinal(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) || apierrors.IsBadRequest(err)
}

func (r *Reporter) write(ctx context.Context, p problem.Problem, t told) error {
	e := r.event(p, t)
	events := r.config.Client.CoreV1().Events(e.Namespace)
	if _, err := events.Create(ctx, e, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return err
	}
	// An earlier leader, or this one some time ago, told it, too: the Event counts on.
	patch, err := json.Marshal(map[string]any{"lastTimestamp": e.LastTimestamp, "count": max(e.Count, 2)})
	if err != nil {
		return err
	}
	_, err = events.Patch(ctx, e.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// event is always of the same name for the same problem.
func (r *Reporter) event(p problem.Problem, t told) *corev1.Event {
	o := p.Object
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s", o.APIVersion, o.Kind, o.UID, p.Reason, p.Message))
	namespace := cmp.Or(o.Namespace, metav1.NamespaceDefault)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: o.Name[:min(len(o.Name), 200)] + "." + hex.EncodeToString(h[:8])},
		InvolvedObject: corev1.ObjectReference{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, UID: types.UID(o.UID)},
		Reason:         string(p.Reason), Message: p.Message, Type: corev1.EventTypeWarning,
		Source:         corev1.EventSource{Component: eventSource},
		FirstTimestamp: metav1.NewTime(t.at), LastTimestamp: metav1.NewTime(t.at), Count: t.count,
		ReportingController: eventSource, ReportingInstance: r.config.Pod,
	}
}
