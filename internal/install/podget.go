package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// PodGet asks a port of a pod for a path by HTTP, through the API server and the pod's kubelet: from inside the pod, so
// that loopback works and NetworkPolicies don't matter.
func (c *Cluster) PodGet(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	if c.Ask != nil {
		return c.Ask(ctx, namespace, pod, port, path)
	}
	conn, err := c.forward(namespace, pod)
	if err != nil {
		return nil, fmt.Errorf("forward a port of pod %s/%s: %w", namespace, pod, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it only ends the reads below
	defer stop()
	body, err := getOver(conn, port, path)
	if err != nil {
		return nil, fmt.Errorf("ask pod %s/%s for :%d%s: %w", namespace, pod, port, path, errors.Join(ctx.Err(), err))
	}
	return body, nil
}

func (c *Cluster) forward(namespace, pod string) (httpstream.Connection, error) {
	url := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialer(url, c.Config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	conn, _, err := portforward.NewFallbackDialer(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}).Dial(portforward.PortForwardProtocolV1Name)
	return conn, err
}

// getOver makes one request over a new stream of a port-forwarding connection.
func getOver(conn httpstream.Connection, port int, path string) ([]byte, error) {
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(port))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	failure, err := conn.CreateStream(header)
	if err != nil {
		return nil, err
	}
	if err := failure.Close(); err != nil { // nothing is written to it
		return nil, err
	}
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	stream, err := conn.CreateStream(header)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(stream, "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n", path, port); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(stream), nil)
	if err != nil {
		// The kubelet says on the other stream why it can't connect.
		if why, _ := io.ReadAll(io.LimitReader(failure, 1<<10)); len(why) > 0 {
			return nil, errors.New(string(why))
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}
