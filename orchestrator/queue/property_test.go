package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// TestNominalIsObtainable: whoever borrows, and whatever else waits, jobs within
// the nominal quota of their queue start once victims may be asked.
func TestNominalIsObtainable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		small := func(label string) int { return rapid.IntRange(0, 4).Draw(rt, label) }
		s := queue.Snapshot{
			Policy:  queue.Policy{PreemptionDelay: 10 * time.Minute, MinRunTime: 30 * time.Minute},
			Cohorts: []queue.Cohort{{Name: "top", Quotas: quota(small("top"))}, {Name: "sub", Parent: "top"}},
			Queues:  []queue.Queue{{ID: "q", Cohort: rapid.SampledFrom([]string{"top", "sub"}).Draw(rt, "cohort"), Quotas: quota(rapid.IntRange(1, 6).Draw(rt, "nominal"))}},
		}
		for i := range rapid.IntRange(1, 4).Draw(rt, "others") {
			s.Queues = append(s.Queues, queue.Queue{ID: queue.QueueID(fmt.Sprint("o", i)), Cohort: rapid.SampledFrom([]string{"top", "sub"}).Draw(rt, "cohort"), Quotas: quota(small("quota"))})
		}
		st, err := queue.Open(s, queue.Anywhere{})
		if err != nil {
			rt.Fatal(err)
		}
		w := &world{TB: t, State: st, now: start, running: map[queue.JobID]time.Time{}, evicted: map[queue.JobID]int{}}
		n := 0
		submit := func(q queue.QueueID, size int) queue.JobID {
			n++
			j := job(fmt.Sprint("j", n), string(q), size, at(w.now.Sub(start)), lasts(time.Duration(rapid.IntRange(1, 100).Draw(rt, "hours"))*time.Hour), priority(rapid.IntRange(0, 2).Draw(rt, "priority")))
			if err := w.Submit(j); err != nil {
				return "" // larger than its queue can ever use
			}
			return j.ID
		}
		crowd := func() {
			for range rapid.IntRange(0, 12).Draw(rt, "jobs") {
				submit(rapid.SampledFrom(s.Queues[1:]).Draw(rt, "queue").ID, rapid.IntRange(1, 3).Draw(rt, "size"))
			}
		}
		crowd()
		w.settle()
		w.now = w.now.Add(time.Hour)
		crowd()
		w.settle() // those who start now are young
		left := int(s.Queues[0].Quotas[gpu].Nominal / queue.One)
		mine := map[queue.JobID]bool{}
		for left > 0 {
			size := rapid.IntRange(1, left).Draw(rt, "mine")
			mine[submit("q", size)] = true
			left -= size
		}
		crowd()
		for range 6 { // within half an hour, and as long again for those who came in between
			w.settle()
			w.now = w.now.Add(15 * time.Minute)
		}
		for id := range mine {
			if _, ok := w.running[id]; !ok {
				why, err := w.Why(id)
				rt.Fatalf("job %s is within its queue's quota and waits: %v, %v", id, why, err)
			}
		}
	})
}

// TestNoEvictionCycle: while nothing new comes, no two jobs evict each other,
// however often they might be, and there is an end.
func TestNoEvictionCycle(t *testing.T) {
	traces := uint64(10_000)
	if testing.Short() {
		traces = 500
	}
	for seed := range traces {
		r := rand.New(rand.NewPCG(seed, 2))
		s := queue.Snapshot{Policy: queue.Policy{MaxEvictions: 1 << 30}, Cohorts: []queue.Cohort{{Name: "top", Quotas: both(r.IntN(3), r.IntN(3))}, {Name: "sub", Parent: "top"}}}
		for i := range 2 + r.IntN(3) {
			s.Queues = append(s.Queues, queue.Queue{ID: queue.QueueID(fmt.Sprint("q", i)), Cohort: []string{"top", "sub"}[r.IntN(2)], Quotas: both(r.IntN(4), r.IntN(4)), Strict: r.IntN(4) == 0})
		}
		w := open(t, s, queue.Anywhere{})
		type pair struct{ by, victim queue.JobID }
		n := 0
		for range 4 {
			for range r.IntN(6) {
				n++
				j := job(fmt.Sprintf("j%02d", n), string(s.Queues[r.IntN(len(s.Queues))].ID), 1+r.IntN(3), at(w.now.Sub(start)), priority(r.IntN(3)))
				if r.IntN(3) == 0 {
					or(old, 1+r.IntN(3))(&j)
				}
				_ = w.Submit(j) // one that is too large is refused
			}
			asked := map[pair]bool{}
			for passes := 0; ; passes++ {
				p := w.step(true)
				for _, e := range p.Evict {
					if asked[pair{e.Job, e.For}] {
						t.Fatalf("seed %d: %s and %s evict each other", seed, e.For, e.Job)
					}
					asked[pair{e.For, e.Job}] = true
				}
				if p.Empty() {
					break
				}
				if passes > 200 {
					t.Fatalf("seed %d: no end of evictions: %+v", seed, p)
				}
			}
			w.now = w.now.Add(time.Hour)
		}
	}
}

