package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Cases from what users of other schedulers have reported.

// Two gangs that arrive together each took half of the nodes and waited for ever.
func TestTwoGangs(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := open(t, queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(4)}}}, nodes(4, 1))
		ids := []string{"g1", "g2"}
		r.Shuffle(2, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for _, id := range ids {
			w.submit(job(id, "q", 1, gang(4)))
		}
		w.settle()
		w.wantRunning("g1")
		w.wantWhy("g2", queue.QueueLimit)
		w.end("g1")
		w.settle()
		w.wantRunning("g2")
	}
}

// A victim was admitted again ahead of the one it was evicted for, for ever.
func TestNoEvictionLoop(t *testing.T) {
	for _, victimsLinger := range []bool{false, true} {
		t.Run(fmt.Sprintf("linger=%t", victimsLinger), func(t *testing.T) {
			s := queue.Snapshot{
				Cohorts: []queue.Cohort{{Name: "all"}},
				Queues:  []queue.Queue{{ID: "G", Cohort: "all", Quotas: quota(6)}, {ID: "A", Cohort: "all"}, {ID: "B", Cohort: "all"}},
			}
			w := open(t, s, nodes(6, 1))
			w.submit(job("A1", "A", 1, gang(2)))
			w.submit(job("A2", "A", 1, gang(2)))
			w.submit(job("B1", "B", 1))
			w.submit(job("B2", "B", 1))
			w.settle()
			w.wantRunning("A1", "A2", "B1", "B2")
			for _, j := range []queue.Job{job("G1", "G", 1, at(time.Second)), job("G2", "G", 1, gang(2), at(2*time.Second))} {
				w.now = w.now.Add(time.Minute)
				w.submit(j)
				for range 3 { // while victims linger, nothing else may happen
					w.step(!victimsLinger)
				}
				for id, n := range w.evicted {
					if _, holds := w.running[id]; n > 0 && holds && victimsLinger {
						w.must(w.Requeue(id, w.now))
						delete(w.running, id)
					}
				}
				w.settle()
			}
			for _, id := range []queue.JobID{"G1", "G2"} {
				if _, ok := w.running[id]; !ok {
					t.Errorf("%s does not run", id)
				}
			}
			for id, n := range w.evicted {
				if n > 1 {
					t.Errorf("%s was evicted %d times", id, n)
				}
			}
			for range 50 {
				w.now = w.now.Add(time.Second)
				if p := w.step(true); !p.Empty() {
					t.Fatalf("changes after it had settled: %+v", p)
				}
			}
		})
	}
}

// Among equals the oldest was evicted, and a newer one got its slot.
func TestLatestOfEqualsLeaves(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			w := open(t, queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(2)}}}, nodes(2, 1))
			again := func() {
				if restart {
					old := w
					w = open(t, old.Snapshot(), nodes(2, 1))
					w.now, w.running, w.evicted = old.now, old.running, old.evicted
				}
			}
			w.submit(job("e1", "q", 1))
			w.submit(job("e2", "q", 1, at(time.Second)))
			w.submit(job("e3", "q", 1, at(2*time.Second)))
			w.settle()
			w.wantRunning("e1", "e2")
			again()
			w.now = w.now.Add(time.Minute)
			w.submit(job("e4", "q", 1, at(time.Minute), priority(1)))
			w.step(true)
			again()
			w.settle()
			w.wantRunning("e1", "e4")
			w.end("e4")
			again()
			w.settle()
			w.wantRunning("e1", "e2")
			w.wantWhy("e3", queue.QueueLimit)
		})
	}
}

// With a fair share of 1.5 each nobody ran a job of 2.
func TestFractionalShare(t *testing.T) {
	s := queue.Snapshot{
		Cohorts: []queue.Cohort{{Name: "all", Quotas: quota(3)}},
		Queues:  []queue.Queue{{ID: "B", Cohort: "all"}, {ID: "C", Cohort: "all"}},
	}
	w := open(t, s, nodes(1, 3))
	w.submit(job("b", "B", 2))
	w.submit(job("c", "C", 2))
	w.settle()
	w.wantRunning("b")
	r := w.wantWhy("c", queue.QuotaInUse)
	if r.Raise[gpu] != queue.One {
		t.Errorf("raise by %v, want 1", r.Raise)
	}
	w.end("b")
	w.settle()
	w.wantRunning("c")
}

