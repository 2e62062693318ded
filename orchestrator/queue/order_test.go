package queue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

func lasts(d time.Duration) func(*queue.Job) {
	return func(j *queue.Job) { j.RunTime = d }
}

func one(n int) queue.Snapshot {
	return queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(n)}}}
}

func TestBackfill(t *testing.T) {
	tests := []struct {
		name  string
		late  queue.Job
		start bool
	}{
		{"ends in time", job("late", "q", 2, at(time.Minute), lasts(time.Hour)), true},
		{"would delay the head", job("late", "q", 2, at(time.Minute), lasts(2*time.Hour)), false},
		{"fits beside the head", job("late", "q", 1, at(time.Minute), lasts(9*time.Hour)), true},
		{"two that do not", job("late", "q", 1, at(time.Minute), lasts(9*time.Hour), gang(2)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := one(8)
			s.Running = []queue.Running{runs(job("r", "q", 6, lasts(time.Hour)), 0)}
			w := open(t, s, queue.Anywhere{})
			w.submit(job("head", "q", 7))
			w.submit(tt.late)
			p := w.step(true)
			if got := len(p.Start) == 1; got != tt.start {
				t.Errorf("started=%t, want %t: %+v", got, tt.start, p)
			}
			if len(p.Reserve) != 1 || p.Reserve[0].Job != "head" || !p.Reserve[0].At.Equal(start.Add(time.Hour)) {
				t.Errorf("reserved %+v, want head in an hour", p.Reserve)
			}
			w.wantWhy("head", queue.QueueLimit)
			if !tt.start {
				w.wantWhy("late", queue.Reserved)
			}
		})
	}
}

func TestStrictAndBestEffort(t *testing.T) {
	for _, strict := range []bool{true, false} {
		s := one(8)
		s.Queues[0].Strict = strict
		s.Running = []queue.Running{runs(job("r", "q", 6), 0)}
		w := open(t, s, queue.Anywhere{})
		w.submit(job("head", "q", 7))
		w.submit(job("small", "q", 1, at(time.Second)))
		w.step(true)
		if _, starts := w.running["small"]; starts == strict {
			t.Errorf("strict=%t: the job behind the head starts=%t", strict, starts)
		}
		if strict {
			w.wantWhy("small", queue.BehindHead)
		}
	}
}

func TestOrder(t *testing.T) {
	tests := []struct {
		name   string
		policy queue.Policy
		a, b   queue.Job
		first  string
	}{
		{"older first", queue.Policy{}, job("a", "q", 1, at(-time.Minute)), job("b", "q", 1), "a"},
		{"ties by ID", queue.Policy{}, job("b", "q", 1), job("a", "q", 1), "a"},
		{"priority before age", queue.Policy{}, job("a", "q", 1, at(-time.Hour)), job("b", "q", 1, priority(1)), "b"},
		{"aging makes up for priority", queue.Policy{Aging: time.Hour}, job("a", "q", 1, at(-3*time.Hour)), job("b", "q", 1, priority(2)), "a"},
		{"aging does not make up yet", queue.Policy{Aging: time.Hour}, job("a", "q", 1, at(-time.Hour)), job("b", "q", 1, priority(2)), "b"},
		{"patience is over", queue.Policy{}, job("a", "q", 1, at(-8*24*time.Hour)), job("b", "q", 1, priority(99)), "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := one(1)
			s.Policy = tt.policy
			w := open(t, s, queue.Anywhere{})
			w.submit(tt.a)
			w.submit(tt.b)
			w.step(true)
			w.wantRunning(queue.JobID(tt.first))
		})
	}
}

// A burst of one tenant takes no more than its share while others wait; what it had
// before counts against it for a while.
func TestFairShare(t *testing.T) {
	s := queue.Snapshot{
		Policy:  queue.Policy{HalfLife: time.Hour},
		Cohorts: []queue.Cohort{{Name: "all", Quotas: quota(8)}},
		Queues:  []queue.Queue{{ID: "a", Cohort: "all"}, {ID: "b", Cohort: "all", Weight: 3}},
	}
	w := open(t, s, queue.Anywhere{})
	for i := range 100 {
		w.submit(job(fmt.Sprintf("a%02d", i), "a", 1))
		if i < 8 {
			w.submit(job(fmt.Sprintf("b%02d", i), "b", 1, at(time.Second)))
		}
	}
	w.step(true)
	w.wantRunning("a00", "a01", "b00", "b01", "b02", "b03", "b04", "b05")

	s.Served = []queue.Served{{Name: "b", Queue: true, Flavor: gpu, Mean: 24_000, At: start}}
	w = open(t, s, queue.Anywhere{})
	for i := range 8 {
		w.submit(job(fmt.Sprint("a", i), "a", 1))
		w.submit(job(fmt.Sprint("b", i), "b", 1))
	}
	w.step(true)
	w.wantRunning("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7")
}

