package proxyconfig_test

import (
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
)

// verdicts decides on the calls of a fixture, one a line, by the policies that the proxies would be sent:
//
//	shop/client shop/web 80/http GET /path X-Name: value; X-Other: value
func verdicts(t *testing.T, calls string, resources []configv1.Resource) string {
	t.Helper()
	policies := map[string]*access.Workload{}
	for _, r := range resources {
		if p, ok := r.Message.(*configv1.Policy); ok {
			w, err := new(access.Compiler).Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			policies[r.Name] = w
		}
	}
	var out strings.Builder
	for line := range strings.Lines(calls) {
		line = strings.TrimSpace(line)
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 3 {
			t.Fatalf("no call: %q", line)
		}
		caller := access.Caller{Identity: identity(fields[0]), Standing: access.Known}
		if fields[0] == "-" {
			caller = access.Caller{}
		}
		v := access.Decide(caller, policies[fields[1]], portOfCall(t, fields[2]), requestOf(fields[3:]))
		fmt.Fprintf(&out, "%s: %s\n", line, verdict(v))
	}
	return out.String()
}

func verdict(v access.Verdict) string {
	text := "denied"
	if v.Allow {
		text = "allowed"
	}
	if v.Reason != "" {
		text += " (" + string(v.Reason) + ")"
	}
	if r := v.Rule; r != nil {
		text += " by " + strings.TrimSpace(r.Target+" "+r.Kind+" "+r.Route+" "+r.Match)
	}
	if v.Path != "" {
		text += " as " + v.Path
	}
	return text
}

func identity(name string) access.Identity {
	namespace, account, _ := strings.Cut(name, "/")
	return access.Identity{Namespace: namespace, ServiceAccount: account}
}

func portOfCall(t *testing.T, text string) access.Port {
	t.Helper()
	number, protocol, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	p := map[string]access.Protocol{"http": access.HTTP, "tcp": access.TCP, "udp": access.UDP}[protocol]
	if err != nil || p == 0 {
		t.Fatalf("no port: %q", text)
	}
	return access.Port{Number: uint32(n), Protocol: p}
}

// requestOf takes a method, a path and headers; nil if there is nothing.
func requestOf(fields []string) *access.Request {
	if len(fields) < 2 {
		return nil
	}
	headers := map[string][]string{}
	if len(fields) > 2 {
		for field := range strings.SplitSeq(fields[2], "; ") {
			name, value, _ := strings.Cut(field, ": ")
			name = textproto.CanonicalMIMEHeaderKey(name)
			headers[name] = append(headers[name], value)
		}
	}
	return &access.Request{Method: fields[0], Path: fields[1], Host: "web.shop.mesh", Values: func(name string) []string { return headers[name] }}
}
