package queue_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// old is a flavor besides gpu.
const old queue.Flavor = "old"

// cluster is a random tree of cohorts, and nodes that hold as much as its quotas.
func cluster(t *rapid.T) (queue.Snapshot, func() queue.Places) {
	var s queue.Snapshot
	total := map[queue.Flavor]int{}
	quotas := func(label string) map[queue.Flavor]queue.Quota {
		qs := map[queue.Flavor]queue.Quota{}
		for _, f := range []queue.Flavor{gpu, old} {
			label := label + " " + string(f)
			n := rapid.IntRange(0, 4).Draw(t, label)
			total[f] += n
			q := queue.Quota{Nominal: queue.Amount(n) * queue.One}
			if rapid.Bool().Draw(t, label+" borrows less") {
				q.BorrowingLimit = limit(rapid.IntRange(0, 3).Draw(t, label+" borrowing"))
			}
			if rapid.Bool().Draw(t, label+" lends less") {
				q.LendingLimit = limit(rapid.IntRange(0, 3).Draw(t, label+" lending"))
			}
			qs[f] = q
		}
		return qs
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "cohorts") {
		c := queue.Cohort{Name: fmt.Sprint("c", i), Quotas: quotas("cohort")}
		if i > 0 && rapid.Bool().Draw(t, "nested") {
			c.Parent = fmt.Sprint("c", rapid.IntRange(0, i-1).Draw(t, "parent"))
		}
		s.Cohorts = append(s.Cohorts, c)
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "queues") {
		s.Queues = append(s.Queues, queue.Queue{
			ID: queue.QueueID(fmt.Sprint("q", i)), Quotas: quotas("queue"), Strict: rapid.Bool().Draw(t, "strict"),
			Cohort: fmt.Sprint("c", rapid.IntRange(0, len(s.Cohorts)-1).Draw(t, "cohort")),
		})
	}
	s.Policy = queue.Policy{
		HalfLife:        time.Duration(rapid.IntRange(0, 2).Draw(t, "half-life")) * time.Hour,
		Aging:           time.Duration(rapid.IntRange(0, 1).Draw(t, "aging")) * time.Hour,
		Patience:        20 * time.Hour,
		MinRunTime:      time.Duration(rapid.IntRange(0, 1).Draw(t, "min run time")) * 10 * time.Minute,
		PreemptionDelay: time.Duration(rapid.IntRange(0, 1).Draw(t, "delay")) * 5 * time.Minute,
		MaxEvictions:    2,
	}
	each := rapid.IntRange(1, 4).Draw(t, "node")
	return s, func() queue.Places {
		m := map[queue.NodeID]queue.Resources{}
		for f, n := range total {
			for i := range (n + each - 1) / each {
				m[queue.NodeID(fmt.Sprint(f, i))] = queue.Resources{f: queue.Amount(each) * queue.One}
			}
		}
		return queue.NewCounting(m)
	}
}

// model follows a state with naive books of its own.
type model struct {
	*rapid.T
	snap     queue.Snapshot
	foreign  int // jobs that run, and are not Drover's
	places   func() queue.Places
	state    *queue.State
	now      time.Time
	jobs     map[queue.JobID]queue.Job
	running  map[queue.JobID]queue.Start
	started  map[queue.JobID]time.Time
	leaving  map[queue.JobID]bool
	evicted  map[queue.JobID]int
	promised map[queue.JobID]time.Time
	next     int
}

func (m *model) submit() {
	j := job(fmt.Sprintf("j%04d", m.next), string(rapid.SampledFrom(m.snap.Queues).Draw(m.T, "queue").ID), rapid.IntRange(1, 3).Draw(m.T, "gpus"))
	m.next++
	j.Submitted, j.Queued = m.now, m.now
	j.Priority = rapid.IntRange(0, 2).Draw(m.T, "priority")
	j.Preemptible = rapid.Bool().Draw(m.T, "preemptible")
	j.Min = rapid.IntRange(1, 3).Draw(m.T, "min")
	j.Max = j.Min + rapid.IntRange(0, 1).Draw(m.T, "more")
	j.RunTime = time.Duration(rapid.IntRange(1, 4).Draw(m.T, "run time")) * 15 * time.Minute
	for range rapid.IntRange(0, 2).Draw(m.T, "alternatives") {
		f := rapid.SampledFrom([]queue.Flavor{gpu, old}).Draw(m.T, "flavor")
		j.Or = append(j.Or, queue.Resources{f: queue.Amount(rapid.IntRange(1, 3).Draw(m.T, "amount")) * queue.One})
	}
	var refused *queue.Refusal
	if err := m.state.Submit(j); errors.As(err, &refused) {
		if refused.Reason.Code != queue.TooLarge {
			m.Fatalf("refused: %v", err)
		}
		return
	} else if err != nil {
		m.Fatal(err)
	}
	m.jobs[j.ID] = j
	clear(m.promised) // who comes first may have changed
}

