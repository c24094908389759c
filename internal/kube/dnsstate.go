package kube

import (
	"errors"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// DNSPhase says how a target stands.
type DNSPhase string

// The phases, from good to bad.
const (
	DNSIsOff        DNSPhase = "off"
	DNSServed       DNSPhase = "ok"          // every pod serves the zones
	DNSPending      DNSPhase = "pending"     // something is waited for
	DNSToPaste      DNSPhase = "print"       // the user is to put the block there
	DNSNeedsRestart DNSPhase = "restart"     // CoreDNS does not reload, somebody has to restart it
	DNSNotServed    DNSPhase = "unserved"    // the block is there and not every pod serves it
	DNSUndone       DNSPhase = "reverted"    // the block was taken out, because pods did not take it
	DNSFighting     DNSPhase = "fighting"    // somebody else takes it out again and again
	DNSRefused      DNSPhase = "refused"     // it cannot be put there
	DNSUnsupported  DNSPhase = "unsupported" // this kind of DNS takes no stub domain
)

var dnsPhases = [...]DNSPhase{
	DNSIsOff, DNSServed, DNSPending, DNSToPaste, DNSNeedsRestart, DNSNotServed, DNSUndone, DNSFighting, DNSRefused, DNSUnsupported,
}

// DNSState is the state of the stub domain in the cluster's DNS.
type DNSState struct {
	Mode    DNSMode
	Zones   []string
	Phase   DNSPhase // the worst of the targets'; "" before the first look
	Message string   // of the targets that are not served
	Targets []DNSTarget
}

// DNSTarget is the state of one object.
type DNSTarget struct {
	Kind    corefile.Kind
	Object  string // e.g. "ConfigMap kube-system/coredns"
	Ref     problem.Ref
	Phase   DNSPhase
	Reason  problem.Reason // of the phase, "" if there is nothing to complain about
	Message string
	Paste   string // mode print: what to put there
	Pods    []DNSPod
}

// DNSPod is what one pod of the cluster's DNS answers.
type DNSPod struct {
	Name    string
	Address string
	Serves  bool   // the mesh's zones
	Cluster bool   // the cluster's own name
	Message string // why not
}

// summed fills in what the targets have in common.
func (s DNSState) summed() DNSState {
	var messages []string
	for _, t := range s.Targets {
		if rank(t.Phase) >= rank(s.Phase) {
			s.Phase = t.Phase
		}
		if t.Message != "" && !slices.Contains(messages, t.Message) {
			messages = append(messages, t.Message)
		}
	}
	s.Message = strings.Join(messages, "; ")
	return s
}

func rank(p DNSPhase) int { return slices.Index(dnsPhases[:], p) }

// Status is the state as it is written down, nil before the first look.
func (s DNSState) Status() *status.DNS {
	if s.Phase == "" {
		return nil
	}
	out := &status.DNS{Mode: string(s.Mode), Zones: s.Zones, State: string(s.Phase), Message: s.Message}
	var kinds, objects []string
	for _, t := range s.Targets {
		kinds, objects = append(kinds, string(t.Kind)), append(objects, t.Object)
		if t.Paste != "" {
			out.Message = strings.TrimPrefix(out.Message+"\n"+t.Paste, "\n")
		}
	}
	out.Kind, out.Object = strings.Join(kinds, ", "), strings.Join(objects, ", ")
	return out
}

// Problems are what a user has to know.
func (s DNSState) Problems() []problem.Problem {
	var out []problem.Problem
	for _, t := range s.Targets {
		if t.Reason != "" {
			out = append(out, problem.Newf(t.Ref, t.Reason, "%s", t.Message))
		}
	}
	return out
}

// in returns the target in another phase.
func (t DNSTarget) in(p DNSPhase, message string) DNSTarget {
	t.Phase, t.Message, t.Reason = p, message, phaseReasons()[p]
	return t
}

func phaseReasons() map[DNSPhase]problem.Reason {
	return map[DNSPhase]problem.Reason{
		DNSToPaste: problem.DNSToPaste, DNSNeedsRestart: problem.DNSNeedsRestart, DNSNotServed: problem.DNSNotServed,
		DNSUndone: problem.DNSUndone, DNSFighting: problem.DNSFighting, DNSRefused: problem.DNSRefused, DNSUnsupported: problem.DNSUnsupported,
	}
}

func dnsReasons() []problem.Reason { return slices.Collect(maps.Values(phaseReasons())) }

// refused says why nothing can be put there.
func (t DNSTarget) refused(err error) DNSTarget {
	phase := DNSRefused
	if e, ok := errors.AsType[*corefile.UnsupportedError](err); ok {
		phase, t.Kind = DNSUnsupported, e.Kind
	}
	if u, ok := errors.AsType[*corefile.UnlistedError](err); ok {
		t.Object, t.Ref = "ConfigMap "+u.String(), configMapRef(u.Namespace, u.Name)
	}
	if t.Ref.Kind == "" {
		t.Object, t.Ref = "Service kube-dns", problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: "kube-system", Name: "kube-dns"}
	}
	return t.in(phase, err.Error()+next(err))
}

// trouble is refused, if somebody has to do something about the error, else pending: what failed is done again.
func (t DNSTarget) trouble(err error) DNSTarget {
	var (
		_, unsupported = errors.AsType[*corefile.UnsupportedError](err)
		_, unlisted    = errors.AsType[*corefile.UnlistedError](err)
		_, namespace   = errors.AsType[*namespaceError](err)
	)
	if unsupported || unlisted || namespace || apierrors.IsForbidden(err) {
		return t.refused(err)
	}
	return t.in(DNSPending, err.Error())
}

// next says what to do about an error.
func next(err error) string {
	if _, ok := errors.AsType[*corefile.TakenError](err); ok {
		return ": choose another zone (value zones), or remove what serves it"
	}
	if _, ok := errors.AsType[*corefile.LayoutError](err); ok {
		return ": correct it; until then it stays as it is"
	}
	if _, ok := errors.AsType[*corefile.DamagedError](err); ok {
		return ": remove what is left of the block by hand"
	}
	if _, ok := errors.AsType[*corefile.OtherMeshError](err); ok {
		return ": uninstall one of the two, or set dns.mode to print"
	}
	if u, ok := errors.AsType[*corefile.UnlistedError](err); ok {
		return ": add {namespace: " + u.Namespace + ", name: " + u.Name + "} to it"
	}
	return ""
}

func configMapRef(namespace, name string) problem.Ref {
	return problem.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: namespace, Name: name}
}
