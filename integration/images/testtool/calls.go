package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// calls makes all of the calls that it is given as JSON, each once and all at once, and prints their outcomes in the same
// order. Its servers do the same for whoever posts the list to /calls?timeout=5s&silence=1s.
func calls(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("calls", flag.ContinueOnError)
	timeout := f.Duration("timeout", 5*time.Second, "of a call")
	silence := f.Duration("silence", time.Second, "how long the answer to a datagram is waited for")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("calls: want a list as JSON")
	}
	return makeCalls(ctx, strings.NewReader(f.Arg(0)), out, *timeout, *silence)
}

func serveCalls(w http.ResponseWriter, r *http.Request) {
	timeout, err1 := time.ParseDuration(r.URL.Query().Get("timeout"))
	silence, err2 := time.ParseDuration(r.URL.Query().Get("silence"))
	err := errors.Join(err1, err2)
	if err == nil {
		err = makeCalls(r.Context(), r.Body, w, timeout, silence)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// various makes calls of all kinds.
type various struct {
	timeout, silence time.Duration
	http, h2c        *http.Client
}

func makeCalls(ctx context.Context, in io.Reader, out io.Writer, timeout, silence time.Duration) error {
	var list []report.Call
	if err := json.NewDecoder(in).Decode(&list); err != nil {
		return fmt.Errorf("calls: %w", err)
	}
	v := &various{timeout: timeout, silence: silence, http: httpClient(timeout, false), h2c: httpClient(timeout, true)}
	defer v.h2c.CloseIdleConnections()
	outcomes := make([]report.Outcome, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			began := time.Now()
			o := v.call(ctx, c)
			outcomes[i] = report.Outcome{Status: o.status, Headers: o.header, MS: ms(time.Since(began))}
			if o.err != nil {
				outcomes[i].Error = o.err.Error()
			} else {
				outcomes[i].Answer = &o.answer
			}
		})
	}
	wg.Wait()
	return printJSON(out, outcomes)
}

func httpClient(timeout time.Duration, h2c bool) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives: !h2c, DisableCompression: true, Protocols: new(http.Protocols),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the tool's servers make up their certificates
		DialContext:     (&net.Dialer{Timeout: timeout}).DialContext,
	}
	tr.Protocols.SetHTTP1(!h2c)
	tr.Protocols.SetUnencryptedHTTP2(h2c)
	return &http.Client{Transport: tr, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (v *various) call(ctx context.Context, c report.Call) outcome {
	s := streamFlags{timeout: v.timeout, send: "hello", target: c.Target}
	switch c.Kind {
	case "tcp":
		return s.tcpOnce(ctx, false)
	case "udp":
		s.timeout = v.silence
		conn, err := s.dial(ctx, "udp", s.target)
		if err != nil {
			return outcome{err: err}
		}
		defer conn.Close()
		return s.udpOnce(conn)
	case "http", "h2c", "grpc":
		return v.request(ctx, c)
	}
	return outcome{err: fmt.Errorf("unknown kind %q", c.Kind)}
}

// request makes a request. What it calls gRPC is the head of such a call: enough for whoever refuses it.
func (v *various) request(ctx context.Context, c report.Call) outcome {
	h := httpFlags{headers: headerFlag{}, method: c.Method}
	for _, line := range c.Headers {
		if err := h.headers.Set(line); err != nil {
			return outcome{err: err}
		}
	}
	client := v.h2c
	switch c.Kind {
	case "http":
		client = v.http
	case "grpc":
		h.method = http.MethodPost
		http.Header(h.headers).Set("Content-Type", "application/grpc")
		http.Header(h.headers).Set("TE", "trailers")
	}
	req, err := h.request(ctx, c.Target)
	if err != nil {
		return outcome{err: err}
	}
	res, err := client.Do(req)
	if err != nil {
		return outcome{err: shorten(err)}
	}
	return read(res)
}
