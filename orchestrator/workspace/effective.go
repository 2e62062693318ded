package workspace

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Unlimited is the cohort of the workspaces that nobody declared.
const Unlimited = "(unlimited)"

// Seen is what definitions do not say.
type Seen struct {
	// Used is past use, at least since [Definitions.UsedSince].
	Used []Use
	// Workspaces are those that there is work of, declared or not.
	Workspaces []string
	// Flavors are those of the cluster's devices, declared or not.
	Flavors []queue.Flavor
}

// Use is how long a workspace had devices on a day.
type Use struct {
	Workspace string       `json:"workspace"`
	Flavor    queue.Flavor `json:"flavor"`
	Day       time.Time    `json:"day"` // midnight UTC
	// Seconds is devices times seconds, in thousandths; of cpu and memory, their
	// units times seconds.
	Seconds queue.Amount `json:"-"`
}

// Effective is what the queue is to be opened with at now.
//
// A workspace W becomes a cohort "W" with a queue "W" and, for its endpoints, a
// queue "W/serving". Schedules that hold at now have replaced its quotas, and
// where its budget is used up both are held. Workspaces that are seen and not
// declared have such queues without limits, in the cohort [Unlimited]; they are
// held if the policy says so.
//
// cpu and memory are unlimited where no quota names them in the whole tree of
// cohorts that a workspace is in. Every flavor that is declared or seen has a
// quota somewhere, if only of nothing.
//
// next is when the answer changes by itself: a schedule begins or ends, or a
// budget that is used up begins anew; zero: never. More use may use up a budget
// any time.
func (d Definitions) Effective(now time.Time, seen Seen) (p queue.Policy, cohorts []queue.Cohort, queues []queue.Queue, next time.Time) {
	roots := d.roots()
	e := effective{now: now, used: usedOf(d, now, seen.Used), counted: d.counted(roots)}
	for _, c := range d.Cohorts {
		quotas := e.at(c.Quotas, c.Schedules)
		e.cohorts = append(e.cohorts, queue.Cohort{Name: c.Name, Parent: c.Parent, Weight: c.Weight, Quotas: quotas.queue()})
	}
	for _, w := range d.Workspaces {
		e.workspace(w, rootOf(w, roots))
	}
	e.undeclared(d, seen)
	return d.Policy.queue(), e.cohorts, e.queues, e.next
}

// AtMost is d with the greatest quotas that it has at any time, without schedules
// and budgets: what is too large for its queue there always is.
func (d Definitions) AtMost() Definitions {
	d = d.canonical()
	for i := range d.Cohorts {
		c := &d.Cohorts[i]
		c.Quotas, c.Schedules = greatest(c.Quotas, c.Schedules), nil
	}
	for i := range d.Workspaces {
		w := &d.Workspaces[i]
		w.Quotas, w.Schedules, w.Budget = greatest(w.Quotas, w.Schedules), nil, nil
	}
	return d
}

func greatest(quotas Quotas, schedules []Schedule) Quotas {
	out := maps.Clone(quotas)
	for _, s := range schedules {
		for f, q := range s.Quotas {
			if out == nil {
				out = Quotas{}
			}
			// Without a quota, all may be borrowed.
			was := out[f]
			out[f] = Quota{Nominal: max(was.Nominal, q.Nominal), Borrow: looser(was.Borrow, q.Borrow), Lend: looser(was.Lend, q.Lend)}
		}
	}
	return out
}

// looser is the greater of two limits, of which nil is none.
func looser(a, b *Amount) *Amount {
	if a == nil || b == nil {
		return nil
	}
	return new(max(*a, *b))
}

// UsedSince is since when Effective must know what was used.
func (d Definitions) UsedSince(now time.Time) time.Time {
	since := now
	for _, w := range d.Workspaces {
		if w.Budget == nil {
			continue
		}
		if begin, _ := w.Budget.Per.Around(now); begin.Before(since) {
			since = begin
		}
	}
	return since
}

