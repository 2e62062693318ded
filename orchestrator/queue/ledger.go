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

// quota is how many members of e, at most most, quotas admit.
func (l *ledger) quota(e *entry, most int) int {
	for _, p := range e.parts {
		a := l.tree.available(l.usage, e.node, p.flavor)
		most = min(most, int(max(0, a)/p.each))
	}
	return most
}

// find is a place for at least Min and at most most members of e; none is zero.
func (l *ledger) find(e *entry, most int) (Place, int) {
	n := l.quota(e, most)
	if n < e.Min {
		return nil, 0
	}
	place, n := l.places.Find(&e.Job, n)
	if n < e.Min {
		return nil, 0
	}
	return place, n
}

func (l *ledger) take(e *entry, members int, place Place) {
	l.charge(e, members)
	l.places.Take(&e.Job, place)
}

func (l *ledger) release(e *entry, members int, place Place) {
	l.charge(e, -members)
	l.places.Release(&e.Job, place)
}

func (l *ledger) charge(e *entry, members int) {
	for _, p := range e.parts {
		l.tree.charge(l.usage, e.node, p.flavor, p.each*Amount(members))
	}
}
