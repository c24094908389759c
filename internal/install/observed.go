package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/observed"
)

const (
	proxyAdminPort = 15000
	askProxies     = 16 // at once
	askProxyLimit  = 20 * time.Second
)

// ReadObserved asks all proxies what was called in audit mode: of a destination as observed.To has it, or of all. It reaches
// them as kubectl port-forward does, with the rights of whoever asks. missing says which proxies did not answer, and why;
// if none did, that is the error.
func ReadObserved(ctx context.Context, c *Cluster, namespace, to string) (reports []observed.Report, missing map[string]error, err error) {
	list, err := c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component=proxy"})
	if err != nil {
		return nil, nil, fmt.Errorf("list the proxies: %w", err)
	}
	path := "/observed?to=" + url.QueryEscape(to)
	answers, errs := make([]observed.Report, len(list.Items)), make([]error, len(list.Items))
	var g errgroup.Group
	g.SetLimit(askProxies)
	for i, pod := range list.Items {
		g.Go(func() error {
			answers[i], errs[i] = askObserved(ctx, c, &pod, path)
			return nil
		})
	}
	g.Wait() //nolint:errcheck // errs has them
	missing = map[string]error{}
	for i, pod := range list.Items {
		switch {
		case errors.Is(errs[i], errNotRunning):
		case errs[i] != nil:
			missing[pod.Name] = errs[i]
			err = errs[i]
		default:
			reports = append(reports, answers[i])
		}
	}
	if len(reports) > 0 || len(missing) == 0 {
		err = nil
	}
	return reports, missing, err
}

var errNotRunning = errors.New("the pod does not run")

func askObserved(ctx context.Context, c *Cluster, pod *corev1.Pod, path string) (r observed.Report, err error) {
	if pod.Status.Phase != corev1.PodRunning {
		return r, errNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, askProxyLimit)
	defer cancel()
	data, err := c.PodGet(ctx, pod.Namespace, pod.Name, proxyAdminPort, path)
	if err != nil {
		return r, err
	}
	if err = json.Unmarshal(data, &r); err == nil {
		err = r.Validate()
	}
	if err != nil {
		return r, fmt.Errorf("read what proxy %s observed: %w", pod.Name, err)
	}
	return r, nil
}
