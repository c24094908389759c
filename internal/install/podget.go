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
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// PodDial opens a TCP connection to a port of a pod, through the API server and the pod's kubelet: from inside the pod, so
// that loopback works and NetworkPolicies don't matter. It is closed when ctx ends.
func (c *Cluster) PodDial(ctx context.Context, namespace, pod string, port int) (io.ReadWriteCloser, error) {
	conn, err := c.forward(namespace, pod)
	if err != nil {
		return nil, fmt.Errorf("forward a port of pod %s/%s: %w", namespace, pod, err)
	}
	s := &podStream{conn: conn}
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	if err := s.open(port); err != nil {
		s.Close()
		return nil, fmt.Errorf("forward port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	return s, nil
}

// PodGet asks a port of a pod for a path by HTTP, over PodDial.
func (c *Cluster) PodGet(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	if c.Ask != nil {
		return c.Ask(ctx, namespace, pod, port, path)
	}
	conn, err := c.PodDial(ctx, namespace, pod, port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	body, err := getOver(conn, port, path)
	if err != nil {
		return nil, fmt.Errorf("ask pod %s/%s for :%d%s: %w", namespace, pod, port, path, errors.Join(ctx.Err(), err))
	}
	return body, nil
}

func getOver(conn io.ReadWriter, port int, path string) ([]byte, error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n", path, port); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}

// podStream is one connection to a pod's port over a port-forwarding connection of its own.
type podStream struct {
	conn          httpstream.Connection
	data, failure httpstream.Stream
	stop          func() bool
}

func (s *podStream) open(port int) error {
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(port))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	var err error
	if s.failure, err = s.conn.CreateStream(header); err != nil {
		return err
	}
	if err := s.failure.Close(); err != nil { // nothing is written to it
		return err
	}
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	s.data, err = s.conn.CreateStream(header)
	return err
}

func (s *podStream) Read(p []byte) (int, error) {
	n, err := s.data.Read(p)
	if n == 0 && err != nil {
		// The kubelet says on the other stream why it can't connect.
		if why, _ := io.ReadAll(io.LimitReader(s.failure, 1<<10)); len(why) > 0 {
			return 0, errors.New(string(why))
		}
	}
	return n, err
}

func (s *podStream) Write(p []byte) (int, error) { return s.data.Write(p) }

func (s *podStream) Close() error {
	s.stop()
	return s.conn.Close()
}

func (c *Cluster) forward(namespace, pod string) (httpstream.Connection, error) {
	url := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, c.Config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	conn, _, err := portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}).Dial(portforward.PortForwardProtocolV1Name)
	return conn, err
}
