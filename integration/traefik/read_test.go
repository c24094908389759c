package traefik_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
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
	return fmt.Sprintf("%d %s", answer.StatusCode, body)
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
