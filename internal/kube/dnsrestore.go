package kube

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// DNSRestore takes everything out of the cluster's DNS that the mesh put there. What keeps it must not run any more: it would
// put it back.
type DNSRestore struct {
	DNSAccess
	Zones []string
	// Dial opens a TCP connection to a port of a pod, e.g. by port forwarding. If it is set, Run returns when no pod of
	// the cluster's DNS answers for the zones any more, or after Patience.
	Dial     func(ctx context.Context, namespace, pod string, port int) (io.ReadWriteCloser, error)
	Patience time.Duration // default 3 min
	Poll     time.Duration // default 2 s
}

// Run restores. What it says besides an error is for the user: what is left to do.
func (r DNSRestore) Run(ctx context.Context) (notes []string, err error) {
	targets, err := r.places(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range targets {
		changed, err := r.restore(ctx, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if changed && r.Dial != nil && t.Workload.Name != "" {
			if note := r.wait(ctx, t); note != "" {
				notes = append(notes, note)
			}
		}
	}
	if err := r.dropTrial(ctx); err != nil {
		errs = append(errs, err)
	}
	err = r.Client.CoreV1().ConfigMaps(r.Namespace).Delete(ctx, dnsConfigMap, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete ConfigMap %s: %w", dnsConfigMap, err))
	}
	return notes, errors.Join(errs...)
}

// places are the targets of today, and whatever else a block may be in: the cluster's DNS may have been another one when
// it was written.
func (r DNSRestore) places(ctx context.Context) ([]corefile.Target, error) {
	c, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	found, err := corefile.Detect(c)
	if err != nil {
		found = nil // what is not recognised any more still may hold a block
	}
	have := map[corefile.Place]bool{}
	for _, t := range found {
		have[t.Place] = true
	}
	for _, cm := range c.ConfigMaps {
		for _, t := range blocksIn(cm, r.Namespace) {
			if !have[t.Place] {
				have[t.Place] = true
				found = append(found, t)
			}
		}
	}
	return found, nil
}

func blocksIn(cm *corev1.ConfigMap, mesh string) []corefile.Target {
	place := corefile.Place{Namespace: cm.Namespace, Name: cm.Name, Key: "stubDomains"}
	out := []corefile.Target{{Kind: corefile.KubeDNS, Place: place, Main: place}}
	for key, text := range cm.Data {
		if corefile.Has(text, mesh) {
			place.Key = key
			out = append(out, corefile.Target{Kind: corefile.Custom, Place: place, Main: place})
		}
	}
	return out
}

func (r DNSRestore) restore(ctx context.Context, t corefile.Target) (changed bool, err error) {
	for range 5 { // somebody else may write at the same time
		var was, is dnsObject
		if was, err = r.read(ctx, t); err != nil {
			return false, err
		}
		if is, err = was.unpatch(r.Namespace); err != nil {
			return false, fmt.Errorf("%s: %w", was.name(), err)
		}
		if was.same(is) {
			return false, nil
		}
		if err = r.write(ctx, was, is); !apierrors.IsConflict(err) {
			return err == nil, err
		}
	}
	return false, err
}

// wait returns when no pod answers for the zones any more, or what the user has to know.
func (r DNSRestore) wait(ctx context.Context, t corefile.Target) string {
	if r.Patience == 0 {
		r.Patience = 3 * time.Minute
	}
	if r.Poll == 0 {
		r.Poll = 2 * time.Second
	}
	o, err := r.read(ctx, t)
	w := t.Workload
	if err == nil && o.reloads() == 0 {
		return fmt.Sprintf("CoreDNS does not reload its configuration; restart it: kubectl -n %s rollout restart %s/%s", w.Namespace, strings.ToLower(w.Kind), w.Name)
	}
	for end := time.Now().Add(r.Patience); ; {
		left := r.serving(ctx, t)
		if left == "" {
			return ""
		}
		if time.Now().After(end) || !pause(ctx, r.Poll) {
			return left
		}
	}
}

// serving names a pod that still answers for a zone; "" if there is none.
func (r DNSRestore) serving(ctx context.Context, t corefile.Target) string {
	pods, err := r.pods(ctx, t)
	if err != nil {
		return err.Error()
	}
	for _, p := range pods {
		ask := Asker(func(ctx context.Context, _ netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
			return r.askOver(ctx, p, int(t.Port), name, qtype)
		})
		for _, zone := range r.Zones {
			if t.Kind != corefile.NodeCache && ask.probe(ctx, netip.AddrPort{}, zone) == nil {
				return fmt.Sprintf("pod %s/%s still answers for zone %s; it will notice the change by itself", p.Namespace, p.Name, zone)
			}
		}
	}
	return ""
}

func (r DNSRestore) askOver(ctx context.Context, p *corev1.Pod, port int, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := r.Dial(ctx, p.Namespace, p.Name, port)
	if err != nil {
		return nil, fmt.Errorf("reach pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return exchange(conn, new(dns.Msg).SetQuestion(name, qtype))
}

// exchange asks over a stream: messages with their length in front (RFC 1035, 4.2.2).
func exchange(rw io.ReadWriter, m *dns.Msg) (*dns.Msg, error) {
	packed, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if _, err := rw.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)); err != nil {
		return nil, fmt.Errorf("send question: %w", err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(rw, head); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head))
	if _, err := io.ReadFull(rw, body); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(body); err != nil {
		return nil, fmt.Errorf("unpack answer: %w", err)
	}
	return r, nil
}
