package queue

import (
	"slices"
	"time"
)

// shadow is the ledger as it will be at a later time, with what is held for jobs
// that start then.
type shadow struct {
	*ledger
	at    time.Time
	holds []hold
	// Of a reservation: the tree that it is of, and whether it stays within quota.
	root int
	firm bool
	// beside are the holds of reservations before it, as they were.
	beside map[*shadow][]hold
	// full are the asks that found no place here. A pass only makes it fuller, but
	// for evictions.
	full map[ask]bool
}

// ask is members of the same needs.
type ask struct {
	*shape
	option, members int
}

func (h hold) ask() ask { return ask{h.shape, h.option.n, h.members} }

// binds reports whether e, started now, would still run then.
func (sh *shadow) binds(e *entry, now time.Time) bool {
	return len(sh.holds) > 0 && (e.Foreign || now.Add(e.RunTime).After(sh.at))
}

func (sh *shadow) hold(h hold) {
	sh.take(h)
	sh.holds = append(sh.holds, h)
}

// fewHolds is up to how many holds are moved so that a job may have its place.
const fewHolds = 8

// admit takes what h has now if all that is held still fits, if elsewhere. It
// returns how to take that back.
func (sh *shadow) admit(h hold) (undo func(), ok bool) {
	old := sh.holds
	if sh.quota(h.entry, h.option, h.members) < h.members {
		return nil, false
	}
	if sh.places.Free(&h.Job, h.option.n, h.place) {
		sh.take(h)
		return func() { sh.release(h) }, true
	}
	if len(old) > fewHolds {
		return nil, false
	}
	refuse := func() (func(), bool) {
		if sh.full == nil {
			sh.full = map[ask]bool{}
		}
		sh.full[h.ask()] = true
		return nil, false
	}
	if _, n := sh.places.Find(&h.Job, h.option.n, h.members); n < h.members {
		return refuse()
	}
	for _, o := range old {
		sh.release(o)
	}
	sh.holds = nil
	sh.take(h)
	undo = func() {
		for _, o := range sh.holds {
			sh.release(o)
		}
		sh.release(h)
		sh.holds = nil
		for _, o := range old {
			sh.hold(o)
		}
	}
	for _, o := range old {
		place, n := sh.find(o.entry, o.option, o.members)
		if n < o.members {
			undo()
			return refuse()
		}
		sh.hold(hold{o.entry, o.option, n, place})
	}
	return undo, true
}

// foresee is the shadow in which all who were asked to leave are gone, and those
// whom they make room for have it. It is due at any moment.
func (p *pass) foresee() *shadow {
	if p.after == nil {
		p.after = &shadow{ledger: p.ledger.clone(), at: p.now}
		for _, e := range p.leaving {
			p.after.release(e.held())
		}
		p.shadows = append([]*shadow{p.after}, p.shadows...)
	}
	return p.after
}

// base is what will be there when those who leave are gone.
func (p *pass) base() *ledger {
	if p.after != nil {
		return p.after.ledger
	}
	return p.ledger
}

// vain is for how many jobs of a tree a pass looks for a start that does not come,
// because what they need is held by work of which nobody knows when it ends.
const vain = 8

// reserve finds the earliest start of e, by declared run times, and holds what it
// needs then: with an option that does not borrow, if it has one. It is nil if
// another job of the tree has the reservation, or if there is no such start.
func (p *pass) reserve(e *entry) *shadow {
	root := p.tree.nodes[e.node].root
	if p.reserved[root] != nil || e.claim || p.walks[root] >= vain {
		return nil
	}
	own, options := p.ledger.own(e)
	if len(own) > 0 {
		options = own
	}
	if _, ok := p.lasting.first(e, options); !ok {
		p.walks[root]++ // nobody knows when
		return nil
	}
	sh := &shadow{ledger: p.base().clone(), root: root, firm: len(own) > 0, beside: map[*shadow][]hold{}}
	for _, other := range p.shadows {
		if other != p.after {
			sh.beside[other] = slices.Clone(other.holds)
			for _, h := range other.holds {
				sh.take(h)
			}
		}
	}
	h, at, ok := p.earliest(sh.ledger, e, options)
	if !ok {
		p.walks[root]++
		return nil
	}
	sh.at = at
	if at.Before(p.now) {
		sh.at = p.now // it is overdue, and may end at any moment
	}
	sh.hold(h)
	p.reserved[root] = sh
	p.shadows = append(p.shadows, sh)
	p.plan.Reserve = append(p.plan.Reserve, Reservation{e.ID, sh.at, sh.firm})
	return sh
}

// earliest is when e starts at the latest, with one of options, and where. Jobs that
// have ended by then are gone from l.
func (p *pass) earliest(l *ledger, e *entry, options []*option) (h hold, at time.Time, ok bool) {
	fits := func() bool {
		there, ok := l.first(e, options)
		if ok {
			h = there
		}
		return ok
	}
	if fits() {
		return h, p.now, true
	}
	next := p.endings()
	var ends []ending
	end := func() bool {
		one, more := next()
		if more {
			ends = append(ends, one)
			l.release(one.hold)
		}
		return more
	}
	n, ok := fewest(end, func(i int) { l.take(ends[i].hold) }, func(i int) { l.release(ends[i].hold) }, fits)
	if !ok {
		return hold{}, time.Time{}, false
	}
	// Those who end with the last one are gone, too, and all who are overdue.
	at = ends[n-1].at
	together := func(x ending) bool { return !x.at.After(at) || !x.at.After(p.now) }
	for ; n < len(ends) && together(ends[n]); n++ {
		l.release(ends[n].hold)
	}
	for n == len(ends) {
		x, more := next()
		if !more || !together(x) {
			break
		}
		l.release(x.hold)
	}
	return h, at, true
}

