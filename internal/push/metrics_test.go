package push

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestMetrics(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	common := config(t, 2, 0)
	s.Publish(common, nil)
	p1 := run(t, ca, s.addr, "p1", func(c *ClientConfig) {
		c.Applier.(*inUse).setRefuse(configv1.Refusal{Key: common[1].Key, Reason: "no"}, true)
	})
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", s.upToDate("p1"))
	endCode(open(t, ca, s.addr, "another"))

	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
	}
	changed := got["tulle_controller_config_changed_timestamp_seconds"]
	if now := float64(p1.Status().Since.Unix()); changed < now-60 || changed > now+60 {
		t.Errorf("the config changed at %v, in use since %v", changed, now)
	}
	delete(got, "tulle_controller_config_changed_timestamp_seconds")
	if diff := cmp.Diff(map[string]float64{
		"tulle_controller_connected_proxies":    1,
		"tulle_controller_current_proxies":      1,
		"tulle_controller_push_denied_total":    1,
		"tulle_controller_push_nacks_total":     1,
		"tulle_controller_push_removals_total":  0,
		"tulle_controller_push_resources_total": 5,
		"tulle_controller_push_wait_seconds":    0,
		"tulle_controller_refused_resources":    1,
	}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	before := s.counts.published.Load()
	s.Publish(common, nil)
	if got := s.counts.published.Load(); got != before {
		t.Error("publishing the same moved the time of the last change")
	}
}