func TestProtection(t *testing.T) {
	fixed := func(j *queue.Job) { j.Preemptible = false }
	tired := func(j *queue.Job) { j.Evictions = 5 }
	foreign := func(j *queue.Job) { j.Foreign = true }
	tests := []struct {
		name   string
		policy queue.Policy
		victim queue.Job
		want   queue.Code // "": evicts
	}{
		{"lower priority", queue.Policy{}, job("v", "q", 8), queue.Evicting},
		{"same priority", queue.Policy{}, job("v", "q", 8, priority(1)), queue.QueueLimit},
		{"not preemptible", queue.Policy{}, job("v", "q", 8, fixed), queue.QueueLimit},
		{"evicted often enough", queue.Policy{}, job("v", "q", 8, tired), queue.QueueLimit},
		{"not Drover's", queue.Policy{}, job("v", "q", 8, foreign), queue.QueueLimit},
		{"young", queue.Policy{MinRunTime: 2 * time.Hour}, job("v", "q", 8), queue.QueueLimit},
		{"delay", queue.Policy{PreemptionDelay: time.Hour}, job("v", "q", 8), queue.PreemptionDelay},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := one(8)
			s.Policy = tt.policy
			s.Running = []queue.Running{runs(tt.victim, -time.Hour)}
			w := open(t, s, queue.Anywhere{})
			w.submit(job("high", "q", 1, priority(1)))
			p := w.Plan(w.now)
			w.wantWhy("high", tt.want)
			if got := len(p.Evict) == 1; got != (tt.want == queue.Evicting) {
				t.Errorf("plan %+v", p)
			}
		})
	}
}

// Those behind the ones that start have a reason before and after that is done.
func TestWhyOfThoseBehind(t *testing.T) {
	w := open(t, one(3), queue.Anywhere{})
	for i := range 6 {
		w.submit(job(fmt.Sprint("j", i), "q", 1, at(time.Duration(i)*time.Second)))
	}
	p := w.Plan(w.now)
	if _, err := w.Why("j2"); err == nil || len(p.Start) != 3 {
		t.Errorf("j2 starts and has a reason; %+v", p)
	}
	for _, id := range []queue.JobID{"j3", "j5"} {
		if r := w.wantWhy(id, queue.QueueLimit); r.Have != 0 {
			t.Errorf("%s: %+v, want nothing left", id, r)
		}
	}
	w.must(w.Apply(p, w.now))
	for _, id := range []queue.JobID{"j3", "j4", "j5"} {
		if r := w.wantWhy(id, queue.QueueLimit); r.Have != 0 {
			t.Errorf("%s: %+v, want nothing left", id, r)
		}
	}
}

// A large gang among a stream of small jobs starts when it was promised.
func TestGangDoesNotStarve(t *testing.T) {
	w := open(t, one(8), nodes(8, 1))
	for i := range 8 {
		w.submit(job(fmt.Sprint("first", i), "q", 1, lasts(time.Duration(i+1)*time.Minute)))
	}
	w.settle()
	w.submit(job("gang", "q", 1, gang(8), at(time.Second)))
	due := map[queue.JobID]time.Time{}
	for minute := range 20 {
		w.submit(job(fmt.Sprint("small", minute), "q", 1, at(time.Duration(minute+1)*time.Minute), lasts(3*time.Minute)))
		for _, s := range w.step(true).Start {
			due[s.Job] = w.now.Add(3 * time.Minute)
		}
		if since, ok := w.running["gang"]; ok {
			if since.After(start.Add(8 * time.Minute)) {
				t.Errorf("started at %s, promised in 8 minutes", since)
			}
			return
		}
		w.now = w.now.Add(time.Minute)
		if minute < 8 {
			w.end(queue.JobID(fmt.Sprint("first", minute)))
		}
		for id, end := range due {
			if !end.After(w.now) {
				w.end(id)
				delete(due, id)
			}
		}
	}
	t.Error("the gang never started")
}
