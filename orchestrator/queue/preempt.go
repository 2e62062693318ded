package queue

import (
	"cmp"
	"slices"
)

// evict asks others to make room for e, if rules allow enough of them, and holds
// what they leave for e. If only the delay forbids it, that is e's reason. Once it
// was in vain for a job of a queue, those behind it do not try in this pass.
func (p *pass) evict(e *entry) bool {
	if p.fits(e) {
		return false // it waits for a reservation, not for room
	}
	if !p.mayEvict(e) {
		return false
	}
	asked := false
	for _, o := range p.ledger.prefer(e) {
		all := p.candidates(e, o)
		if len(all) == 0 {
			continue
		}
		asked = true
		victims := p.victims(e, o, all)
		if len(victims) == 0 {
			continue
		}
		if may := e.Queued.Add(p.policy.PreemptionDelay); may.After(p.now) {
			p.reasons[e] = Reason{Code: PreemptionDelay, Option: o.n, Until: may}
			return false
		}
		return p.clear(e, o, victims)
	}
	p.vainly[e.node] = asked
	return false
}

// clear asks victims to leave for e, unless that delays a reservation.
func (p *pass) clear(e *entry, o *option, victims []*entry) bool {
	h := p.without(p.base(), victims, func(l *ledger) hold {
		h, _ := l.first(e, []*option{o})
		return h
	})
	late, ok := p.takeIn(h, victims)
	if !ok {
		p.inVain[needOf(e)] = true
		return false
	}
	after := p.foresee()
	for _, sh := range p.shadows {
		sh.full = nil
	}
	for _, v := range victims {
		p.gone[v] = true
		after.release(v.held())
		p.plan.Evict = append(p.plan.Evict, Evict{v.ID, e.ID, v.lost(p.now) / float64(One), false})
	}
	h, _ = after.first(e, []*option{o})
	after.hold(h)
	p.reasons[e] = Reason{Code: Evicting, Option: o.n}
	p.renew(late)
	return true
}

// without calls do with a ledger from which jobs are gone.
func (p *pass) without(l *ledger, jobs []*entry, do func(*ledger) hold) hold {
	for _, v := range jobs {
		l.release(v.held())
	}
	h := do(l)
	for _, v := range jobs {
		l.take(v.held())
	}
	return h
}

// remove takes from a shadow what victims would still hold then.
func (sh *shadow) remove(victims []*entry) (undo func()) {
	var held []hold
	for _, v := range victims {
		if end, known := v.ends(); !known || end.After(sh.at) {
			held = append(held, v.held())
			sh.release(v.held())
		}
	}
	return func() {
		for _, h := range held {
			sh.take(h)
		}
	}
}

// fewCandidates is up to how many all ways to choose victims are compared.
const fewCandidates = 10

// victims are those who make room for e with the least lost work. Among many they
// are the better of what two greedy searches find, each without those that turn
// out not to be needed. None: rules do not allow enough.
func (p *pass) victims(e *entry, o *option, all []*entry) []*entry {
	lost := func(v *entry) float64 { return v.lost(p.now) }
	dense := func(v *entry) float64 { return v.lost(p.now) / max(1, v.size()) }
	best, least := p.cover(e, o, all, lost)
	if other, l := p.cover(e, o, all, dense); len(other) > 0 && l < least {
		best, least = other, l
	}
	if len(all) <= fewCandidates && least > 0 {
		slices.SortStableFunc(all, func(a, b *entry) int { // its own queue first
			return cmp.Compare(min(1, max(a.node-e.node, e.node-a.node)), min(1, max(b.node-e.node, e.node-b.node)))
		})
		p.search(e, o, all, nil, 0, &best, &least)
	}
	return best
}

// search tries all ways to choose from all besides chosen, which lose lost, and
// keeps the best that loses less than least.
func (p *pass) search(e *entry, o *option, all, chosen []*entry, lost float64, best *[]*entry, least *float64) {
	l := p.base()
	if lost >= *least {
		return
	}
	if _, n := l.find(e, o, e.Min); n > 0 {
		*best, *least = slices.Clone(chosen), lost
		return
	}
	for i, v := range all {
		if v.node != e.node && !p.reclaims(l, e, o, v.node) {
			continue
		}
		l.release(v.held())
		p.search(e, o, all[i+1:], append(chosen, v), lost+v.lost(p.now), best, least)
		l.take(v.held())
	}
}

// mayLeave reports whether rules allow that v is asked to leave.
func (p *pass) mayLeave(v *entry) bool {
	return v.Preemptible && !v.Foreign && !v.run.Leaving && !p.gone[v] && v.Evictions < p.policy.MaxEvictions && !v.run.Started.Add(p.policy.MinRunTime).After(p.now)
}

// below are the jobs of e's queue of lower priority.
func (p *pass) below(e *entry) []*entry {
	all := p.byNode[e.node]
	i, _ := slices.BinarySearchFunc(all, e.Priority, func(v *entry, priority int) int { return cmp.Compare(v.Priority, priority) })
	return all[:i]
}