// fewest is the least number of steps after which a condition holds that no step
// ever ends; that many are done at the end. It looks after 1, 3, 7 and so on, and
// goes back by halves. Step does one more, and is false if there is none; back undoes
// the i-th and again does it, from 0.
func fewest(step func() bool, back, again func(i int), holds func() bool) (n int, ok bool) {
	short := 0 // so many are known not to do
	for more := true; more && !ok; {
		for more && n < 2*short+1 {
			if more = step(); more {
				n++
			}
		}
		if ok = n > short && holds(); !ok {
			short = n
		}
	}
	for done := n; ok; {
		to := n
		if short+1 < n {
			to = (short + n) / 2
		}
		for ; done > to; done-- {
			back(done - 1)
		}
		for ; done < to; done++ {
			again(done)
		}
		switch {
		case to == n:
			return n, true
		case holds():
			n = to
		default:
			short = to
		}
	}
	return n, false
}

// ending is what is given back when a job ends.
type ending struct {
	hold
	at time.Time
}

// endings are those of jobs that run or start now, by declared run times, one
// after the other. Those of which nobody knows are not among them.
func (p *pass) endings() func() (ending, bool) {
	var started []ending
	for _, h := range p.started {
		started = append(started, ending{h, p.now.Add(h.RunTime)})
	}
	slices.SortStableFunc(started, func(a, b ending) int { return a.at.Compare(b.at) })
	running := p.byEnd
	return func() (first ending, ok bool) {
		for len(running) > 0 && (running[0].run.Leaving || p.gone[running[0]]) {
			running = running[1:]
		}
		if len(running) > 0 {
			if at, known := running[0].ends(); known {
				first, ok = ending{running[0].held(), at}, true
			}
		}
		if len(started) > 0 && (!ok || started[0].at.Before(first.at)) {
			first, ok = started[0], true
			started = started[1:]
		} else if ok {
			running = running[1:]
		}
		return first, ok
	}
}

// admit takes h in all shadows that it reaches into, or in none. late are those that
// give way to it, if it is admitted.
func (p *pass) admit(h hold) (late []*shadow, ok bool) {
	if slices.ContainsFunc(p.shadows, func(sh *shadow) bool { return p.refuses(sh, h.entry, h.option, h.ask()) }) {
		return nil, false // which costs little to know
	}
	return p.takeIn(h, nil)
}

// takeIn takes h in all shadows that it reaches into, once victims are gone from
// them; or in none.
func (p *pass) takeIn(h hold, victims []*entry) (late []*shadow, ok bool) {
	var undo []func()
	own := p.reserved[p.tree.nodes[h.node].root] // the likeliest to refuse
	for i := range len(p.shadows) + 1 {
		sh := own
		if i > 0 {
			sh = p.shadows[i-1]
		}
		if sh == nil || i > 0 && sh == own || len(victims) > 0 && sh == p.after {
			continue
		}
		if len(victims) > 0 {
			undo = append(undo, sh.remove(victims))
		}
		if !sh.binds(h.entry, p.now) {
			continue
		}
		u, ok := sh.admit(h)
		switch {
		case ok:
			undo = append(undo, u)
		case p.yields(sh, h.entry, h.option):
			late = append(late, sh)
		default:
			for _, u := range slices.Backward(undo) {
				u()
			}
			return nil, false
		}
	}
	return late, true
}

// yields reports whether a reservation gives way to e: it would borrow, and e needs
// what is its queue's own.
func (p *pass) yields(sh *shadow, e *entry, o *option) bool {
	return sh != p.after && !sh.firm && sh.root == p.tree.nodes[e.node].root && !p.ledger.borrows(e, o)
}

// refuses reports whether it is known that e, started now with an option, would
// leave too little for a reservation that does not give way.
func (p *pass) refuses(sh *shadow, e *entry, o *option, a ask) bool {
	return sh.binds(e, p.now) && (sh.full[a] || sh.quota(e, o, a.members) < a.members) && !p.yields(sh, e, o)
}

// unreserve takes a reservation back.
func (p *pass) unreserve(sh *shadow) {
	p.shadows = slices.DeleteFunc(p.shadows, func(o *shadow) bool { return o == sh })
	p.plan.Reserve = slices.DeleteFunc(p.plan.Reserve, func(r Reservation) bool { return r.Job == sh.holds[0].ID })
	delete(p.reserved, sh.root)
	p.gaveWay = sh.holds[0].ID
	for _, other := range p.shadows {
		for _, h := range other.beside[sh] {
			other.release(h)
			other.full = nil
		}
		delete(other.beside, sh)
	}
}

// renew makes reservations anew that gave way.
func (p *pass) renew(late []*shadow) {
	for _, sh := range late {
		e := sh.holds[0].entry
		p.unreserve(sh)
		r, own := p.reasons[e]
		if !own && e.kind != nil {
			r = e.kind.reason
		}
		r.Until = time.Time{}
		if again := p.reserve(e); again != nil {
			r.Until = again.at
		}
		if own {
			p.reasons[e] = r
		} else if e.kind != nil {
			e.kind.reason = r
		}
	}
}
