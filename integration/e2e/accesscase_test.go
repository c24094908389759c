package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// accessCase is a file of testdata/access: SMI objects, and calls with what becomes of them.
type accessCase struct {
	name     string
	policies [][]string // the order or orders in which the YAML is applied
	calls    []accessCall
}

// accessCall is a line such as: client GET :80/path "X-Role: admin" -> route-denied
type accessCall struct {
	line    string
	from    string   // a ServiceAccount, "elsewhere/" before it for that of the other namespace
	kind    string   // an HTTP method, or grpc, tcp, udp
	service string   // name.namespace
	port    int      //
	path    string   // and query, of HTTP
	headers []string // "Name: value"
	reason  string   // empty = it passes
	as      string   // what the backend sees as path and query, where that is not what was sent
}

// accessCases reads the files. $ALLOWED in them is an address.
func accessCases(t *testing.T, allowed string) []accessCase {
	t.Helper()
	files, err := filepath.Glob("testdata/access/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var all []accessCase
	for _, f := range files {
		c := accessCase{name: strings.TrimSuffix(filepath.Base(f), ".txtar")}
		var yaml []string
		for _, part := range txtar.Parse([]byte(file(t, "access/"+filepath.Base(f), "$ALLOWED", allowed))).Files {
			if part.Name != "calls" {
				yaml = append(yaml, string(part.Data))
				continue
			}
			c.calls = parseAccessCalls(t, strings.Split(strings.TrimSpace(string(part.Data)), "\n")...)
		}
		c.policies = [][]string{yaml}
		if len(yaml) == 3 { // what both need, and two that are applied in both orders
			c.policies = append(c.policies, []string{yaml[0], yaml[2], yaml[1]})
		}
		if len(c.calls) == 0 {
			t.Fatalf("%s has no calls", f)
		}
		all = append(all, c)
	}
	return all
}

// TestAccessCases: there is a case for every rule of access control, with objects of SMI's, calls that pass and calls that
// do not. It needs no cluster.
func TestAccessCases(t *testing.T) {
	files := map[string]bool{}
	for _, c := range accessCases(t, "192.0.2.1") {
		rule, _, _ := strings.Cut(c.name, "_")
		files[rule] = true
		denied := slices.ContainsFunc(c.calls, func(c accessCall) bool { return c.reason != "" })
		passes := slices.ContainsFunc(c.calls, func(c accessCall) bool { return c.reason == "" })
		if !denied || passes == (c.name == "a1_default_deny") {
			t.Errorf("%s: calls are denied: %v, and pass: %v", c.name, denied, passes)
		}
		for doc := range strings.SplitSeq(strings.Join(c.policies[0], "---\n"), "---\n") {
			var o struct{ APIVersion, Kind string }
			if err := yaml.UnmarshalStrict([]byte(doc), &map[string]any{}); err != nil || yaml.Unmarshal([]byte(doc), &o) != nil {
				t.Errorf("%s: %v in %s", c.name, err, doc)
			}
			if o.Kind != "" && !strings.Contains(o.APIVersion, ".smi-spec.io/") {
				t.Errorf("%s: %s is no kind of SMI's", c.name, o.Kind)
			}
		}
	}
	for rule := range strings.FieldsSeq("a1 a2 a3 a4 a5 a6 a7 a8 a9 s1 s2 s3 s4") {
		if !files[rule] {
			t.Errorf("no case for rule %s", rule)
		}
	}
}

var (
	accessWord   = regexp.MustCompile(`"[^"]*"|\S+`)
	accessTarget = regexp.MustCompile(`^([^:]*):(\d+)(/.*)?$`)
)

// parseAccessCalls reads lines, of which those that begin with # are comments.
func parseAccessCalls(t *testing.T, lines ...string) []accessCall {
	t.Helper()
	var calls []accessCall
	for _, line := range lines {
		if strings.HasPrefix(line, "#") {
			continue
		}
		c, err := parseAccessCall(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		calls = append(calls, c)
	}
	return calls
}

func parseAccessCall(line string) (accessCall, error) {
	call, result, ok := strings.Cut(line, " -> ")
	words := accessWord.FindAllString(call, -1)
	if !ok || len(words) < 3 {
		return accessCall{}, errors.New("want: FROM KIND TARGET HEADERS -> RESULT")
	}
	to := accessTarget.FindStringSubmatch(words[2])
	if to == nil {
		return accessCall{}, fmt.Errorf("the target %q is not [SERVICE]:PORT[/PATH]", words[2])
	}
	c := accessCall{line: line, from: words[0], kind: words[1], service: cmp.Or(to[1], "web"), path: to[3]}
	if !strings.Contains(c.service, ".") {
		c.service += "." + accessNamespace
	}
	c.port, _ = strconv.Atoi(to[2]) // digits
	for _, h := range words[3:] {
		c.headers = append(c.headers, strings.Trim(h, `"`))
	}
	switch result = strings.TrimSpace(result); {
	case result == "passes":
	case strings.HasPrefix(result, "passes as "):
		c.as = strings.TrimPrefix(result, "passes as ")
	default:
		c.reason = result
	}
	return c, nil
}

// identity is the caller's namespace and ServiceAccount.
func (c accessCall) identity() (namespace, account string) {
	if name, ok := strings.CutPrefix(c.from, "elsewhere/"); ok {
		return accessElsewhere, name
	}
	return accessNamespace, c.from
}

// isHTTP says whether the call is a request of HTTP.
func (c accessCall) isHTTP() bool { return !slices.Contains([]string{"tcp", "udp", "grpc"}, c.kind) }

// protocol is that of the port.
func (c accessCall) protocol() string {
	if c.kind == "tcp" || c.kind == "udp" {
		return c.kind
	}
	return "http"
}

// variants are the calls that the test tool makes: a request in HTTP/1 and in HTTP/2.
func (c accessCall) variants() []report.Call {
	// The name ends with a dot, so that nobody looks for it under the names of the search path.
	addr := fmt.Sprintf("%s.mesh.:%d", c.service, c.port)
	if !c.isHTTP() && c.kind != "grpc" {
		return []report.Call{{Kind: c.kind, Target: addr}}
	}
	call := report.Call{Kind: c.kind, Target: "http://" + addr + c.path, Headers: c.headers}
	if c.kind == "grpc" {
		return []report.Call{call}
	}
	call.Method = c.kind
	one, two := call, call
	one.Kind, two.Kind = "http", "h2c"
	return []report.Call{one, two}
}

// fits says whether a variant became what it should.
func (c accessCall) fits(kind string, o report.Outcome) error {
	silent := strings.Contains(o.Error, "timeout")
	reset := slices.ContainsFunc([]string{"reset", "broken pipe", "not connected"}, func(s string) bool { return strings.Contains(o.Error, s) })
	var want string
	var ok bool
	switch {
	case kind == "udp" && c.reason != "":
		want, ok = "silence", silent
	case kind == "tcp" && c.reason != "":
		want, ok = "a connection that is reset", reset
	case kind == "tcp" || kind == "udp":
		want, ok = "an answer", o.Error == ""
	case c.reason != "":
		status, grpc := "403", "7"
		switch c.reason {
		case "bad-path":
			status, grpc = "400", "3"
		case "caller-not-local":
			status, grpc = "503", "14"
		}
		if kind == "grpc" {
			want, ok = "grpc-status "+grpc, o.Headers["Grpc-Status"] == grpc
		} else {
			want, ok = "status "+status, strconv.Itoa(o.Status) == status
		}
		want += " and tulle-reason " + c.reason
		ok = ok && o.Headers["Tulle-Reason"] == c.reason && (o.Answer == nil || o.Answer.Pod == "")
	default:
		path := cmp.Or(c.as, c.path)
		want, ok = "the backend's answer to "+path, o.Status == 200 && o.Answer != nil && o.Answer.Pod != "" && o.Answer.URI == path
	}
	if ok {
		return nil
	}
	return fmt.Errorf("%s (%s): want %s, got status %d, headers %v, answer %+v, error %q", c.line, kind, want, o.Status, o.Headers, o.Answer, o.Error)
}
