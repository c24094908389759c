// Command outline reads what `go test -json` writes and prints it as it comes. Wherever it says that a test has failed it
// repeats what the failed parts of that test logged: of half an hour's output nobody finds these lines otherwise.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
)

func main() {
	signal.Ignore(os.Interrupt) // what the tests say while they clean up is wanted, too
	if err := outline(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "outline:", err)
		os.Exit(1)
	}
}

// event is one of cmd/test2json's, as far as it matters here.
type event struct{ Package, Test, Output string }

// test names a test within all packages.
type test struct{ pkg, name string }

// part is a failed test that no failed test is within.
type part struct {
	test test
	text string
}

// outline copies a stream of events. A line that is no event is copied as it is: go itself may have something to say.
func outline(in io.Reader, out io.Writer) error {
	logged := map[test]string{}
	var failed []part
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			e = event{Output: string(line)}
		}
		t := test{pkg: e.Package, name: e.Test}
		switch {
		case e.Test == "" || strings.HasPrefix(e.Output, "=== "):
		case strings.HasPrefix(e.Output, "--- PASS:") || strings.HasPrefix(e.Output, "--- SKIP:"):
			delete(logged, t)
		case strings.HasPrefix(e.Output, "--- FAIL:"):
			if within := again(failed, t); within != "" {
				e.Output += within
			} else {
				failed = append(failed, part{t, e.Output + logged[t]})
			}
			delete(logged, t)
		default:
			logged[t] += e.Output
		}
		if _, err := io.WriteString(out, e.Output); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
	}
}

// again is what the parts of a test said that failed.
func again(failed []part, of test) string {
	var b strings.Builder
	for _, p := range failed {
		if p.test.pkg == of.pkg && strings.HasPrefix(p.test.name, of.name+"/") {
			b.WriteString("    " + p.text)
		}
	}
	return b.String()
}
