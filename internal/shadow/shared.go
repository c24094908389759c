package shadow

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// shared plans the Service of the shared address: the port numbers of all units that are reached through it, and for a
// while those that no unit uses any more, as clients may still know the address.
func (p *planner) shared() {
	used := map[PortKey]bool{}
	m := members{all: p.cfg.SharedHTTP, some: map[string]bool{}}
	for _, w := range p.wants {
		if w.wantsShared(p.cfg.SharedHTTP) {
			p.join(w, used, m)
		}
	}
	for _, w := range p.moving {
		p.join(w, used, m)
	}
	retiring := p.retiring(used)
	ports := slices.SortedFunc(maps.Keys(used), PortKey.Compare)
	if len(ports) == 0 {
		return
	}
	notes := map[string]string{}
	if v := m.String(); v != "" {
		notes[membersAnnotation] = v
	}
	if len(retiring) > 0 {
		// Maps are encoded in the order of their keys.
		v, _ := json.Marshal(retiring)
		notes[retirePortsAnnotation] = string(v)
	}
	targets := p.targets(SharedName, ports, func(k PortKey) { p.noSharedPort(k) })
	p.service(SharedName, KindShared, notes, targets)
}

func (p *planner) join(w want, used map[PortKey]bool, m members) {
	for _, k := range w.ports {
		used[k] = true
	}
	m.some[w.unit.String()] = true
}

// retiring adds to used the ports that are still served for a while, and returns until when.
func (p *planner) retiring(used map[PortKey]bool) map[string]string {
	out := map[string]string{}
	old := p.held.services[SharedName]
	if old == nil {
		return out
	}
	before := map[string]string{}
	// What cannot be read counts as absent: the wait starts anew.
	_ = json.Unmarshal([]byte(old.Annotations[retirePortsAnnotation]), &before)
	for _, k := range sortedKeys(p.held.targets[SharedName]) {
		if used[k] || k.UDP {
			continue
		}
		number := strconv.Itoa(int(k.Number))
		// at and note work on annotations of a Service; here each port has a time of its own.
		if v, ok := before[number]; !ok {
			p.note(out, number, p.cfg.Overlap)
		} else if p.due(parseTime(v)) {
			continue
		} else {
			out[number] = v
		}
		used[k] = true
	}
	return out
}

// noSharedPort tells every unit that is reached through the shared address on this port.
func (p *planner) noSharedPort(k PortKey) {
	for _, w := range p.wants {
		if w.wantsShared(p.cfg.SharedHTTP) && slices.Contains(w.ports, k) {
			p.noTargetPort(w, k)
		}
	}
}
