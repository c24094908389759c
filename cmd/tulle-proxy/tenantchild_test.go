//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// The environment of a child: what it is, and its spec as JSON.
const (
	tenantVariable     = "TULLE_TENANT_ROLE"
	tenantSpecVariable = "TULLE_TENANT_SPEC"
)

// tenantRole is what a process of its own does. It writes a line of JSON for the test whenever it has something to say.
type tenantRole interface {
	run(ctx context.Context, in io.Reader, out io.Writer) error
}

// tenantMain is the whole of a child. It returns an exit code.
func tenantMain(name, spec string) int {
	role, ok := map[string]tenantRole{"serving": &serving{}, "quiet": &quiet{}, "loud": &loud{}}[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no role %q\n", name)
		return 1
	}
	err := json.Unmarshal([]byte(spec), role)
	if err == nil {
		err = role.run(context.Background(), os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// tenantChild is a running role.
type tenantChild struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startRole starts a process in a session of its own, which is what the kernel shares a CPU out between, on the CPU where
// the test is. Nice ones get less of that CPU. It dies with the test.
func startRole(t *testing.T, name string, spec tenantRole, nice int) *tenantChild {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	c := &tenantChild{t: t, cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), tenantVariable+"="+name, tenantSpecVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	in, err := c.cmd.StdinPipe()
	out, outErr := c.cmd.StdoutPipe()
	if err := errors.Join(err, outErr, c.cmd.Start()); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	beNice(t, c.cmd.Process, nice)
	c.in, c.out = in, bufio.NewReader(out)
	t.Cleanup(c.end)
	return c
}

// hear reads the next line that the child writes.
func (c *tenantChild) hear(into any) {
	c.t.Helper()
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, into)
	}
	if err != nil {
		c.t.Fatalf("a child said %q: %v", line, err)
	}
}

// end ends the process, and may be called again.
func (c *tenantChild) end() {
	c.in.Close()
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()
}
