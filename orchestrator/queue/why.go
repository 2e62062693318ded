package queue

import (
	"fmt"
	"slices"
	"time"
)

// Why is the reason for which a job waits after the last plan. There is none for a
// job that runs, or that the plan starts.
func (s *State) Why(id JobID) (Reason, error) {
	e := s.jobs[id]
	switch {
	case e == nil:
		return Reason{}, fmt.Errorf("explaining job %q: there is none", id)
	case s.last == nil:
		return Reason{}, fmt.Errorf("explaining job %q: nothing was planned yet", id)
	case e.run != nil:
		return Reason{}, fmt.Errorf("explaining job %q: it runs", id)
	}
	if r, ok := s.last.reasons[e]; ok {
		if r.Code == "" {
			r = s.last.explain(e, r.Until)
			s.last.reasons[e] = r
		}
		return r, nil
	}
	if waits, ok := s.last.decidedFirst[e]; ok && !waits {
		return Reason{}, fmt.Errorf("explaining job %q: it starts", id)
	}
	k := e.kind
	if k == nil { // a claim without a reason
		return Reason{}, fmt.Errorf("explaining job %q: it starts", id)
	}
	if s.last.isHeld(e.node) {
		return s.last.heldUp(e.node), nil
	}
	s.last.touch(k)
	if slices.Contains(k.jobs[:k.next], e) {
		return Reason{}, fmt.Errorf("explaining job %q: it starts", id)
	}
	if k.reason.Code == "" {
		k.reason = s.last.explain(e, k.reason.Until)
	}
	if k.reason.Code == "" {
		return Reason{}, fmt.Errorf("explaining job %q: it may start by the next plan", id)
	}
	return k.reason, nil
}

// explain is what e is short of now that the plan is made, until then.
func (p *pass) explain(e *entry, until time.Time) Reason {
	if r, never := p.never(e); never {
		return r
	}
	if !p.applied {
		for _, h := range p.started {
			p.ledger.take(h)
		}
		defer func() {
			for _, h := range p.started {
				p.ledger.release(h)
			}
		}()
	}
	if slices.ContainsFunc(e.options, func(o *option) bool {
		_, n := p.ledger.find(e, o, e.Min)
		return n > 0
	}) {
		return p.behind(e)
	}
	r := p.lacks(e)
	if until.After(p.now) {
		r.Until = until
	}
	return r
}

func (p *pass) heldUp(i int) Reason {
	n := &p.tree.nodes[i]
	return Reason{Code: Held, Subject: n.name, Why: n.hold.Why, Until: n.hold.Until}
}

// waits is why e waits, after it has got a reservation if there is none before it.
func (p *pass) waits(e *entry) Reason {
	if r, ok := p.reasons[e]; ok { // evict knows
		delete(p.reasons, e)
		return r
	}
	if p.fits(e) {
		r := p.behind(e)
		if sh := p.reserve(e); sh != nil { // it was another tree's
			r.Until = sh.at
		}
		return r
	}
	if r, ok := p.never(e); ok {
		return r
	}
	var until time.Time
	if sh := p.reserve(e); sh != nil && sh.at.After(p.now) {
		until = sh.at
	} else if sh == nil && e.kind != nil {
		return Reason{} // as its kind, told when somebody asks
	}
	r := p.lacks(e)
	r.Until = until
	return r
}

// behind is that e would delay a reservation; empty: it would delay none.
func (p *pass) behind(e *entry) Reason {
	var first *shadow
	for _, sh := range p.shadows {
		if first == nil && sh.binds(e, p.now) {
			first = sh
		}
		if slices.ContainsFunc(e.options, func(o *option) bool { return p.refuses(sh, e, o, ask{e.shape, o.n, e.Min}) }) {
			first = sh
			break
		}
	}
	if first == nil && p.gaveWay != "" {
		return Reason{Code: Reserved, Subject: string(p.gaveWay)} // it has started since, or its turn came later
	}
	if first == nil {
		return Reason{}
	}
	r := Reason{Code: Reserved, Subject: string(first.holds[0].ID)}
	if first.at.After(p.now) {
		r.Until = first.at
	}
	return r
}

// never is whether and why e can never start.
func (p *pass) never(e *entry) (Reason, bool) {
	if e.kind == nil {
		return p.tooLarge(e)
	}
	return e.kind.never()
}

// lacks is what e is short of, with the option that is nearest to start.
func (p *pass) lacks(e *entry) (best Reason) {
	for _, o := range p.ledger.prefer(e) {
		if _, never := p.tree.tooLarge(e, o); never {
			continue
		}
		r, over := p.ledger.overQuota(e, o)
		if !over {
			_, n := p.ledger.places.Find(&e.Job, o.n, e.Min)
			r = p.roomFor(e, o, NoPlace, n)
		}
		if best.Code == "" || r.nearer(best) {
			best = r
		}
	}
	return best
}
