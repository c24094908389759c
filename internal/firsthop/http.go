package firsthop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/miekg/dns"
)

// Path is where admin ports serve Handler.
const Path = "/first-hop"

// mostServers is more addresses than a Service has.
const mostServers = 4

// Report is what Handler answers.
type Report struct {
	Pod     string   `json:"pod"` // that asked
	Answers []Answer `json:"answers"`
}

// URL is the path and query that make Handler ask the servers.
func URL(zone string, servers ...netip.AddrPort) string {
	q := url.Values{"zone": {zone}}
	for _, s := range servers {
		q.Add("server", s.String())
	}
	return Path + "?" + q.Encode()
}

// Handler asks, from the pod of that name, whom a request names: zone=mesh&server=10.96.0.53:53, up to four servers. It
// belongs on a loopback port: whoever reaches it can make the pod send DNS questions.
func Handler(pod string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		zone, servers, err := parse(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b, err := json.Marshal(Report{Pod: pod, Answers: Ask(r.Context(), zone, servers...)})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(b)
	})
}

func parse(q url.Values) (zone string, servers []netip.AddrPort, err error) {
	zone = q.Get("zone")
	if _, ok := dns.IsDomainName(Label + "." + zone); !ok || zone == "" {
		return "", nil, fmt.Errorf("zone %q: want a mesh zone such as mesh", zone)
	}
	texts := q["server"]
	if len(texts) == 0 || len(texts) > mostServers {
		return "", nil, fmt.Errorf("%d servers: want 1 to %d", len(texts), mostServers)
	}
	for _, text := range texts {
		s, err := netip.ParseAddrPort(text)
		if err != nil {
			return "", nil, fmt.Errorf("server %q: want address:port", text)
		}
		servers = append(servers, s)
	}
	return zone, servers, nil
}