// Asks by memory were charged absurdly, or devices were not multiplied.
func TestMemoryCharge(t *testing.T) {
	tests := []struct {
		name    string
		devices int
		ask     int64
		want    queue.Amount
	}{
		{"half of the smaller card", 1, 20480, 500},
		{"two of 60 percent", 2, 24576, 1200},
		{"the greater card only", 1, 81920, 1000},
		{"rounded up", 1, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := queue.MemoryAmount(tt.devices, tt.ask, []int64{40960, 81920, 0})
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
	if _, err := queue.MemoryAmount(1, 100000, []int64{40960, 0}); err == nil {
		t.Error("no card has as much, and no error")
	}
	w := open(t, queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(1)}}}, queue.Anywhere{})
	j := job("two", "q", 0)
	j.Each, j.Preemptible = queue.Resources{gpu: 1200}, false
	if err := w.Submit(j); err == nil {
		t.Error("1.2 of a quota of 1 was not refused")
	}
}

// More was evicted than needed, since borrowing and evicting were not combined.
func TestBorrowAndEvict(t *testing.T) {
	s := queue.Snapshot{
		Cohorts: []queue.Cohort{{Name: "all"}},
		Queues:  []queue.Queue{{ID: "A", Cohort: "all", Quotas: quota(10)}, {ID: "B", Cohort: "all", Quotas: quota(10)}},
	}
	for i := range 10 {
		s.Running = append(s.Running, runs(job(fmt.Sprint("a", i), "A", 1), 0))
	}
	s.Running = append(s.Running, runs(job("b", "B", 9), 0))
	w := open(t, s, queue.Anywhere{})
	w.submit(job("high", "A", 2, priority(1)))
	w.settle()
	if n := len(w.evicted); n != 1 {
		t.Errorf("evicted %v, want one", w.evicted)
	}
	if _, ok := w.running["high"]; !ok {
		t.Error("the higher job does not run")
	}
}

// Slots leaked when a holder was deleted, and after restarts.
func TestHoldersAreCounted(t *testing.T) {
	w := open(t, queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(3)}}}, queue.Anywhere{})
	for i := range 6 {
		w.submit(job(fmt.Sprint("j", i), "q", 1, at(time.Duration(i)*time.Second)))
	}
	w.settle()
	w.wantRunning("j0", "j1", "j2")
	w.end("j1")
	w.must(w.End("j4", w.now)) // it waits
	w.settle()
	w.wantRunning("j0", "j2", "j3")
	old := w
	w = open(t, old.Snapshot(), queue.Anywhere{})
	w.settle()
	w.wantRunning("j0", "j2", "j3")
	w.end("j0")
	w.settle()
	w.wantRunning("j2", "j3", "j5")
}