// lenders are the queues from which e may take back what they borrow.
func (p *pass) lenders(e *entry, o *option) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		l := p.base()
		if !p.mayReclaim(l, e, o) {
			return
		}
		for _, i := range p.tree.below[p.tree.nodes[e.node].root] {
			if i != e.node && p.reclaims(l, e, o, i) && len(p.mayAllLeave(i)) > 0 && !yield(i) {
				return
			}
		}
	}
}

// mayAllLeave are the jobs of queue i who might be asked to leave at the start of the
// pass, or when this was first asked.
func (p *pass) mayAllLeave(i int) []*entry {
	all, ok := p.evictable[i]
	if !ok {
		for _, v := range p.byNode[i] {
			if p.mayLeave(v) {
				all = append(all, v)
			}
		}
		p.evictable[i] = all
	}
	return all
}

// mayEvict reports whether anybody might be asked for e, and nobody was in vain.
func (p *pass) mayEvict(e *entry) bool {
	if p.vainly[e.node] || p.inVain[needOf(e)] {
		return false
	}
	if slices.ContainsFunc(p.below(e), p.mayLeave) {
		return true
	}
	for _, o := range e.options {
		for range p.lenders(e, o) {
			return true
		}
	}
	return false
}

// candidates are those who may be asked for e, one by one.
func (p *pass) candidates(e *entry, o *option) (all []*entry) {
	add := func(from []*entry, may func(v *entry) bool) {
		for _, v := range from {
			if may(v) && slices.ContainsFunc(v.held().option.parts, func(a part) bool {
				return slices.ContainsFunc(o.parts, func(b part) bool { return a.flavor == b.flavor })
			}) {
				all = append(all, v)
			}
		}
	}
	add(p.below(e), p.mayLeave)
	for i := range p.lenders(e, o) {
		add(p.mayAllLeave(i), func(v *entry) bool { return !p.gone[v] })
	}
	return all
}

// mayReclaim reports whether e would leave any level of the tree below the top
// within its quota.
func (p *pass) mayReclaim(l *ledger, e *entry, o *option) bool {
	for d := e.node; p.tree.nodes[d].parent >= 0; d = p.tree.nodes[d].parent {
		if l.within(e, o, d) {
			return true
		}
	}
	return p.tree.nodes[e.node].protected && l.guards(e, o)
}

// reclaims reports whether e may take from queue i. Below where their ways to the top
// meet, a level of e's side stays within its quota, and the other side is over its
// own all the way down to i. Who has started so is, from there, nobody's victim.
// A protected queue takes what is its own from all that are not.
func (p *pass) reclaims(l *ledger, e *entry, o *option, i int) bool {
	if own, other := &p.tree.nodes[e.node], &p.tree.nodes[i]; own.protected && !other.protected && own.root == other.root && l.guards(e, o) {
		return true
	}
	within := false
	for d := e.node; p.tree.nodes[d].parent >= 0; d = p.tree.nodes[d].parent {
		within = within || l.within(e, o, d)
		meet := p.tree.nodes[d].parent
		for c := i; c >= 0; c = p.tree.nodes[c].parent {
			if !slices.ContainsFunc(o.parts, func(q part) bool { return p.tree.over(l.usage, c, q.flavor) }) {
				break
			}
			if p.tree.nodes[c].parent == meet {
				return c != d && within
			}
		}
	}
	return false
}

// cover picks victims by ascending cost until e fits, and spares those that are
// not needed, the dearest first. lost is what they lose together.
func (p *pass) cover(e *entry, o *option, all []*entry, cost func(*entry) float64) (victims []*entry, lost float64) {
	l := p.base()
	type priced struct {
		*entry
		cost float64
	}
	order := make([]priced, len(all))
	for i, v := range all {
		order[i] = priced{v, cost(v)}
	}
	before := func(a, b priced) bool { // among equals: the lowest priority, then the latest
		if a.cost != b.cost {
			return a.cost < b.cost
		}
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), older(b.entry, a.entry)) < 0
	}
	heapify(order, before) // few of them are needed
	fit := func() bool {
		_, n := l.find(e, o, e.Min)
		return n > 0
	}
	next := func() bool {
		for len(order) > 0 {
			v := order[0].entry
			order[0] = order[len(order)-1]
			order = order[:len(order)-1]
			if len(order) > 0 {
				sink(order, 0, before)
			}
			if v.node == e.node || p.reclaims(l, e, o, v.node) {
				l.release(v.held())
				victims = append(victims, v)
				return true
			}
		}
		return false
	}
	n, fits := fewest(next, func(i int) { l.take(victims[i].held()) }, func(i int) { l.release(victims[i].held()) }, fit)
	victims = victims[:n]
	foreign := slices.ContainsFunc(victims, func(v *entry) bool { return v.node != e.node })
	for i := len(victims) - 1; i >= 0 && fits; i-- {
		v := victims[i]
		if v.node == e.node && foreign {
			continue // with it, e might not be within its quota
		}
		l.take(v.held())
		if !fit() {
			l.release(v.held())
			continue
		}
		victims = slices.Delete(victims, i, i+1)
	}
	for _, v := range victims {
		l.take(v.held())
		lost += v.lost(p.now)
	}
	if !fits {
		return nil, 0
	}
	return victims, lost
}
