package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// resolve asks for names. With -search it asks as programs do, by the pod's search path; else exactly for that name.
func resolve(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("resolve", flag.ContinueOnError)
	kind := f.String("type", "A", "A, AAAA, SRV or SOA")
	server := f.String("server", "", "address of the server (default: the pod's)")
	overTCP := f.Bool("tcp", false, "ask by TCP")
	search := f.Bool("search", false, "use the search path")
	timeout := f.Duration("timeout", 5*time.Second, "of a question")
	if err := f.Parse(args); err != nil {
		return err
	}
	types := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "SRV": dnsmessage.TypeSRV, "SOA": dnsmessage.TypeSOA}
	q := question{kind: types[*kind], server: *server, network: "udp"}
	if q.kind == 0 {
		return fmt.Errorf("type %q: want A, AAAA, SRV or SOA", *kind)
	}
	if *overTCP {
		q.network = "tcp"
	}
	var err error
	if q.server == "" {
		if q.server, err = nameserver(); err != nil {
			return err
		}
	}
	var all []report.Lookup
	for _, name := range f.Args() {
		l := report.Lookup{Name: name, Type: *kind}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		if *search {
			l.Answers, err = net.DefaultResolver.LookupHost(ctx, name)
		} else {
			err = q.ask(ctx, &l)
		}
		cancel()
		if err != nil {
			l.Error = err.Error()
		}
		l.MS = ms(time.Since(begin))
		all = append(all, l)
	}
	return printJSON(out, all)
}

func nameserver() (string, error) {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 1 && w[0] == "nameserver" {
			return net.JoinHostPort(w[1], "53"), nil
		}
	}
	return "", errors.New("no nameserver in /etc/resolv.conf")
}

type question struct {
	kind    dnsmessage.Type
	server  string
	network string
}

func (q question) ask(ctx context.Context, l *report.Lookup) error {
	name, err := dnsmessage.NewName(strings.TrimSuffix(l.Name, ".") + ".")
	if err != nil {
		return err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: q.kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, q.network, q.server)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	reply, err := exchange(conn, packed, q.network == "tcp")
	if err != nil {
		return err
	}
	var r dnsmessage.Message
	if err := r.Unpack(reply); err != nil {
		return err
	}
	describe(&r, l)
	return nil
}

func exchange(conn net.Conn, packed []byte, framed bool) ([]byte, error) {
	if !framed {
		if _, err := conn.Write(packed); err != nil {
			return nil, err
		}
		b := make([]byte, 64<<10)
		n, err := conn.Read(b)
		return b[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, b)
	return b, err
}

func describe(m *dnsmessage.Message, l *report.Lookup) {
	codes := map[dnsmessage.RCode]string{
		dnsmessage.RCodeSuccess: "success", dnsmessage.RCodeNameError: "name-error",
		dnsmessage.RCodeServerFailure: "server-failure", dnsmessage.RCodeRefused: "refused",
	}
	if l.RCode = codes[m.RCode]; l.RCode == "" {
		l.RCode = m.RCode.String()
	}
	l.Authoritative = m.Authoritative
	for i, a := range m.Answers {
		if i == 0 || a.Header.TTL < l.TTL {
			l.TTL = a.Header.TTL
		}
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			l.Answers = append(l.Answers, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			l.Answers = append(l.Answers, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.SRVResource:
			l.Answers = append(l.Answers, fmt.Sprintf("%d %d %d %s", b.Priority, b.Weight, b.Port, b.Target))
		default:
			l.Answers = append(l.Answers, a.Header.Type.String())
		}
	}
	for _, a := range m.Authorities {
		if soa, ok := a.Body.(*dnsmessage.SOAResource); ok {
			l.SOAMinimum = &soa.MinTTL
		}
	}
}
