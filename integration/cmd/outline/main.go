// Command outline reads what `go test -json` writes and prints it as it comes. When a test has failed it repeats what
// its failed parts logged: of half an hour's output nobody finds these lines otherwise.
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

// part is a failed test within another one.
type part struct{ name, result, log string }

// outline copies a stream of events. A line that is no event is copied as it is: go itself may have something to say.
func outline(in io.Reader, out io.Writer) error {
	logged, failed := map[test]string{}, map[test][]part{}
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
		root, _, inner := strings.Cut(e.Test, "/")
		of := test{pkg: e.Package, name: root}
		switch {
		case e.Test == "" || strings.HasPrefix(e.Output, "=== "):
		case strings.HasPrefix(e.Output, "--- PASS:") || strings.HasPrefix(e.Output, "--- SKIP:"):
			delete(logged, t)
		case strings.HasPrefix(e.Output, "--- FAIL:") && inner:
			failed[of] = append(failed[of], part{e.Test, e.Output, logged[t]})
			delete(logged, t)
		case strings.HasPrefix(e.Output, "--- FAIL:"):
			e.Output += again(failed[of])
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

// again is the results and logs of the failed tests that no failed test is within: inner ones end before outer ones.
func again(failed []part) string {
	var b strings.Builder
	for i, p := range failed {
		if i > 0 && strings.HasPrefix(failed[i-1].name, p.name+"/") {
			continue
		}
		b.WriteString("    " + p.result + p.log)
	}
	return b.String()
}
