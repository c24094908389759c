package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Exec runs a command in a pod of one container, as `kubectl exec` does. A kubectl for each would cost more CPU than most
// commands do. When ctx ends the command goes on.
func (k Kubectl) Exec(ctx context.Context, namespace, pod string, out, errs io.Writer, args ...string) error {
	config, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig)
	if err != nil {
		return err
	}
	u, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	u = u.JoinPath("api/v1/namespaces", namespace, "pods", pod, "exec")
	u.RawQuery = url.Values{"command": args, "stdout": {"true"}, "stderr": {"true"}}.Encode()
	websocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u) // of clusters before 1.30
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, httpstream.IsUpgradeFailure)
	if err != nil {
		return err
	}
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: errs}); err != nil {
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	return nil
}
