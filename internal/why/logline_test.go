package why

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLine(t *testing.T) {
	http := Question{From: "shop/client", To: "web.shop", Port: 80, Protocol: "http", Method: "GET", Path: "/a b{", Enforced: true}
	udp := Question{From: "-", To: "dns.shop", Port: 53, Protocol: "udp", Enforced: true}
	const text = `time=2026-01-01T00:00:00Z level=INFO msg="access denied" reason=source-denied protocol=http from=shop/client client=10.0.0.1 to=web.shop port=80 workload=shop/web method=GET path="/a b{"`
	const object = `{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"access would be denied","reason":"unknown-caller","protocol":"udp","from":"nobody known","client":"10.0.0.1","to":"dns.shop","port":53,"workload":"shop/dns"}`
	const access = `{"time":"2026-01-01T00:00:00Z","protocol":"HTTP/1.1","source_namespace":"shop","source_pod":"client-1","namespace":"shop","service":"web","port":80,"method":"GET","path":"/x","status":403,"reason":"no-target"}`
	for name, tc := range map[string]struct {
		line string
		want Question
	}{
		"text":              {text, http},
		"text of a pod":     {"[pod/tulle-proxy-x/proxy] " + text + "\n", http},
		"JSON":              {object, udp},
		"JSON with a time":  {"2026-01-01T00:00:00.1Z " + object, udp},
		"JSON of a pod":     {"[pod/tulle-proxy-x/proxy] " + object, udp},
		"access log":        {access, Question{From: "shop/client-1", To: "web.shop", Port: 80, Protocol: "http", Method: "GET", Path: "/x", Enforced: true}},
		"of nobody":         {`from="nobody known" to=web.shop port=80`, Question{From: "-", To: "web.shop", Port: 80, Enforced: true}},
		"just the question": {"from=a/b to=c.d port=1", Question{From: "a/b", To: "c.d", Port: 1, Enforced: true}},
	} {
		if got, err := Line(tc.line); err != nil || !cmp.Equal(got, tc.want) {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(tc.want, got))
		}
	}
	for _, line := range []string{"", "{", "{}", "no such line", "from=a/b port=80", "from=a/b to=c.d", "from=a/b to=c.d port=99999", `{"from":"a/b","to":"c.d","port":"x"}`} {
		if q, err := Line(line); !errors.Is(err, ErrQuestion) {
			t.Errorf("%q is taken for %+v, %v", line, q, err)
		}
	}
}

// FuzzLine: whatever is pasted in is an error or a question that names a caller, a destination and a port.
func FuzzLine(f *testing.F) {
	f.Add(`from=a/b to=c.d port=1 path="\x"`)
	f.Add(`x {"from":"a/b","to":"c.d","port":1}`)
	f.Fuzz(func(t *testing.T, line string) {
		if q, err := Line(line); err == nil && (q.From == "" || q.To == "" || q.Port > 65535) {
			t.Errorf("%+v", q)
		}
	})
}
