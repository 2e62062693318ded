package queue

import "slices"

// ledger is who uses what: quota and places together.
type ledger struct {
	tree   *tree
	usage  usage
	places Places
}

func (l *ledger) clone() *ledger {
	return &ledger{l.tree, slices.Clone(l.usage), l.places.Clone()}
}

// quota is how many members of e, at most most, quotas admit with an option.
func (l *ledger) quota(e *entry, o *option, most int) int {
	for _, p := range o.parts {
		a := l.tree.available(l.usage, e.node, p.flavor)
		most = min(most, int(max(0, a)/p.each))
	}
	return most
}

// find is a place for at least Min and at most most members of e with an option;
// none is zero.
func (l *ledger) find(e *entry, o *option, most int) (Place, int) {
	n := l.quota(e, o, most)
	if n < e.Min {
		return nil, 0
	}
	place, n := l.places.Find(&e.Job, o.n, n)
	if n < e.Min {
		return nil, 0
	}
	return place, n
}

// first is a place for Min members of e with the first of options that has one.
func (l *ledger) first(e *entry, options []*option) (hold, bool) {
	for _, o := range options {
		if place, n := l.find(e, o, e.Min); n > 0 {
			return hold{e, o, n, place}, true
		}
	}
	return hold{}, false
}

// prefer is the order in which options of e are tried: those that stay within the
// queue's quota before those that borrow, otherwise as the job has them.
func (l *ledger) prefer(e *entry) []*option {
	if len(e.options) == 1 {
		return e.options
	}
	own, more := l.own(e)
	return append(own, more...)
}

// own are the options with which e stays within its queue's quota, and the others.
func (l *ledger) own(e *entry) (own, more []*option) {
	for _, o := range e.options {
		if l.borrows(e, o) {
			more = append(more, o)
		} else {
			own = append(own, o)
		}
	}
	return own, more
}

// borrows reports whether e would take its queue over its quota.
func (l *ledger) borrows(e *entry, o *option) bool {
	return l.tree.nodes[e.node].parent >= 0 && !l.within(e, o, e.node)
}

// within reports whether node d, at or above e's queue, stays within its quota if
// e starts.
func (l *ledger) within(e *entry, o *option, d int) bool {
	for _, p := range o.parts {
		if !l.tree.within(l.usage, d, e.node, p.flavor, p.each*Amount(e.Min)) {
			return false
		}
	}
	return true
}

// guards reports whether e stays within what its queue has of its own, of those
// flavors that it has any of: what it needs besides may be borrowed.
func (l *ledger) guards(e *entry, o *option) bool {
	some := false
	for _, p := range o.parts {
		if l.tree.nodes[e.node].nominal[p.flavor] == 0 {
			continue
		}
		if !l.tree.within(l.usage, e.node, e.node, p.flavor, p.each*Amount(e.Min)) {
			return false
		}
		some = true
	}
	return some
}

func (l *ledger) take(h hold) {
	l.charge(h, 1)
	l.places.Take(&h.Job, h.option.n, h.place)
}

func (l *ledger) release(h hold) {
	l.charge(h, -1)
	l.places.Release(&h.Job, h.option.n, h.place)
}

func (l *ledger) charge(h hold, sign Amount) {
	for _, p := range h.option.parts {
		l.tree.charge(l.usage, h.node, p.flavor, sign*p.each*Amount(h.members))
	}
}
