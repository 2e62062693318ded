package queue

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Code is why a job waits.
type Code string

// The reasons. There are no others.
const (
	// TooLarge: it needs more than its queue can ever use.
	TooLarge Code = "too_large"
	// QueueLimit: its queue uses as much as it may, borrowed quota included.
	QueueLimit Code = "queue_limit"
	// QuotaInUse: the quota that its queue could use is used.
	QuotaInUse Code = "quota_in_use"
	// NoPlace: quota is there; room for enough members at once is not.
	NoPlace Code = "no_place"
	// Reserved: it would delay a job that is before it and has a reservation.
	Reserved Code = "reserved"
	// BehindHead: its queue is strict, and a job before it waits.
	BehindHead Code = "behind_head"
	// PreemptionDelay: it may evict others once it has waited long enough.
	PreemptionDelay Code = "preemption_delay"
	// Held: nothing new starts in its queue.
	Held Code = "held"
	// Evicting: others make room for it.
	Evicting Code = "evicting"
)

// Reason is why a job waits, in numbers.
type Reason struct {
	Code Code
	// Subject is the queue or cohort whose limit it is, or the job before it.
	Subject string
	// Option is which of its alternatives this is about: the one that is nearest to
	// start.
	Option int
	// Why is why its queue is held.
	Why string
	// Flavor is what it is short of most; Need what it needs of that at least, and
	// Have what it could have.
	Flavor     Flavor
	Need, Have Amount
	// Members is how many it needs at least, Placeable how many have room.
	Members, Placeable int
	// Until is when the wait is over, as far as is known.
	Until time.Time
	// Raise is the smallest addition to the nominal quota of the job's queue that
	// takes this reason away. Where Have is negative, because quotas were cut or
	// others' work exceeds them, it is enough, and less may be.
	Raise Resources
}

// String is the reason and what to do about it, in a sentence.
func (r Reason) String() string {
	switch r.Code {
	case TooLarge:
		if len(r.Raise) == 0 {
			return fmt.Sprintf("needs %d members of %s %s; all nodes together have room for %d; add nodes for %d more, or ask for less", r.Members, r.Need, r.Flavor, r.Placeable, r.Members-r.Placeable)
		}
		return fmt.Sprintf("needs %s %s; %q limits its queue to %s; %s", r.Need, r.Flavor, r.Subject, r.Have, r.raise("or ask for less"))
	case QueueLimit:
		return fmt.Sprintf("needs %s %s; queue %q may use %s more; %s", r.Need, r.Flavor, r.Subject, max(0, r.Have), r.raise("or wait for its jobs to end"))
	case QuotaInUse:
		return fmt.Sprintf("needs %s %s; %q has %s unused; %s", r.Need, r.Flavor, r.Subject, max(0, r.Have), r.raise("or wait for jobs to end"))
	case NoPlace:
		return fmt.Sprintf("needs room for %d members of %s %s at once; there is room for %d; add nodes for %d more%s", r.Members, r.Need, r.Flavor, r.Placeable, r.Members-r.Placeable, r.until())
	case Reserved:
		return fmt.Sprintf("would delay job %q, which is before it%s; declare a shorter run time, or wait", r.Subject, r.until())
	case BehindHead:
		return fmt.Sprintf("job %q is before it in a strict queue; wait, or let the queue be best effort", r.Subject)
	case PreemptionDelay:
		return "may evict others" + r.until() + "; wait"
	case Held:
		return fmt.Sprintf("nothing starts in queue %q%s: %s", r.Subject, r.until(), r.Why)
	case Evicting:
		return "others are leaving to make room; it starts when they are gone"
	}
	return "unknown reason " + string(r.Code)
}

func (r Reason) raise(or string) string {
	var s []string
	for _, f := range slices.Sorted(maps.Keys(r.Raise)) {
		s = append(s, fmt.Sprintf("%s %s", r.Raise[f], f))
	}
	return "raise its queue's nominal quota by " + strings.Join(s, " and ") + ", " + or
}

func (r Reason) until() string {
	if r.Until.IsZero() {
		return ""
	}
	return ", until " + r.Until.UTC().Format(time.RFC3339)
}

// Refusal is returned for a job that can never be admitted.
type Refusal struct {
	Job    JobID
	Reason Reason
}

func (r *Refusal) Error() string { return fmt.Sprintf("job %q %s", r.Job, r.Reason) }

// tooLarge is why e can never start with an option, whatever ends.
func (t *tree) tooLarge(e *entry, o *option) (Reason, bool) {
	r := Reason{Code: TooLarge, Option: o.n, Raise: Resources{}}
	for _, p := range o.parts {
		need := p.each * Amount(e.Min)
		most, limit := t.ceiling(e.node, p.flavor)
		if short := need - most; short > 0 {
			r.short(t.flavors[p.flavor], need, most, t.nodes[limit].name)
		}
	}
	return r, len(r.Raise) > 0
}

// overQuota is why quotas do not admit e with an option now.
func (l *ledger) overQuota(e *entry, o *option) (Reason, bool) {
	r := Reason{Code: QuotaInUse, Option: o.n, Raise: Resources{}}
	for _, p := range o.parts {
		need := p.each * Amount(e.Min)
		have := l.tree.available(l.usage, e.node, p.flavor)
		if have >= need {
			continue
		}
		n := &l.tree.nodes[e.node]
		own := n.total[p.flavor] + n.borrow[p.flavor] - l.usage[l.tree.at(e.node, p.flavor)]
		limited := n.borrow[p.flavor] >= 0 && own <= have || n.parent < 0
		code, at := QuotaInUse, n.root
		if limited {
			code, at = QueueLimit, e.node
		}
		if r.short(l.tree.flavors[p.flavor], need, have, l.tree.nodes[at].name) {
			r.Code = code
		}
	}
	return r, len(r.Raise) > 0
}

// short notes that a flavor lacks, and reports whether it lacks most.
func (r *Reason) short(f Flavor, need, have Amount, subject string) bool {
	r.Raise[f] = need - have
	if r.Need > 0 && missing(need, have) <= missing(r.Need, r.Have) {
		return false
	}
	r.Flavor, r.Need, r.Have, r.Subject = f, need, have, subject
	return true
}

// missing is the part of what a job needs that it is short of: of quota more than
// of room, which others leave sooner.
func (r Reason) missing() float64 {
	if len(r.Raise) > 0 {
		return 1 + missing(r.Need, r.Have)
	}
	return float64(r.Members-r.Placeable) / float64(max(1, r.Members))
}

func missing(need, have Amount) float64 { return float64(need-have) / float64(need) }

// nearer reports whether less is missing than with another option.
func (r Reason) nearer(o Reason) bool { return r.missing() < o.missing() }
