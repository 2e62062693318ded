package queue_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// TestLeastLostWork holds victims against all ways to choose them.
func TestLeastLostWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, lost, sizes := 0, []int{}, []int{}
		var s queue.Snapshot
		for i := range rapid.IntRange(1, 10).Draw(t, "running") {
			size, minutes := rapid.IntRange(1, 4).Draw(t, "size"), rapid.IntRange(0, 50).Draw(t, "minutes")
			s.Running = append(s.Running, runs(job(fmt.Sprint("r", i), "q", size), -time.Duration(minutes)*time.Minute))
			total, lost, sizes = total+size, append(lost, size*minutes*60), append(sizes, size)
		}
		s.Queues = []queue.Queue{{ID: "q", Quotas: quota(total)}}
		need := rapid.IntRange(1, total).Draw(t, "need")
		s.Waiting = []queue.Job{job("high", "q", need, priority(1))}
		plan, err := queue.Decide(s, queue.Anywhere{}, start)
		if err != nil {
			t.Fatal(err)
		}
		best := 1 << 60
		for set := range 1 << len(sizes) {
			freed, cost := 0, 0
			for i := range sizes {
				if set>>i&1 == 1 {
					freed, cost = freed+sizes[i], cost+lost[i]
				}
			}
			if freed >= need {
				best = min(best, cost)
			}
		}
		got := 0.0
		for _, e := range plan.Evict {
			got += e.LostSeconds
		}
		if len(plan.Evict) == 0 || got != float64(best) {
			t.Fatalf("loses %v GPU seconds by %v, the least is %d", got, plan.Evict, best)
		}
	})
}

// TestSmallestChange: the change that a reason names admits the job, and one
// thousandth less does not.
func TestSmallestChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := cluster(t)
		for i := range rapid.IntRange(0, 6).Draw(t, "running") {
			q := rapid.SampledFrom(s.Queues).Draw(t, "queue")
			j := job(fmt.Sprint("r", i), string(q.ID), rapid.IntRange(1, 4).Draw(t, "size"))
			j.Preemptible = false
			j.Foreign = rapid.Bool().Draw(t, "foreign")
			s.Running = append(s.Running, runs(j, 0)) // beyond quotas, too
		}
		at := rapid.IntRange(0, len(s.Queues)-1).Draw(t, "of")
		s.Waiting = []queue.Job{job("new", string(s.Queues[at].ID), rapid.IntRange(1, 4).Draw(t, "asks"))}
		try := func(more queue.Amount) (*queue.State, bool) {
			again := s
			again.Queues = append([]queue.Queue(nil), s.Queues...)
			q := again.Queues[at].Quotas[gpu]
			q.Nominal += more
			again.Queues[at].Quotas = map[queue.Flavor]queue.Quota{gpu: q}
			st, err := queue.Open(again, queue.Anywhere{})
			if err != nil {
				t.Fatal(err)
			}
			return st, len(st.Plan(start).Start) == 1
		}
		st, starts := try(0)
		if starts {
			return
		}
		r, err := st.Why("new")
		if err != nil {
			t.Fatal(err)
		}
		more := r.Raise[gpu]
		if r.Code == queue.TooLarge { // first it must be possible at all
			if st, starts = try(more); !starts {
				if r, err = st.Why("new"); err != nil || r.Code == queue.TooLarge {
					t.Fatalf("raised by %s it waits because %v, %v", more, r, err)
				}
			}
			return
		}
		if _, starts := try(more); !starts {
			t.Fatalf("raised by %s it does not start: %s", more, r)
		}
		if _, starts := try(more - 1); starts && r.Have >= 0 {
			t.Fatalf("raised by less than %s it starts: %s", more, r)
		}
	})
}