// pass lets time pass until the next job ends, at most an hour, and ends it.
func (m *model) pass() {
	d := time.Duration(rapid.IntRange(0, 12).Draw(m.T, "minutes")) * 5 * time.Minute
	m.now = m.now.Add(d)
	for _, id := range slices.Sorted(maps.Keys(m.running)) {
		if j := m.jobs[id]; !m.started[id].Add(j.RunTime).After(m.now) && (!j.Foreign || rapid.Bool().Draw(m.T, "foreign ends")) {
			m.end(id)
		}
	}
}

func (m *model) end(id queue.JobID) {
	if err := m.state.End(id, m.now); err != nil {
		m.Fatal(err)
	}
	delete(m.running, id)
	delete(m.leaving, id)
	delete(m.promised, id)
	if m.jobs[id].Foreign {
		m.foreign--
	}
	delete(m.jobs, id)
}

// others are jobs that run already, and are not Drover's.
func (m *model) others() {
	free := m.places()
	for i := range rapid.IntRange(0, 2).Draw(m.T, "foreign") {
		j := job(fmt.Sprint("f", i), string(rapid.SampledFrom(m.snap.Queues).Draw(m.T, "queue").ID), rapid.IntRange(1, 2).Draw(m.T, "gpus"))
		j.Foreign, j.Max = true, 1
		place, n := free.Find(&j, 0, 1)
		if n == 0 || place == nil {
			continue
		}
		free.Take(&j, 0, place)
		m.snap.Running = append(m.snap.Running, queue.Running{Job: j, Run: queue.Run{Started: start, Members: 1, Place: place}})
		m.jobs[j.ID], m.running[j.ID], m.started[j.ID] = j, queue.Start{Job: j.ID, Members: 1, Place: place}, start
		m.foreign++
	}
}

// leave lets a victim go.
func (m *model) leave() {
	if len(m.leaving) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.leaving))).Draw(m.T, "leaves")
	if err := m.state.Requeue(id, m.now); err != nil {
		m.Fatal(err)
	}
	delete(m.leaving, id)
	delete(m.running, id)
	clear(m.promised)
	j := m.jobs[id]
	j.Queued = m.now
	m.jobs[id] = j
}

// decide plans, compares with a state opened anew, checks and applies.
func (m *model) decide() {
	plan := m.state.Plan(m.now)
	anew, err := queue.Open(m.state.Snapshot(), m.places())
	if err != nil {
		m.Fatal(err)
	}
	if diff := cmp.Diff(anew.Plan(m.now), plan); diff != "" {
		m.Fatalf("a state opened anew decides otherwise (-anew +kept):\n%s", diff)
	}
	m.checkReasons(plan)
	m.checkVictims(plan)
	for _, r := range plan.Reserve {
		if was, ok := m.promised[r.Job]; ok && r.Firm && r.At.After(was) && r.At.After(m.now) {
			m.Fatalf("job %s was promised a start at %s, now %s", r.Job, was, r.At)
		}
	}
	clear(m.promised)
	if len(plan.Evict) == 0 && len(m.leaving) == 0 {
		for _, r := range plan.Reserve {
			if r.Firm {
				m.promised[r.Job] = r.At
			}
		}
	}
	if err := m.state.Apply(plan, m.now); err != nil {
		m.Fatal(err)
	}
	for _, s := range plan.Start {
		if j := m.jobs[s.Job]; s.Members < j.Min || s.Members > j.Max {
			m.Fatalf("job %s of %d to %d members started with %d", s.Job, j.Min, j.Max, s.Members)
		}
		m.running[s.Job], m.started[s.Job] = s, m.now
	}
	for _, e := range plan.Evict {
		m.leaving[e.Job] = true
		m.evicted[e.Job]++
	}
	m.checkBooks()
}

// checkReasons: a waiting job has one reason, others none.
func (m *model) checkReasons(plan queue.Plan) {
	starts := map[queue.JobID]bool{}
	for _, s := range plan.Start {
		starts[s.Job] = true
	}
	for id := range m.jobs {
		_, runs := m.running[id]
		r, err := m.state.Why(id)
		if waits := !runs && !starts[id]; waits != (err == nil) {
			m.Fatalf("job %s: waits=%t, but its reason is %v, %v", id, waits, r, err)
		} else if waits && (r.Code == "" || r.String() == "") {
			m.Fatalf("job %s has the reason %+v", id, r)
		}
	}
}

