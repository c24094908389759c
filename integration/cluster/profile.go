package cluster

import "fmt"

// Profile says how fast the cluster's own parts follow changes.
type Profile string

const (
	// Quick follows changes as fast as it can: what tests need that aren't about that.
	Quick Profile = "quick"
	// Honest has the defaults of an ordinary cluster: roll-outs, fail-over and DNS changes are tested on it too.
	Honest Profile = "honest"
)

// profile are the settings in which the profiles differ. Empty means: don't set it, so the component's own default.
type profile struct {
	ControllerManager []string // flags; the default is 20 requests a second, 30 in a burst
	KubeletSync       string   // default 1m; how soon a changed ConfigMap shows up in a pod
	KubeletQPS        int      // default 50, and twice that in a burst
	ProxyMinSync      string   // default 1s; the least time between two syncs of kube-proxy
	CorednsReload     string   // argument of the plugin; the default is 30s and up to 15s of jitter
	CorednsCache      string   // seconds; kubeadm has 30
	CorednsLameduck   string   // kubeadm has 5s
	CorednsReplicas   int      // kubeadm has 2
}

func (p Profile) settings() profile {
	if p == Honest {
		return profile{CorednsCache: "30", CorednsLameduck: "5s", CorednsReplicas: 2}
	}
	return profile{
		ControllerManager: []string{"--kube-api-qps=500", "--kube-api-burst=1000"},
		KubeletSync:       "2s", KubeletQPS: 500, ProxyMinSync: "100ms",
		CorednsReload: "2s", CorednsCache: "5", CorednsLameduck: "1s", CorednsReplicas: 1,
	}
}

func (p Profile) valid() error {
	if p != Quick && p != Honest {
		return fmt.Errorf("profile %q: want %s or %s", p, Quick, Honest)
	}
	return nil
}