// Nodes were lost, and there are less GPUs than quotas: an endpoint gets what is its
// own of the training beside it, and no more; training takes nothing back.
func TestProtectedQueueTakesItsOwn(t *testing.T) {
	one := queue.Resources{"gpu": queue.One}
	quota := func(n queue.Amount) map[queue.Flavor]queue.Quota {
		return map[queue.Flavor]queue.Quota{"gpu": {Nominal: n * queue.One}}
	}
	snap := queue.Snapshot{
		Cohorts: []queue.Cohort{{Name: "w"}},
		Queues: []queue.Queue{
			{ID: "w", Cohort: "w", Quotas: quota(3)},
			{ID: "w/serving", Cohort: "w", Quotas: quota(1), Protected: true},
		},
		Waiting: []queue.Job{{ID: "e1", Queue: "w/serving", Each: one}, {ID: "e2", Queue: "w/serving", Each: one}},
	}
	for _, id := range []queue.JobID{"t1", "t2"} {
		snap.Running = append(snap.Running, queue.Running{queue.Job{ID: id, Queue: "w", Each: one, Preemptible: true, Priority: 100}, queue.Run{Members: 1, Place: queue.Place{{Node: "n", Members: 1}}}})
	}
	now := time.Unix(1e9, 0)
	s, err := queue.Open(snap, queue.NewCounting(map[queue.NodeID]queue.Resources{"n": {"gpu": 2 * queue.One}}))
	if err != nil {
		t.Fatal(err)
	}
	p := s.Plan(now)
	if len(p.Evict) != 1 {
		t.Fatalf("%d make room, want one: %+v", len(p.Evict), p.Evict)
	}
	if err := s.Apply(p, now); err != nil {
		t.Fatal(err)
	}
	if err := s.Requeue(p.Evict[0].Job, now); err != nil {
		t.Fatal(err)
	}
	p = s.Plan(now)
	if len(p.Start) != 1 || p.Start[0].Job != "e1" || len(p.Evict) != 0 {
		t.Fatalf("then %+v start and %+v make room, want e1 and nobody", p.Start, p.Evict)
	}
	if err := s.Apply(p, now); err != nil {
		t.Fatal(err)
	}
	if p = s.Plan(now.Add(time.Hour)); !p.Empty() {
		t.Errorf("an hour later %+v start and %+v make room", p.Start, p.Evict)
	}
}

// The floor holds against the training of another workspace within its own quota,
// too; what else an endpoint needs may be borrowed.
func TestFloorHoldsAcrossWorkspaces(t *testing.T) {
	none := queue.Amount(0)
	needs := func(gpus queue.Amount) queue.Resources {
		return queue.Resources{"gpu": gpus * queue.One, "cpu": queue.One / 2}
	}
	snap := queue.Snapshot{
		Cohorts: []queue.Cohort{{Name: "all"}, {Name: "prod", Parent: "all"}, {Name: "vision", Parent: "all"}},
		Queues: []queue.Queue{
			{ID: "prod/serving", Cohort: "prod", Protected: true, Quotas: map[queue.Flavor]queue.Quota{"gpu": {Nominal: queue.One, LendingLimit: &none}}},
			{ID: "vision", Cohort: "vision", Quotas: map[queue.Flavor]queue.Quota{"gpu": {Nominal: 15 * queue.One}, "cpu": {Nominal: 100 * queue.One}}},
		},
		Waiting: []queue.Job{{ID: "seven", Queue: "vision", Each: needs(7), Preemptible: true}, {ID: "endpoint", Queue: "prod/serving", Each: needs(1)}},
		Running: []queue.Running{{
			Job: queue.Job{ID: "whole", Queue: "vision", Each: needs(8), Preemptible: true, RunTime: time.Minute},
			Run: queue.Run{Members: 1, Place: queue.Place{{Node: "n", Members: 1}}},
		}},
	}
	now := time.Unix(1, 0)
	s, err := queue.Open(snap, queue.NewCounting(map[queue.NodeID]queue.Resources{"n": {"gpu": 8 * queue.One}}))
	if err != nil {
		t.Fatal(err)
	}
	p := s.Plan(now)
	if len(p.Evict) != 1 || p.Evict[0].Job != "whole" || p.Evict[0].For != "endpoint" {
		t.Fatalf("%+v make room, want whole for endpoint", p.Evict)
	}
	if err := s.Apply(p, now); err != nil {
		t.Fatal(err)
	}
	if err := s.Requeue("whole", now); err != nil {
		t.Fatal(err)
	}
	var started []queue.JobID
	for _, st := range s.Plan(now).Start {
		started = append(started, st.Job)
	}
	if len(started) != 2 || started[0] != "endpoint" || started[1] != "seven" {
		t.Errorf("%v start in its place, want endpoint and seven", started)
	}
}
