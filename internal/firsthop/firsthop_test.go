package firsthop

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// serve runs a DNS server on loopback, UDP and TCP, that ends with the test.
func serve(t *testing.T, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: h}, {PacketConn: p, Handler: h}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return netip.MustParseAddrPort(l.Addr().String())
}

func reply(w dns.ResponseWriter, r *dns.Msg, rcode int, texts ...string) {
	m := new(dns.Msg).SetRcode(r, rcode)
	if len(texts) > 0 {
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: texts}}
	}
	w.WriteMsg(m) //nolint:errcheck // the asker sees it
}

// askedOver asks by HTTP, as the pod's admin port would be.
func askedOver(t *testing.T, target string) (int, Report) {
	t.Helper()
	w := httptest.NewRecorder()
	Handler("c-1").ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
	var r Report
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
	}
	return w.Code, r
}

// Every question comes from a socket of its own, and what the server says it sees is told beside what was really used.
func TestAsks(t *testing.T) {
	var mu sync.Mutex
	clients := map[string]bool{}
	server := serve(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name != "_whoami.mesh." || r.Question[0].Qtype != dns.TypeTXT {
			t.Errorf("asked %v", r.Question)
		}
		mu.Lock()
		defer mu.Unlock()
		clients[w.RemoteAddr().Network()+w.RemoteAddr().String()] = true
		reply(w, r, dns.RcodeSuccess, Texts("p-1", netip.MustParseAddr("10.1.0.1"))...)
	})
	other := serve(t, func(w dns.ResponseWriter, r *dns.Msg) { reply(w, r, dns.RcodeNameError) })
	code, got := askedOver(t, URL("mesh", server, other))
	want := Report{Pod: "c-1"}
	for _, a := range []Answer{
		{Server: server.String(), Network: "udp", Source: "127.0.0.1", Pod: "p-1", Client: "10.1.0.1"},
		{Server: server.String(), Network: "tcp", Source: "127.0.0.1", Pod: "p-1", Client: "10.1.0.1"},
		{Server: other.String(), Network: "udp", Source: "127.0.0.1", Error: "NXDOMAIN instead of an answer of the mesh DNS"},
		{Server: other.String(), Network: "tcp", Source: "127.0.0.1", Error: "NXDOMAIN instead of an answer of the mesh DNS"},
	} {
		want.Answers = append(want.Answers, slices.Repeat([]Answer{a}, tries)...)
	}
	if diff := cmp.Diff(want, got); code != http.StatusOK || diff != "" {
		t.Errorf("%d, (-want +got)\n%s", code, diff)
	}
	if len(clients) != 2*tries {
		t.Errorf("asked from %d sockets, want %d", len(clients), 2*tries)
	}
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	for _, a := range Ask(t.Context(), "mesh", closed) {
		if !strings.Contains(a.Error, "refused") || a.Pod != "" || a.Client != "" {
			t.Errorf("%+v", a)
		}
	}
}

// A record of another shape is no answer: some other name server may stand behind the address.
func TestRead(t *testing.T) {
	for text, want := range map[string]bool{"pod=p-1,client=10.1.0.1": true, "pod=p-1": false, "tulle": false, "client=10.1.0.1,pod=p-1": false, "a,b": false} {
		m := &dns.Msg{Answer: []dns.RR{&dns.CNAME{}, &dns.TXT{Txt: strings.Split(text, ",")}}}
		pod, client, ok := read(m)
		if ok != want || ok && (pod != "p-1" || client != "10.1.0.1") || !ok && pod+client != "" {
			t.Errorf("%s: %q %q %v", text, pod, client, ok)
		}
	}
}

func TestRefusesOtherQueries(t *testing.T) {
	for _, q := range []string{
		"", "zone=mesh", "server=127.0.0.1:53", "zone=mesh&server=localhost:53", "zone=mesh&server=127.0.0.1", "zone=..&server=127.0.0.1:53",
		"zone=mesh" + strings.Repeat("&server=127.0.0.1:53", mostServers+1),
	} {
		if code, _ := askedOver(t, Path+"?"+q); code != http.StatusBadRequest {
			t.Errorf("%q: %d", q, code)
		}
	}
}
