package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// BenchmarkQueuePass is one decision of the queue on real places: 10,000 nodes of
// 8 GPUs that are all in use by jobs of 1 to 64, and 100,000 that wait, in 10
// cohorts of 20 queues, of 4 run times and 2 priorities. Between two decisions a
// job ends.
func BenchmarkQueuePass(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 0))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	nodes := large(b, 10_000)
	f, err := inventory.New(nodes, []inventory.Flavor{{Name: "gpu", Model: "*"}})
	if err != nil {
		b.Fatal(err)
	}
	s := queue.Snapshot{Policy: queue.Policy{HalfLife: 24 * time.Hour, MinRunTime: 10 * time.Minute}}
	for i := range 200 {
		cohort := fmt.Sprint("cohort-", i/20)
		if i%20 == 0 {
			s.Cohorts = append(s.Cohorts, queue.Cohort{Name: cohort})
		}
		s.Queues = append(s.Queues, queue.Queue{ID: queue.QueueID(fmt.Sprintf("queue-%03d", i)), Cohort: cohort, Quotas: map[queue.Flavor]queue.Quota{
			"gpu": {Nominal: 400 * queue.One}, inventory.CPU: {Nominal: queue.MaxAmount}, inventory.Memory: {Nominal: queue.MaxAmount},
		}})
	}
	shapes := map[int]*queue.Job{}
	for _, n := range []int{1, 2, 4, 8} {
		shapes[n] = job(b, f, inventory.Ask{CPUMHz: int64(n) * 16_000, MemoryMiB: int64(n) * 131072, GPU: gpus(n)})
	}
	named := func(id string, i, priority, size int) queue.Job {
		j := *shapes[min(size, 8)]
		j.ID, j.Queue, j.Submitted = queue.JobID(id), s.Queues[i%200].ID, now.Add(-time.Duration(r.IntN(86400))*time.Second)
		j.Priority, j.Preemptible, j.RunTime, j.Min, j.Max = priority+50*r.IntN(2), true, time.Duration(1<<r.IntN(4))*time.Hour, max(1, size/8), 0
		return j
	}
	filling := f.Clone()
	for {
		size := []int{1, 1, 2, 4, 8, 8, 16, 64}[r.IntN(8)]
		j := named(fmt.Sprintf("run-%06d", len(s.Running)), len(s.Running), 50, size)
		place, n := filling.Find(&j, 0, j.Min)
		if n < j.Min {
			if size == 1 {
				break
			}
			continue
		}
		filling.Take(&j, 0, place)
		at := now.Add(-time.Duration(r.IntN(3600)) * time.Second)
		s.Running = append(s.Running, queue.Running{Job: j, Run: queue.Run{Started: at, Members: n, Place: place}})
	}
	for i := range 100_000 {
		s.Waiting = append(s.Waiting, named(fmt.Sprintf("wait-%06d", i), r.IntN(200), 0, []int{1, 1, 1, 2, 4, 8, 16, 64}[r.IntN(8)]))
	}
	begin, first := time.Now(), time.Duration(0)
	state, err := queue.Open(s, f)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 50 {
		plan := state.Plan(now)
		if i == 0 {
			first = time.Since(begin)
		}
		if err := state.Apply(plan, now); err != nil {
			b.Fatal(err)
		}
		for _, v := range plan.Evict {
			if err := state.Requeue(v.Job, now); err != nil {
				b.Fatal(err)
			}
		}
		if plan.Empty() {
			break
		}
	}
	i := 0
	for b.Loop() {
		now = now.Add(time.Second)
		i++
		if state.End(s.Running[i*37%len(s.Running)].ID, now) != nil {
			continue
		}
		plan := state.Plan(now)
		if err := state.Apply(plan, now); err != nil {
			b.Fatal(err)
		}
		for _, v := range plan.Evict {
			if err := state.Requeue(v.Job, now); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(first.Seconds(), "s/from-scratch")
}
