package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// rawCodec carries byte slices as they are, so that no service has to be generated.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "raw" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}

// grpcEcho sends back every message of a stream. "fail" ends it with an error, "header" and "trailer" are told in
// metadata.
func grpcEcho(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		if md.Get("refuse-me") != nil {
			return status.Error(codes.PermissionDenied, "as you wish")
		}
		stream.SetTrailer(metadata.Pairs("end", "yes"))
		for {
			var m []byte
			err := stream.RecvMsg(&m)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if string(m) == "fail" {
				return status.Error(codes.DataLoss, "no")
			}
			if err := stream.SendMsg(&m); err != nil {
				return err
			}
		}
	}))
	go func() { _ = s.Serve(l) }() // until Stop
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func dialGRPC(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestGRPC runs with the scheme that a service should have, and with the one that it has when nobody said anything.
func TestGRPC(t *testing.T) {
	m := start(t)
	for _, scheme := range []configv1.Scheme{configv1.Scheme_SCHEME_H2C, configv1.Scheme_SCHEME_UNSPECIFIED} {
		front := m.serveScheme("echo", scheme, grpcEcho(t))
		t.Run(scheme.String(), func(t *testing.T) {
			c := dialGRPC(t, front)
			t.Run("unary", func(t *testing.T) { grpcUnary(t, c) })
			t.Run("bidi", func(t *testing.T) { grpcBidi(t, c) })
			t.Run("error", func(t *testing.T) { grpcError(t, c) })
			t.Run("trailers only", func(t *testing.T) { grpcTrailersOnly(t, c) })
			t.Run("deadline", func(t *testing.T) { grpcDeadline(t, c) })
		})
	}
}

func grpcUnary(t *testing.T, c *grpc.ClientConn) {
	in, out := []byte("hello"), []byte(nil)
	var trailer metadata.MD
	if err := c.Invoke(t.Context(), "/echo.Echo/Say", &in, &out, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if string(out) != "hello" || len(trailer.Get("end")) != 1 {
		t.Errorf("answer %q, trailers %v", out, trailer)
	}
}

var bidi = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

func grpcBidi(t *testing.T, c *grpc.ClientConn) {
	s, err := c.NewStream(t.Context(), bidi, "/echo.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", string(make([]byte, 300<<10)), ""} {
		in, out := []byte(word), []byte(nil)
		if err := s.SendMsg(&in); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&out); err != nil || string(out) != word {
			t.Fatalf("%d bytes came back as %d, %v", len(word), len(out), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var rest []byte
	if err := s.RecvMsg(&rest); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func grpcError(t *testing.T, c *grpc.ClientConn) {
	in, out := []byte("fail"), []byte(nil)
	err := c.Invoke(t.Context(), "/echo.Echo/Say", &in, &out)
	if s := status.Convert(err); s.Code() != codes.DataLoss || s.Message() != "no" {
		t.Errorf("%v", err)
	}
}

func grpcTrailersOnly(t *testing.T, c *grpc.ClientConn) {
	in, out := []byte("x"), []byte(nil)
	err := c.Invoke(metadata.AppendToOutgoingContext(t.Context(), "refuse-me", "1"), "/echo.Echo/Say", &in, &out)
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "as you wish" {
		t.Errorf("%v", err)
	}
}

func grpcDeadline(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s, err := c.NewStream(ctx, bidi, "/echo.Echo/Talk")
	var never []byte
	if err == nil {
		err = s.RecvMsg(&never)
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
}

func TestRefusalsOfGRPC(t *testing.T) {
	m := start(t)
	c := dialGRPC(t, m.serveScheme("echo", configv1.Scheme_SCHEME_H2C, unused(t)))
	in, out := []byte("x"), []byte(nil)
	var header metadata.MD
	err := c.Invoke(t.Context(), "/echo.Echo/Say", &in, &out, grpc.Header(&header))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("connect failed: %v", err)
	}
	m.set("shop/echo", endpoints("echo", httpPort, 80))
	err = c.Invoke(t.Context(), "/echo.Echo/Say", &in, &out)
	if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != "tulle: the chosen backend has no ready endpoint" {
		t.Errorf("no endpoint: %v", err)
	}
}

// A backend that dies in the middle of a stream looks to the client as it does without the mesh.
func TestGRPCBackendDiesInAStream(t *testing.T) {
	m := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		m := []byte("hi")
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}))
	go func() { _ = s.Serve(l) }() // until Stop
	t.Cleanup(s.Stop)
	c := dialGRPC(t, m.serveScheme("echo", configv1.Scheme_SCHEME_H2C, l.Addr().String()))
	stream, err := c.NewStream(t.Context(), bidi, "/echo.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	if err := stream.RecvMsg(&out); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := stream.RecvMsg(&out); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}