// TestBoundedWait: against a stream of others that are before it by priority and by
// share, a job starts within the policy's patience and twice the longest run time:
// that of who runs, and that of who has the reservation.
func TestBoundedWait(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const patience, longest = 4 * time.Hour, time.Hour
		s := queue.Snapshot{
			Policy:  queue.Policy{Patience: patience, MaxEvictions: 1},
			Cohorts: []queue.Cohort{{Name: "all", Quotas: quota(8)}},
			Queues:  []queue.Queue{{ID: "a", Cohort: "all"}, {ID: "b", Cohort: "all", Weight: 9}},
		}
		w := open(t, s, nodes(8, 1))
		ends := map[queue.JobID]time.Time{}
		n := 0
		fill := func() {
			for range rapid.IntRange(4, 10).Draw(rt, "arrivals") {
				n++
				j := job(fmt.Sprint("s", n), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "queue"), 1, at(w.now.Sub(start)), priority(9),
					lasts(time.Duration(rapid.IntRange(1, 4).Draw(rt, "quarters"))*longest/4), gang(rapid.IntRange(1, 4).Draw(rt, "members")))
				j.Preemptible = false
				w.submit(j)
				ends[j.ID] = time.Time{}.Add(j.RunTime)
			}
		}
		fill()
		w.step(true)
		w.submit(job("poor", "a", 1, gang(rapid.IntRange(1, 8).Draw(rt, "of the poor")), lasts(longest)))
		for w.now.Before(start.Add(patience + 2*longest + 30*time.Minute)) {
			fill()
			w.step(true)
			if _, ok := w.running["poor"]; ok {
				return
			}
			w.now = w.now.Add(15 * time.Minute)
			for id, since := range w.running {
				if !since.Add(ends[id].Sub(time.Time{})).After(w.now) {
					w.end(id)
				}
			}
		}
		why, err := w.Why("poor")
		rt.Fatalf("after %s it waits: %s, %v; %+v", w.now.Sub(start), why, err, w.last.Reserve)
	})
}

// TestDominantShares: of several tenants with endless work, each is either short of a
// flavor of which nobody got more by a dominant share that is higher by more than
// one job, or stands behind one with no higher share, which has a reservation.
func TestDominantShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		total := map[queue.Flavor]int{gpu: rapid.IntRange(4, 30).Draw(rt, "gpus"), old: rapid.IntRange(4, 30).Draw(rt, "old")}
		s := queue.Snapshot{Cohorts: []queue.Cohort{{Name: "all", Quotas: both(total[gpu], total[old])}}}
		asks := []map[queue.Flavor]int{}
		for i := range rapid.IntRange(2, 6).Draw(rt, "tenants") {
			ask := map[queue.Flavor]int{gpu: rapid.IntRange(0, 1).Draw(rt, "asks gpus"), old: rapid.IntRange(0, 1).Draw(rt, "asks old")}
			if ask[gpu]+ask[old] == 0 {
				ask[gpu] = 1
			}
			asks = append(asks, ask)
			q := queue.Queue{ID: queue.QueueID(fmt.Sprint("t", i)), Cohort: "all", Weight: rapid.IntRange(1, 3).Draw(rt, "weight")}
			s.Queues = append(s.Queues, q)
			for n := range 31 {
				s.Waiting = append(s.Waiting, queue.Job{ID: queue.JobID(fmt.Sprintf("%s-%02d", q.ID, n)), Queue: q.ID, Submitted: start, RunTime: time.Duration(24+n) * time.Hour, // none fits before a reservation
					Each: queue.Resources{gpu: queue.Amount(ask[gpu]) * queue.One, old: queue.Amount(ask[old]) * queue.One}})
			}
		}
		plan, err := queue.Decide(s, queue.Anywhere{}, start)
		if err != nil {
			rt.Fatal(err)
		}
		jobs := make([]int, len(asks))
		free := map[queue.Flavor]int{gpu: total[gpu], old: total[old]}
		for _, st := range plan.Start {
			var i, n int
			if _, err := fmt.Sscanf(string(st.Job), "t%d-%d", &i, &n); err != nil {
				rt.Fatal(err)
			}
			jobs[i]++
			for f, a := range asks[i] {
				free[f] -= a
			}
		}
		share := func(i, n int) float64 {
			return max(float64(n*asks[i][gpu])/float64(total[gpu]), float64(n*asks[i][old])/float64(total[old])) / float64(s.Queues[i].Weight)
		}
		for i := range asks {
			if jobs[i] == 31 {
				continue
			}
			fair := false
			for j := range asks {
				short := asks[j][gpu] > free[gpu] || asks[j][old] > free[old]
				fair = fair || short && share(j, jobs[j]) <= share(i, jobs[i])+1e-9 && j != i
			}
			for f, a := range asks[i] {
				if a <= free[f] {
					continue // it is not short of it
				}
				ok := true
				for j := range asks {
					ok = ok && (asks[j][f] == 0 || jobs[j] == 0 || share(j, jobs[j]-1) <= share(i, jobs[i])+1e-9)
				}
				fair = fair || ok
			}
			if !fair {
				rt.Fatalf("tenant %d has %d jobs of %v; all: %v of %v, free %v", i, jobs[i], asks[i], jobs, asks, free)
			}
		}
	})
}
