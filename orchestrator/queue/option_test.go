package queue_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// or adds an alternative of n of a flavor.
func or(f queue.Flavor, n int) func(*queue.Job) {
	return func(j *queue.Job) { j.Or = append(j.Or, queue.Resources{f: queue.Amount(n) * queue.One}) }
}

func both(n, m int) map[queue.Flavor]queue.Quota {
	return map[queue.Flavor]queue.Quota{gpu: {Nominal: queue.Amount(n) * queue.One}, old: {Nominal: queue.Amount(m) * queue.One}}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		name    string
		own     map[queue.Flavor]queue.Quota
		running []queue.Job // of the other queue, with quota for 8 of each
		job     queue.Job
		want    int // -1: it waits
		why     queue.Code
		about   int // the option of the reason
	}{
		{name: "the first that fits", own: both(8, 8), job: job("j", "q", 1, or(old, 1)), want: 0},
		{name: "the next when the first is used", own: both(8, 8), running: []queue.Job{job("r", "q", 8)}, job: job("j", "q", 8, or(old, 2)), want: 1},
		{name: "one that is its own before one that borrows", own: both(0, 8), job: job("j", "q", 1, or(old, 1)), want: 1},
		{name: "one that borrows before one that evicts", own: both(8, 0), running: []queue.Job{job("r", "q", 8, priority(-1)), job("o", "other", 8)}, job: job("j", "q", 1, or(old, 1)), want: 1},
		{name: "in the order of the job if all borrow", own: both(0, 0), job: job("j", "q", 1, or(old, 1)), want: 0},
		{name: "no quota of the first at all", own: both(8, 8), job: job("j", "q", 17, or(old, 16)), want: 1},
		{name: "a flavor that nobody knows", own: both(8, 8), job: job("j", "q", 1, func(j *queue.Job) { j.Each = queue.Resources{"new": 1} }, or(old, 1)), want: 1},
		{name: "the reason is of the nearest", own: both(8, 8), running: []queue.Job{job("r", "q", 8), job("o", "other", 8), job("s", "q", 0, func(j *queue.Job) { j.Each = queue.Resources{old: 15000} })}, job: job("j", "q", 8, or(old, 4), or(old, 2), or(gpu, 1)), want: -1, why: queue.QuotaInUse, about: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := queue.Snapshot{Cohorts: []queue.Cohort{{Name: "all"}}, Queues: []queue.Queue{{ID: "q", Cohort: "all", Quotas: tt.own}, {ID: "other", Cohort: "all", Quotas: both(8, 8)}}}
			for _, r := range tt.running {
				s.Running = append(s.Running, runs(r, 0))
			}
			w := open(t, s, queue.Anywhere{})
			w.submit(tt.job)
			p := w.Plan(w.now)
			if tt.want < 0 {
				if r := w.wantWhy(tt.job.ID, tt.why); r.Option != tt.about || len(p.Start) > 0 {
					t.Errorf("reason of option %d, want %d; %+v", r.Option, tt.about, p)
				}
				return
			}
			if len(p.Start) != 1 || p.Start[0].Option != tt.want {
				t.Errorf("plan %+v, want a start with option %d", p, tt.want)
			}
		})
	}
	t.Run("evicts for the one that is its own", func(t *testing.T) {
		s := queue.Snapshot{Cohorts: []queue.Cohort{{Name: "all"}}, Queues: []queue.Queue{{ID: "q", Cohort: "all", Quotas: both(0, 1)}, {ID: "other", Cohort: "all", Quotas: both(1, 0)}}}
		borrower := job("o", "other", 0, func(j *queue.Job) { j.Each = queue.Resources{old: queue.One} })
		s.Running = []queue.Running{runs(job("p", "other", 1), 0), runs(borrower, 0)}
		w := open(t, s, queue.Anywhere{})
		w.submit(job("j", "q", 1, or(old, 1)))
		w.settle()
		w.wantRunning("j", "p")
		if got := w.Snapshot().Running[0]; got.Run.Option != 1 {
			t.Errorf("runs with option %d, want 1", got.Run.Option)
		}
	})
}

// TestOptionChoice holds the choice against states in which the job has one
// option only.
func TestOptionChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, places := cluster(t)
		flavor := func() queue.Flavor { return rapid.SampledFrom([]queue.Flavor{gpu, old}).Draw(t, "flavor") }
		of := rapid.SampledFrom(s.Queues).Draw(t, "of")
		for i := range rapid.IntRange(0, 5).Draw(t, "running") {
			f, n := flavor(), queue.Amount(rapid.IntRange(1, 3).Draw(t, "size"))*queue.One
			q := rapid.SampledFrom(s.Queues).Draw(t, "queue")
			j := queue.Job{ID: queue.JobID(fmt.Sprint("r", i)), Queue: q.ID, Submitted: start, Each: queue.Resources{f: n}, RunTime: time.Hour}
			place, _ := places().Find(&j, 0, 1)
			s.Running = append(s.Running, queue.Running{Job: j, Run: queue.Run{Started: start, Members: 1, Place: place}})
		}
		j := job("j", string(of.ID), 0)
		for i := range rapid.IntRange(1, 4).Draw(t, "options") {
			r := queue.Resources{flavor(): queue.Amount(rapid.IntRange(1, 4).Draw(t, "amount")) * queue.One}
			if i == 0 {
				j.Each = r
			} else {
				j.Or = append(j.Or, r)
			}
		}
		decide := func(j queue.Job) []queue.Start {
			s.Waiting = []queue.Job{j}
			p, err := queue.Decide(s, places(), start)
			if err != nil {
				t.Fatal(err)
			}
			return p.Start
		}
		want, borrows := -1, false
		for n := range len(j.Or) + 1 {
			one := j
			one.Each, one.Or = j.Option(n), nil
			if len(decide(one)) == 0 {
				continue
			}
			st, err := queue.Open(s, queue.Anywhere{})
			if err != nil {
				t.Fatal(err)
			}
			b := st.Borrows(one.ID)
			if want < 0 || borrows && !b {
				want, borrows = n, b
			}
		}
		got := decide(j)
		if len(got) == 0 && want >= 0 || len(got) == 1 && got[0].Option != want {
			t.Fatalf("started %+v, want option %d", got, want)
		}
	})
}

func TestHeld(t *testing.T) {
	s := queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(4), Held: &queue.Hold{Why: "its budget of 100 GPU hours is spent", Until: start.Add(time.Hour)}}, {ID: "p", Quotas: quota(1)}}}
	s.Running = []queue.Running{runs(job("r", "q", 1), 0)}
	w := open(t, s, queue.Anywhere{})
	w.submit(job("a", "q", 1))
	w.submit(job("b", "q", 4, at(time.Second), priority(2)))
	w.submit(job("c", "p", 1))
	if p := w.step(true); len(p.Evict)+len(p.Reserve) > 0 {
		t.Errorf("a held queue plans %+v", p)
	}
	w.wantRunning("c", "r")
	r := w.wantWhy("a", queue.Held)
	if want := `nothing starts in queue "q", until 2026-01-01T01:00:00Z: its budget of 100 GPU hours is spent`; r.String() != want {
		t.Errorf("got %s, want %s", r, want)
	}
	w.now = start.Add(time.Hour)
	w.end("r")
	w.settle()
	w.wantRunning("b", "c")
}
