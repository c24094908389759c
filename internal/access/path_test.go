package access_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/access"
)

const refused = "refused"

func canonical(path string, encodedSlash bool) string {
	got, ok := access.Canonical(path, encodedSlash)
	if !ok {
		return refused
	}
	return got
}

func TestCanonicalPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/":                    "/",
		"*":                    "*",
		"/a/b":                 "/a/b",
		"/a/b/":                "/a/b/",
		"//a///b//":            "/a/b/",
		"/a/./b":               "/a/b",
		"/a/../b":              "/b",
		"/a/b/..":              "/a/",
		"/a/.":                 "/a/",
		"/..":                  "/",
		"/../../a":             "/a",
		"/a//../b":             "/b",
		"/public/..;/admin":    "/admin",
		"/public/..;a=b/admin": "/admin",
		"/.;/admin":            "/admin",
		"/%2e%2e/admin":        "/admin",
		"/a/%2E%2e;x/b":        "/b",
		"/a/.%2e/b":            "/b",
		"/%61%64min":           "/admin",
		"/a;x=1/b":             "/a;x=1/b",
		"/...":                 "/...",
		"/.hidden":             "/.hidden",
		"/a%20b":               "/a%20b",
		"/a%3ab":               "/a%3Ab",
		"/%7euser":             "/~user",
		"/%252e%252e/a":        "/%252e%252e/a",
		"/\u00e9":              "/%C3%A9",
		"/%c3%a9":              "/%C3%A9",
		"/a?":                  "/a?", // the query is cut off by the caller
		"":                     refused,
		"a":                    refused,
		"http://a/":            refused,
		"/a%2fb":               refused,
		"/a%2Fb":               refused,
		"/a%5cb":               refused,
		"/a\\b":                refused,
		"/a%00":                refused,
		"/a%0a":                refused,
		"/a%1f":                refused,
		"/a%7f":                refused,
		"/a\x00":               refused,
		"/a\tb":                refused,
		"/a b":                 refused,
		"/a\x7f":               refused,
		"/a#b":                 refused,
		"/a%":                  refused,
		"/a%4":                 refused,
		"/a%zz":                refused,
		"/a%u0041":             refused,
		"/a/..%3b/b":           refused,
		"/a/.%3Bx/b":           refused,
	} {
		if got := canonical(path, false); got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
	}
}

// An encoded slash that is allowed stays as it is written and ends no segment; what else is refused stays refused.
func TestEncodedSlashAllowed(t *testing.T) {
	for path, want := range map[string]string{
		"/a%2fb":        "/a%2fb",
		"/a%2Fb":        "/a%2Fb",
		"/a/..%2f../b":  "/a/..%2f../b",
		"/a%2f../b/../": "/a%2f../",
		"/a%5Cb":        refused,
		"/a%00":         refused,
		"/a%2":          refused,
	} {
		if got := canonical(path, true); got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
	}
}

// FuzzCanonical: a canonical path stays as it is in another turn, and no server can read dot segments, doubled slashes
// or unreserved escapes into it.
func FuzzCanonical(f *testing.F) {
	for _, p := range []string{"/", "*", "/a/..;x/b", "/%2e%2e%2fb", "//a\\b", "/\xc3\xa9%c3", "/%25%32%65", "/a%3B..", "/;/..", "/..%3B"} {
		f.Add(p, false)
		f.Add(p, true)
	}
	f.Fuzz(func(t *testing.T, path string, encodedSlash bool) {
		got, ok := access.Canonical(path, encodedSlash)
		if !ok {
			return
		}
		if again, ok := access.Canonical(got, encodedSlash); !ok || again != got {
			t.Fatalf("%q became %q, then %q", path, got, again)
		}
		for _, bad := range []string{"//", "\\", "#", " ", "%2e", "%2E", "%00", "%5C", "%5c", "%41", "/..;", "/.;", "/../", "/./"} {
			if strings.Contains(got, bad) {
				t.Errorf("%q became %q, which has %q", path, got, bad)
			}
		}
		if strings.HasSuffix(got, "/..") || strings.HasSuffix(got, "/.") || !encodedSlash && strings.Contains(strings.ToLower(got), "%2f") {
			t.Errorf("%q became %q", path, got)
		}
	})
}
