package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// DNSMode says what is done about the cluster's DNS.
type DNSMode string

// The modes.
const (
	DNSManage DNSMode = "manage" // keep the block there
	DNSPrint  DNSMode = "print"  // say what to put there
	DNSOff    DNSMode = "off"
)

// DNSService is the Service of the mesh DNS, in the mesh's namespace.
const DNSService = "tulle-dns"

// DNSConfig is what a DNSManager needs.
type DNSConfig struct {
	DNSAccess
	Mode          DNSMode  // default DNSManage
	Zones         []string // of the mesh, lower case
	ClusterDomain string   // default cluster.local
	NoTrial       bool     // write what has not been started before
	Restart       bool     // restart a cluster DNS that does not reload its configuration
	Log           *slog.Logger
	Ask           Asker // default AskUDP
	// ResolvConf is where the Nameservers are read from if they are nil; default /etc/resolv.conf.
	ResolvConf string
	Timing     DNSTiming
}

// DNSTiming are the times of a DNSManager; zero values are the defaults.
type DNSTiming struct {
	Interval    time.Duration // between looks when all is well; default 30 s
	Poll        time.Duration // between looks after a change; default 2 s
	Rollout     time.Duration // until every pod has to serve a change, besides CoreDNS's own interval; default 135 s
	Retry       time.Duration // until what was undone, or failed in a trial, is tried again; default 10 min
	TrialStart  time.Duration // until a trial's pod has to run; default 1 min
	TrialAnswer time.Duration // until it has to answer; default 20 s
	Fights      int           // how often the block is put back within FightWindow; default 5
	FightWindow time.Duration // default 10 min
}

func (t DNSTiming) withDefaults() DNSTiming {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&t.Interval, 30*time.Second)
	set(&t.Poll, 2*time.Second)
	set(&t.Rollout, 135*time.Second)
	set(&t.Retry, 10*time.Minute)
	set(&t.TrialStart, time.Minute)
	set(&t.TrialAnswer, 20*time.Second)
	set(&t.FightWindow, 10*time.Minute)
	if t.Fights == 0 {
		t.Fights = 5
	}
	return t
}

// DNSManager keeps the stub domain in the cluster's DNS. One at a time runs: on the leader of those that may.
type DNSManager struct {
	config  DNSConfig
	kick    chan struct{}
	changed chan struct{}
	seen    map[corefile.Place]*list[*corev1.ConfigMap] // what the watches hold

	mu    sync.Mutex
	state DNSState

	// The rest belongs to Run's goroutine.
	around corefile.Cluster // the cluster without its ConfigMaps
	looked time.Time        // when that was read
	record dnsRecord
	saved  string                 // the record as it was written last
	failed map[string]failedTrial // by hash
	passed string                 // hash of what passed the last trial
	before map[string][]string    // by target: the pods that answered before the last change
	silent map[[2]string]int      // by target and pod: failures in a row
	said   map[string]DNSTarget   // by target: what was logged last
}

// NewDNSManager makes a manager; Run starts it.
func NewDNSManager(c DNSConfig) *DNSManager {
	if c.Mode == "" {
		c.Mode = DNSManage
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Ask == nil {
		c.Ask = AskUDP
	}
	if c.Nameservers == nil {
		c.Nameservers = nameservers(cmp.Or(c.ResolvConf, "/etc/resolv.conf"))
	}
	c.Timing = c.Timing.withDefaults()
	m := &DNSManager{
		config: c, kick: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		failed: map[string]failedTrial{}, before: map[string][]string{}, silent: map[[2]string]int{}, said: map[string]DNSTarget{},
		seen: map[corefile.Place]*list[*corev1.ConfigMap]{},
	}
	for _, p := range c.ConfigMaps {
		m.seen[p] = &list[*corev1.ConfigMap]{
			keep: func(obj any) (*corev1.ConfigMap, bool) {
				cm, ok := obj.(*corev1.ConfigMap)
				return cm, ok && cm.Name == p.Name
			},
			same:    func(a, b *corev1.ConfigMap) bool { return equal(a.Data, b.Data) && equal(a.Annotations, b.Annotations) },
			changed: func() { signal(m.kick) },
		}
	}
	return m
}

// Changed is signalled, with capacity one, after State changed.
func (m *DNSManager) Changed() <-chan struct{} { return m.changed }

// State is how things stand. It is nobody's to change.
func (m *DNSManager) State() DNSState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Run keeps the block until ctx ends. Losing the lead has to end ctx. The block stays where it is.
func (m *DNSManager) Run(ctx context.Context) error {
	if m.config.Mode == DNSOff || len(m.config.Zones) == 0 {
		m.publish(DNSState{Mode: DNSOff, Zones: m.config.Zones, Phase: DNSIsOff})
		<-ctx.Done()
		return nil
	}
	m.publish(DNSState{Mode: m.config.Mode, Zones: m.config.Zones}) // what was seen when this replica led before is old
	var g sync.WaitGroup
	defer g.Wait()
	for p := range m.seen {
		g.Go(func() { m.watch(ctx, p) })
	}
	if m.config.Mode == DNSManage && !m.config.NoTrial {
		if err := m.config.dropTrial(ctx); err != nil {
			m.config.Log.Warn("what an earlier trial left could not be removed", "err", err)
		}
	}
	m.record = m.config.readRecord(ctx, m.config.Log)
	for {
		wait := time.NewTimer(m.round(ctx))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-m.kick:
			wait.Stop()
		case <-wait.C:
		}
	}
}