func (p Policy) queue() queue.Policy {
	return queue.Policy{
		RunTime: time.Duration(p.RunTime), HalfLife: time.Duration(p.HalfLife), Aging: time.Duration(p.Aging),
		Patience: time.Duration(p.Patience), MinRunTime: time.Duration(p.MinRunTime),
		PreemptionDelay: time.Duration(p.PreemptionDelay), MaxEvictions: p.MaxEvictions,
	}
}

func (q Quotas) queue() map[queue.Flavor]queue.Quota {
	out := make(map[queue.Flavor]queue.Quota, len(q))
	for f, quota := range q {
		out[f] = queue.Quota{
			Nominal: queue.Amount(quota.Nominal), BorrowingLimit: (*queue.Amount)(quota.Borrow), LendingLimit: (*queue.Amount)(quota.Lend),
		}
	}
	return out
}

// effective collects what is effective at a moment.
type effective struct {
	now     time.Time
	used    map[string]queue.Amount          // GPU-seconds of this budget period, by workspace
	counted map[string]map[queue.Flavor]bool // of cpu and memory, those with a quota, by root
	cohorts []queue.Cohort
	queues  []queue.Queue
	next    time.Time
}

// soonest keeps the earliest moment of change.
func (e *effective) soonest(t time.Time) {
	if !t.IsZero() && (e.next.IsZero() || t.Before(e.next)) {
		e.next = t
	}
}

// at is quotas as schedules make them now.
func (e *effective) at(quotas Quotas, schedules []Schedule) Quotas {
	if len(schedules) == 0 {
		return quotas
	}
	out := maps.Clone(quotas)
	if out == nil {
		out = Quotas{}
	}
	for _, s := range schedules {
		holds, until := s.At(e.now)
		e.soonest(until)
		if holds {
			maps.Copy(out, s.Quotas)
		}
	}
	return out
}

func (e *effective) workspace(w Workspace, root string) {
	quotas := e.at(w.Quotas, w.Schedules)
	own, training, serving := map[queue.Flavor]queue.Quota{}, map[queue.Flavor]queue.Quota{}, map[queue.Flavor]queue.Quota{}
	for f, q := range quotas.queue() {
		s := w.Serving[f]
		floor, headroom := queue.Amount(s.Floor), queue.Amount(s.Headroom)
		training[f] = queue.Quota{Nominal: max(0, q.Nominal-floor-headroom)}
		own[f] = queue.Quota{BorrowingLimit: q.BorrowingLimit, LendingLimit: q.LendingLimit}
		if floor+headroom > 0 {
			serving[f] = queue.Quota{Nominal: floor + headroom, LendingLimit: &headroom}
		}
	}
	for _, f := range plain {
		if !e.counted[root][f] {
			training[f] = queue.Quota{Nominal: queue.MaxAmount}
			serving[f] = queue.Quota{Nominal: queue.MaxAmount}
		}
	}
	held := e.held(w)
	e.cohorts = append(e.cohorts, queue.Cohort{Name: w.Name, Parent: w.Cohort, Weight: w.Weight, Quotas: own})
	e.queues = append(e.queues,
		queue.Queue{ID: queueOf(w.Name, false), Cohort: w.Name, Strict: w.Strict, Quotas: training, Held: held},
		queue.Queue{ID: queueOf(w.Name, true), Cohort: w.Name, Quotas: serving, Held: held, Protected: true})
}

// held is why a workspace's budget lets nothing start, nil if it does not.
func (e *effective) held(w Workspace) *queue.Hold {
	if w.Budget == nil {
		return nil
	}
	begin, end := w.Budget.Per.Around(e.now)
	used := e.used[w.Name]
	if used/secondsPerHour < queue.Amount(w.Budget.GPUHours) {
		return nil
	}
	e.soonest(end)
	return &queue.Hold{
		Why: fmt.Sprintf("the budget of %s GPU-hours a %s is used up: %s since %s",
			w.Budget.GPUHours, w.Budget.Per, used/secondsPerHour, begin.Format(time.DateOnly)),
		Until: end,
	}
}

