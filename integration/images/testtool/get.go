package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// httpFlags are those that get and load share.
type httpFlags struct {
	headers headerFlag
	host    string
	method  string
	body    string
	timeout time.Duration
}

func (h *httpFlags) register(f *flag.FlagSet) {
	h.headers = headerFlag{}
	f.Var(h.headers, "H", "header as 'Name: value', may be repeated")
	f.StringVar(&h.host, "host", "", "Host header")
	f.StringVar(&h.method, "method", http.MethodGet, "method")
	f.StringVar(&h.body, "body", "", "body")
	f.DurationVar(&h.timeout, "timeout", 5*time.Second, "of a call")
}

func (h *httpFlags) request(ctx context.Context, target string) (*http.Request, error) {
	var body io.Reader
	if h.body != "" {
		body = strings.NewReader(h.body)
	}
	req, err := http.NewRequestWithContext(ctx, h.method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header(h.headers).Clone()
	req.Host = cmp.Or(h.host, req.Host)
	return req, nil
}

// headerFlag collects headers.
type headerFlag http.Header

func (h headerFlag) String() string { return "" }

// Set implements flag.Value.
func (h headerFlag) Set(s string) error {
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("want 'Name: value'")
	}
	http.Header(h).Add(name, strings.TrimSpace(value))
	return nil
}

// get calls URLs one after the other, or several at once, and sums up who answered.
func get(ctx context.Context, args []string, out io.Writer) error {
	var h httpFlags
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	h.register(f)
	n := f.Int("n", 0, "calls, to the URLs in turn; by default one to each")
	parallel := f.Int("c", 1, "calls at once")
	keepAlive := f.Bool("keepalive", false, "reuse connections")
	h2c := f.Bool("h2c", false, "HTTP/2 without TLS, by prior knowledge")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("get: no URL")
	}
	client := httpClient(h.timeout, *h2c)
	tr := client.Transport.(*http.Transport)
	tr.DisableKeepAlives, tr.MaxIdleConnsPerHost = !*keepAlive, *parallel
	if *n == 0 {
		*n = f.NArg()
	}
	t := repeat(*n, *parallel, func(i int) outcome {
		req, err := h.request(ctx, f.Arg(i%f.NArg()))
		if err != nil {
			return outcome{err: err}
		}
		res, err := client.Do(req)
		if err != nil {
			return outcome{err: shorten(err)}
		}
		return read(res)
	})
	return printJSON(out, t.summary())
}

// repeat makes n calls, some at once, and numbers them.
func repeat(n, parallel int, call func(i int) outcome) *tally {
	t := newTally()
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(1, parallel) {
		wg.Go(func() {
			for i := range next {
				due := time.Now()
				t.add(due, call(i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return t
}

// read takes in a whole response.
func read(res *http.Response) outcome {
	defer res.Body.Close()
	o := outcome{status: res.StatusCode, header: map[string]string{}}
	for k, v := range res.Header {
		o.header[k] = strings.Join(v, ", ")
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		o.err = shorten(err)
		return o
	}
	if json.Unmarshal(b, &o.answer) != nil {
		o.answer.Body = string(b[:min(len(b), 2000)])
	}
	return o
}

// shorten drops from an error what differs from call to call: the URL, which the caller knows, and our own port.
func shorten(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return errors.New(op.Op + ": " + op.Err.Error())
	}
	return err
}