// watch follows a ConfigMap.
func (m *DNSManager) watch(ctx context.Context, p corefile.Place) {
	newWatcher("configmap "+p.String(), m.config.Client, m.config.Client.CoreV1().ConfigMaps(p.Namespace), "metadata.name="+p.Name, &corev1.ConfigMap{}, m.seen[p]).run(ctx)
}

// lastSeen is what the watch says, or, before it says anything, the API server.
func (m *DNSManager) lastSeen(ctx context.Context, p corefile.Place) (*corev1.ConfigMap, error) {
	l := m.seen[p]
	if !l.isSynced() {
		return m.config.configMap(ctx, p)
	}
	cm, _ := l.get(p.Namespace, p.Name)
	return cm, nil
}

// detect looks at the ConfigMaps every time, and at the rest of the cluster now and then.
func (m *DNSManager) detect(ctx context.Context) (targets []corefile.Target, err error) {
	if time.Since(m.looked) >= m.config.Timing.Interval {
		if m.around, err = m.config.surroundings(ctx); err != nil {
			return nil, err
		}
		m.looked = time.Now()
	}
	c := m.around
	if c.ConfigMaps, err = m.config.listed(ctx, m.lastSeen); err == nil {
		targets, err = corefile.Detect(c)
	}
	if err != nil {
		m.looked = time.Time{}
	}
	return targets, err
}

// nameservers reads a resolv.conf. What cannot be read says nothing.
func nameservers(path string) []netip.Addr {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if ip, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, ip)
			}
		}
	}
	return out
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// round looks at everything once, does what is due, and returns when to look again.
func (m *DNSManager) round(ctx context.Context) time.Duration {
	s := DNSState{Mode: m.config.Mode, Zones: m.config.Zones}
	servers, err := m.config.servers(ctx)
	var targets []corefile.Target
	if err == nil {
		targets, err = m.detect(ctx)
	}
	wait := m.config.Timing.Interval
	if err != nil {
		s.Targets = append(s.Targets, DNSTarget{}.trouble(err))
	}
	for _, t := range targets {
		state, again := m.keep(ctx, t, servers)
		if ctx.Err() != nil {
			return wait
		}
		s.Targets = append(s.Targets, state)
		wait = min(wait, again)
	}
	if s = s.summed(); s.Phase == DNSServed {
		m.askNameservers(ctx, &s)
		if err := m.config.zonesFree(ctx, m.config.Zones); err != nil {
			s.Targets[0] = s.Targets[0].trouble(err)
			s = s.summed()
		}
	}
	m.publish(s)
	return wait
}

// askNameservers makes sure that what was changed is what pods ask.
func (m *DNSManager) askNameservers(ctx context.Context, s *DNSState) {
	for _, server := range m.config.Nameservers {
		pod := asked{server: netip.AddrPortFrom(server, 53)}
		if m.askPod(ctx, &pod); pod.Cluster && !pod.Serves {
			s.Targets[0] = s.Targets[0].in(DNSNotServed, fmt.Sprintf("pods ask %s, which does not know the zones (%s) although what was changed does: "+
				"give it a stub domain for them by hand (docs/dns.md)", server, pod.Message))
			*s = s.summed()
		}
	}
}

// servers are the addresses of the mesh DNS.
func (a DNSAccess) servers(ctx context.Context) ([]netip.Addr, error) {
	svc, err := a.Client.CoreV1().Services(a.Namespace).Get(ctx, DNSService, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Service %s/%s: %w", a.Namespace, DNSService, err)
	}
	var out []netip.Addr
	for _, text := range svc.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	if ip, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && !slices.Contains(out, ip) {
		out = append([]netip.Addr{ip}, out...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no cluster IP in Service %s/%s", a.Namespace, DNSService)
	}
	return out, nil
}

func (m *DNSManager) publish(s DNSState) {
	for _, t := range s.Targets {
		if was := m.said[t.Object]; was.Phase != t.Phase || was.Message != t.Message {
			m.config.Log.Info("cluster DNS", "object", t.Object, "kind", string(t.Kind), "phase", string(t.Phase), "message", t.Message)
			m.said[t.Object] = t
		}
	}
	m.mu.Lock()
	same := equal(m.state, s)
	m.state = s
	m.mu.Unlock()
	if !same {
		signal(m.changed)
	}
}