// undeclared adds queues without limits.
func (e *effective) undeclared(d Definitions, seen Seen) {
	declared := make(map[string]bool, len(d.Workspaces))
	for _, w := range d.Workspaces {
		declared[w.Name] = true
	}
	all, none := map[queue.Flavor]queue.Quota{}, map[queue.Flavor]queue.Quota{}
	for _, f := range d.flavors(seen) {
		all[f], none[f] = queue.Quota{Nominal: queue.MaxAmount}, queue.Quota{}
	}
	e.cohorts = append(e.cohorts, queue.Cohort{Name: Unlimited, Quotas: none})
	names := slices.DeleteFunc(slices.Clone(seen.Workspaces), func(name string) bool { return declared[name] })
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		var held *queue.Hold
		if d.Policy.HoldUndeclared {
			held = &queue.Hold{Why: fmt.Sprintf("nobody has declared a workspace %q; ask for one, or submit to another", name)}
		}
		for _, serving := range []bool{false, true} {
			e.queues = append(e.queues, queue.Queue{ID: queueOf(name, serving), Cohort: Unlimited, Quotas: all, Held: held, Protected: serving})
		}
	}
}

// flavors are all that there are.
func (d Definitions) flavors(seen Seen) []queue.Flavor {
	all := slices.Concat(plain, seen.Flavors)
	for _, f := range d.Flavors {
		all = append(all, queue.Flavor(f.Name))
	}
	return all
}

// roots are the uppermost cohorts above and including each cohort, by name.
func (d Definitions) roots() map[string]string {
	parents := make(map[string]string, len(d.Cohorts))
	for _, c := range d.Cohorts {
		parents[c.Name] = c.Parent
	}
	roots := make(map[string]string, len(d.Cohorts))
	for _, c := range d.Cohorts {
		root := c.Name
		for range maxDepth {
			if parents[root] == "" {
				break
			}
			root = parents[root]
		}
		roots[c.Name] = root
	}
	return roots
}

// rootOf is the root of the tree that a workspace is in; without a cohort, it is
// its own.
func rootOf(w Workspace, roots map[string]string) string {
	if w.Cohort == "" {
		return w.Name
	}
	return roots[w.Cohort]
}

// counted are the flavors among cpu and memory that some quota names, by root.
func (d Definitions) counted(roots map[string]string) map[string]map[queue.Flavor]bool {
	out := map[string]map[queue.Flavor]bool{}
	note := func(root string, quotas Quotas, schedules []Schedule) {
		if out[root] == nil {
			out[root] = map[queue.Flavor]bool{}
		}
		for _, f := range plain {
			_, named := quotas[f]
			for _, s := range schedules {
				_, too := s.Quotas[f]
				named = named || too
			}
			out[root][f] = out[root][f] || named
		}
	}
	for _, c := range d.Cohorts {
		note(roots[c.Name], c.Quotas, c.Schedules)
	}
	for _, w := range d.Workspaces {
		note(rootOf(w, roots), w.Quotas, w.Schedules)
	}
	return out
}

const secondsPerHour = 3600

// usedOf sums up GPU-seconds of each workspace's budget period.
func usedOf(d Definitions, now time.Time, used []Use) map[string]queue.Amount {
	begins := map[string]time.Time{}
	for _, w := range d.Workspaces {
		if w.Budget != nil {
			begins[w.Name], _ = w.Budget.Per.Around(now)
		}
	}
	sums := map[string]queue.Amount{}
	for _, u := range used {
		begin, ok := begins[u.Workspace]
		if !ok || slices.Contains(plain, u.Flavor) || u.Day.Before(begin) {
			continue
		}
		sums[u.Workspace] += min(u.Seconds, math.MaxInt64-sums[u.Workspace])
	}
	return sums
}
