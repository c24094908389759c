package install

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/kube"
)

// DNSAccess is access to the cluster's DNS as the settings allow it.
func DNSAccess(c *Cluster, namespace string, s Settings) kube.DNSAccess {
	a := kube.DNSAccess{Client: c.Kube, Dynamic: c.Dynamic, Namespace: namespace}
	for _, text := range s.List("dns-config-maps") {
		place, key, _ := strings.Cut(text, ":")
		ns, name, _ := strings.Cut(place, "/")
		a.ConfigMaps = append(a.ConfigMaps, corefile.Place{Namespace: ns, Name: name, Key: key})
	}
	return a
}

// refuseDNS fails before anything is written if the cluster's DNS can't lead mesh names into the mesh, or somebody else
// could answer for them.
func (i *Installer) refuseDNS(ctx context.Context, r Rendered, skip bool) error {
	s, err := r.Settings()
	if err != nil || skip || s["dns-mode"] == "off" {
		return err
	}
	for _, f := range DNSAccess(i.Cluster, i.Namespace, s).Preflight(ctx, s.List("zones"), s["cluster-domain"]) {
		if f.Level == kube.DNSFail {
			return WithNext(errors.New(f.Message), "`tulle check --pre` and docs/dns.md say more; --skip-checks installs all the same, dns.mode=off leaves the cluster's DNS alone")
		}
	}
	return nil
}

// restoreDNS returns what takes the mesh's block out of the cluster's DNS. It reads the settings at once, before anything
// is removed.
func (i *Installer) restoreDNS(ctx context.Context) (func(context.Context) error, error) {
	s, err := i.dnsSettings(ctx)
	if err != nil {
		return nil, err
	}
	restore := kube.DNSRestore{DNSAccess: DNSAccess(i.Cluster, i.Namespace, s), Zones: s.List("zones"), Dial: i.Cluster.PodDial}
	return func(ctx context.Context) error {
		i.say("restoring the cluster's DNS; its pods may take two minutes to read the change")
		notes, err := restore.Run(ctx)
		for _, n := range notes {
			i.say("DNS: %s", n)
		}
		return err
	}, nil
}

// dnsSettings are the settings of the mesh as it is installed, with what it would have if it kept the cluster's DNS where it
// doesn't, or is gone in part: a block of before may be there all the same.
func (i *Installer) dnsSettings(ctx context.Context) (Settings, error) {
	s, err := SettingsOf(ctx, i.Cluster, i.Namespace)
	if _, has := s["dns-config-maps"]; has || err != nil {
		return s, err
	}
	record, err := ReadRecord(ctx, i.Cluster, i.Namespace)
	if err != nil {
		return nil, err
	}
	kept := Values{"dns": map[string]any{"mode": "manage"}}
	chosen := kept
	if record != nil {
		chosen = kept.Over(record.Values)
	}
	r, err := Render(Release{Namespace: i.Namespace, Values: chosen})
	if err != nil { // values of another version
		if r, err = Render(Release{Namespace: i.Namespace, Values: kept}); err != nil {
			return nil, err
		}
	}
	out, err := r.Settings()
	maps.Copy(out, s)
	return out, err
}
