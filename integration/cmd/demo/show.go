package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
	"github.com/tulle-mesh/tulle/integration/shop"
)

// patience is how long a change may take until calls see it.
const patience = time.Minute

const halfAndHalf = `apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec: {service: web, backends: [{service: web-v1, weight: 50}, {service: web-v2, weight: 50}]}
`

// step is one line of the table: what is called, from a client pod by its mesh name, and what has to answer.
type step struct {
	what string
	call []string
	want string
}

func (d *demo) show(ctx context.Context) error {
	splits, err := shop.Examples(d.root, "TrafficSplit", "HTTPRouteGroup")
	if err != nil {
		return err
	}
	if _, err := d.cluster.Kubectl.Apply(ctx, splits, "apply", "-f", "-"); err != nil {
		return err
	}
	web := []string{"get", "-n", "100", "http://web.shop.mesh/"}
	split := step{"100 x http://web.shop.mesh/, split 90/10", web, "v1: 90, v2: 10"}
	if err := d.await(ctx, split); err != nil {
		return err
	}
	d.say("\n%-44s %s", "CALL, FROM A POD", "WHAT ANSWERED")
	for _, s := range []step{
		split,
		{"20 x the same with header x-beta: yes", []string{"get", "-n", "20", "-H", "x-beta: yes", "http://web.shop.mesh/"}, "v2: 20"},
		{"20 x http://web-v1.shop/, past the mesh", []string{"get", "-n", "20", "http://web-v1.shop/"}, "v1: 20"},
		{"5 x tcp ledger.shop.mesh:7000", []string{"tcp", "-banner", "-n", "5", "ledger.shop.mesh:7000"}, "ledger: 5"},
		{"5 x udp gauge.shop.mesh:8125", []string{"udp", "-n", "5", "gauge.shop.mesh:8125"}, "gauge: 5"},
	} {
		if err := d.step(ctx, s); err != nil {
			return err
		}
	}
	if _, err := d.cluster.Kubectl.Apply(ctx, halfAndHalf, "apply", "-f", "-"); err != nil {
		return err
	}
	changed := time.Now()
	half := step{"100 x http://web.shop.mesh/, split 50/50", web, "v1: 50, v2: 50"}
	if err := d.await(ctx, step{call: []string{"get", "-n", "4", "http://web.shop.mesh/"}, want: "v1: 2, v2: 2"}); err != nil {
		return err
	}
	d.say("split changed to 50/50: seen by calls after %s", time.Since(changed).Round(10*time.Millisecond))
	return d.step(ctx, half)
}

// await repeats a call until what should answers.
func (d *demo) await(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		got, err := d.call(ctx, s.call)
		if err == nil && got == s.want {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("testtool %s: %q answered, want %s", strings.Join(s.call, " "), got, s.want), err)
		case <-poll.C:
		}
	}
}

func (d *demo) step(ctx context.Context, s step) error {
	got, err := d.call(ctx, s.call)
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	d.say("%-44s %s", s.what, got)
	if got != s.want {
		return fmt.Errorf("%s: %s answered, want %s", s.what, got, s.want)
	}
	return nil
}

// call runs the test tool in the client pod and says how often which version answered.
func (d *demo) call(ctx context.Context, args []string) (string, error) {
	out, err := d.cluster.Kubectl.Run(ctx, append([]string{"-n", shop.Namespace, "exec", "deploy/client", "--", "testtool"}, args...)...)
	if err != nil {
		return "", err
	}
	var s report.Summary
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	if s.Failed > 0 {
		return "", fmt.Errorf("%d of %d calls failed: %v", s.Failed, s.Calls, s.Errors)
	}
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(s.ByVersion)) {
		parts = append(parts, fmt.Sprintf("%s: %d", version, s.ByVersion[version]))
	}
	return strings.Join(parts, ", "), nil
}

func (d *demo) invite() {
	d.say(`
The cluster and the mesh go on until ^C. In another terminal:
  export KUBECONFIG=%s PATH=%s:%s/bin:$PATH
  kubectl -n %s exec deploy/client -- testtool get -n 100 http://web.shop.mesh/
  kubectl -n %s edit trafficsplit web
  tulle status`, d.cluster.Kubeconfig, d.cluster.BinDir(), d.root, shop.Namespace, shop.Namespace)
}
