package kube

import (
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// TrustState is what the identities' CA wrote down last. The zero value is that of one that has not.
type TrustState struct {
	Roots [][]byte  // in DER
	Ends  time.Time // when the CA ends; zero if that isn't known
}

// Bundle is what proxies of the trust domain get; nil while there is none.
func (s TrustState) Bundle(trustDomain string) *configv1.TrustBundle {
	if len(s.Roots) == 0 {
		return nil
	}
	return &configv1.TrustBundle{TrustDomain: trustDomain, Roots: s.Roots}
}

// Trust returns what the identities' CA wrote down, if SourceConfig.Trust says that there is one. What it wrote stays, also
// if somebody deletes or garbles it: the CA will write it again.
func (s *Source) Trust() TrustState {
	if state := s.trust.Load(); state != nil {
		return *state
	}
	return TrustState{}
}

// keepTrust returns a function that reads the ConfigMap of the identities' CA into to.
func keepTrust(to *atomic.Pointer[TrustState], log *slog.Logger) func(any) (*corev1.ConfigMap, bool) {
	return func(obj any) (*corev1.ConfigMap, bool) {
		m, ok := obj.(*corev1.ConfigMap)
		if !ok || m.Name != TrustConfigMap {
			return nil, false
		}
		state, err := readTrust(m)
		if err != nil {
			log.Warn("what the identities' CA wrote can't be read", "name", m.Name, "err", err)
		} else if len(state.Roots) > 0 {
			to.Store(&state)
		}
		return &corev1.ConfigMap{ObjectMeta: metaOf(m.ObjectMeta), Data: m.Data}, true
	}
}

func readTrust(m *corev1.ConfigMap) (TrustState, error) {
	record, err := identity.DecodeRecord([]byte(m.Data[rootRecordKey]))
	if err != nil {
		return TrustState{}, err
	}
	var out TrustState
	for _, c := range record.Certificates() {
		out.Roots = append(out.Roots, c.Raw)
	}
	if end, err := time.Parse(time.RFC3339, m.Data[endsKey]); err == nil {
		out.Ends = end
	}
	return out, nil
}