// checkVictims holds plans against the rules.
func (m *model) checkVictims(plan queue.Plan) {
	seen := map[queue.JobID]bool{}
	for _, e := range plan.Evict {
		v, by := m.jobs[e.Job], m.jobs[e.For]
		switch {
		case seen[e.Job] || m.leaving[e.Job]:
			m.Fatalf("job %s is evicted twice at once", e.Job)
		case !v.Preemptible:
			m.Fatalf("job %s is not preemptible", e.Job)
		case m.now.Sub(by.Queued) < m.snap.Policy.PreemptionDelay:
			m.Fatalf("job %s evicts too early", e.For)
		case m.now.Sub(m.started[e.Job]) < m.snap.Policy.MinRunTime:
			m.Fatalf("job %s is evicted too young", e.Job)
		case m.evicted[e.Job] >= m.snap.Policy.MaxEvictions:
			m.Fatalf("job %s is evicted once more", e.Job)
		case v.Queue == by.Queue && v.Priority >= by.Priority:
			m.Fatalf("job %s evicts %s of its queue and no lower priority", e.For, e.Job)
		}
		seen[e.Job] = true
	}
}

// checkBooks counts anew: nodes hold what they have, and the tree is within quota.
func (m *model) checkBooks() {
	type key struct {
		queue string
		queue.Flavor
	}
	used := map[key]queue.Amount{}
	free := m.places()
	for id, s := range m.running {
		j := m.jobs[id]
		free.Take(&j, s.Option, s.Place)
		for f, a := range j.Option(s.Option) {
			used[key{string(j.Queue), f}] += a * queue.Amount(s.Members)
		}
		members := 0
		for _, spot := range s.Place {
			members += spot.Members
		}
		if members != s.Members {
			m.Fatalf("job %s has %d members and places for %d", id, s.Members, members)
		}
	}
	if !free.(*queue.Counting).Sound() {
		m.Fatal("a node holds more than it has")
	}
	for _, f := range []queue.Flavor{gpu, old} {
		of := func(queue string) queue.Amount { return used[key{queue, f}] }
		for _, c := range m.snap.Cohorts {
			if u, q := m.below(c.Name, f, of); c.Parent == "" && u > q && m.foreign == 0 {
				m.Fatalf("cohort %s uses %s of %s %s", c.Name, u, q, f)
			}
		}
		for _, q := range m.snap.Queues {
			if b := q.Quotas[f].BorrowingLimit; b != nil && of(string(q.ID)) > q.Quotas[f].Nominal+*b && m.foreign == 0 {
				m.Fatalf("queue %s uses %s %s", q.ID, of(string(q.ID)), f)
			}
		}
	}
}

// below is use and quota of a cohort with all that is below it.
func (m *model) below(cohort string, f queue.Flavor, used func(string) queue.Amount) (u, q queue.Amount) {
	for _, c := range m.snap.Cohorts {
		if c.Name == cohort {
			q += c.Quotas[f].Nominal
		}
		if c.Parent == cohort {
			du, dq := m.below(c.Name, f, used)
			u, q = u+du, q+dq
		}
	}
	for _, c := range m.snap.Queues {
		if c.Cohort == cohort {
			u, q = u+used(string(c.ID)), q+c.Quotas[f].Nominal
		}
	}
	return u, q
}

// TestModel runs random traces on random clusters in virtual time.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		snap, places := cluster(rt)
		m := &model{T: rt, snap: snap, places: places, now: start, jobs: map[queue.JobID]queue.Job{},
			running: map[queue.JobID]queue.Start{}, started: map[queue.JobID]time.Time{}, leaving: map[queue.JobID]bool{},
			evicted: map[queue.JobID]int{}, promised: map[queue.JobID]time.Time{}}
		m.others()
		state, err := queue.Open(m.snap, places())
		if err != nil {
			rt.Fatal(err)
		}
		m.state = state
		rt.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) { m.T = t; m.submit() },
			"pass":   func(t *rapid.T) { m.T = t; m.pass(); m.decide() },
			"leave":  func(t *rapid.T) { m.T = t; m.leave(); m.decide() },
			"decide": func(t *rapid.T) { m.T = t; m.decide() },
		})
		// With nothing new, all that waits starts: nobody starves.
		m.T = rt
		for range 2000 {
			if len(m.jobs) == 0 {
				return
			}
			for _, id := range slices.Sorted(maps.Keys(m.leaving)) {
				if err := state.Requeue(id, m.now); err != nil {
					rt.Fatal(err)
				}
				delete(m.running, id)
				j := m.jobs[id]
				j.Queued = m.now
				m.jobs[id] = j
			}
			clear(m.leaving)
			clear(m.promised)
			m.decide()
			m.now = m.now.Add(5 * time.Minute)
			for _, id := range slices.Sorted(maps.Keys(m.running)) {
				if !m.started[id].Add(m.jobs[id].RunTime).After(m.now) {
					m.end(id)
				}
			}
		}
		rt.Fatalf("%d jobs still wait", len(m.jobs))
	})
}
