package traefik_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/access"
)

// answerOf is an answer in a line: the status, and what the backend says if it was one.
func answerOf(t *testing.T, client *http.Client, r *http.Request) string {
	t.Helper()
	answer, err := client.Do(r)
	if err != nil {
		return "failed"
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "broken off"
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Sprint(answer.StatusCode) // whoever refuses has words of his own
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, oneForm(string(body)))
}

// oneForm brings the path that a backend saw into the one form that rules judge: Traefik always sends about that, the
// mesh's own proxy only if a rule judges the path (the differences path-form and encoded-slash).
func oneForm(answer string) string {
	fields := strings.SplitN(answer, " ", 4) // who, method, target, rest
	if len(fields) < 4 {
		return answer
	}
	path, _, _ := strings.Cut(fields[2], "?")
	if canonical, ok := access.Canonical(path, true); ok {
		fields[2] = canonical + fields[2][len(path):]
	}
	return strings.Join(fields, " ")
}

// lastLine is what a server that closes the connection says last.
func lastLine(c net.Conn) string {
	raw, err := io.ReadAll(c)
	if err != nil || len(raw) == 0 {
		return "closed"
	}
	text := strings.TrimSpace(string(raw))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
