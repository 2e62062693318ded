package queue_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// fleet is n nodes of so many GPUs, device by device.
func fleet(t interface{ Fatal(...any) }, n, each int) *inventory.Fleet {
	var nodes []inventory.Node
	for i := range n {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "h100"}
		for k := range each {
			g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("gpu-%d-%d", i, k), Healthy: true})
		}
		nodes = append(nodes, inventory.Node{ID: queue.NodeID(fmt.Sprint("n", i)), Eligible: true, CPUMHz: 64_000, MemoryMiB: 1 << 20, Groups: []inventory.Group{g}})
	}
	f, err := inventory.New(nodes, []inventory.Flavor{{Name: gpu}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// onGPUs is a job that a fleet understands.
func onGPUs(id, q string, n int, change ...func(*queue.Job)) queue.Job {
	j := job(id, q, n, change...)
	j.Shape = inventory.Ask{GPU: &pipeline.GPU{Device: "nvidia/gpu", Count: n}}.Shape()
	return j
}

// runsOn is a job of one member that runs on the GPUs of a node from the given one on.
func runsOn(j queue.Job, node, from int, since time.Duration) queue.Running {
	spot := queue.Spot{Node: queue.NodeID(fmt.Sprint("n", node)), Members: 1}
	for k := range int(j.Each[gpu] / queue.One) {
		spot.Devices = append(spot.Devices, fmt.Sprintf("gpu-%d-%d", node, from+k))
	}
	return queue.Running{Job: j, Run: queue.Run{Started: start.Add(since), Members: 1, Place: queue.Place{spot}}}
}

func TestConsolidate(t *testing.T) {
	held := queue.Queue{ID: "held", Quotas: quota(8), Held: &queue.Hold{Why: "its budget is spent"}}
	cut := queue.Queue{ID: "cut", Quotas: quota(0)}
	in := func(q queue.QueueID) func(*queue.Job) { return func(j *queue.Job) { j.Queue = q } }
	tests := []struct {
		name   string
		policy queue.Policy
		change func(*queue.Job) // of those that run
		want   []queue.JobID
	}{
		{"in a queue in which nothing starts", queue.Policy{}, in("held"), nil},
		{"in a queue whose quota was cut", queue.Policy{}, in("cut"), nil},
		{"the one that loses less moves", queue.Policy{}, func(*queue.Job) {}, []queue.JobID{"b"}},
		{"not preemptible", queue.Policy{}, func(j *queue.Job) { j.Preemptible = false }, nil},
		{"one of two may", queue.Policy{}, func(j *queue.Job) { j.Preemptible = j.ID == "a" }, []queue.JobID{"a"}},
		{"young", queue.Policy{MinRunTime: 3 * time.Hour}, func(*queue.Job) {}, nil},
		{"before the delay is over", queue.Policy{PreemptionDelay: time.Hour}, func(*queue.Job) {}, nil},
		{"evicted often enough", queue.Policy{}, func(j *queue.Job) { j.Evictions = 5 }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := onGPUs("a", "q", 4, lasts(9*time.Hour)), onGPUs("b", "q", 4, lasts(9*time.Hour))
			tt.change(&a)
			tt.change(&b)
			s := queue.Snapshot{Policy: tt.policy, Queues: []queue.Queue{held, cut, {ID: "q", Quotas: quota(32)}}, Running: []queue.Running{runsOn(a, 0, 0, -2*time.Hour), runsOn(b, 1, 4, -time.Hour)}}
			w := open(t, s, fleet(t, 2, 8))
			w.submit(onGPUs("whole", "q", 8))
			w.step(true)
			w.wantWhy("whole", queue.NoPlace)
			p := w.Consolidate(w.now)
			var got []queue.JobID
			for _, e := range p.Evict {
				if got = append(got, e.Job); e.For != "whole" || !e.Moves {
					t.Errorf("evicts %+v", e)
				}
			}
			if !slices.Equal(got, tt.want) || len(p.Start) > 0 {
				t.Fatalf("moves %v, want %v: %+v", got, tt.want, p)
			}
			if len(got) == 0 {
				return
			}
			w.must(w.Apply(p, w.now))
			// While the one lingers, its next place is kept, and nothing else moves.
			w.submit(onGPUs("small", "q", 2))
			if p := w.step(false); len(p.Start)+len(p.Evict) > 0 {
				t.Errorf("while one moves: %+v", p)
			}
			if p := w.Consolidate(w.now); !p.Empty() {
				t.Errorf("one more moves: %+v", p)
			}
			// So it is after a restart.
			old := w
			w = open(t, old.Snapshot(), fleet(t, 2, 8))
			w.now = old.now
			w.must(w.Requeue(got[0], w.now))
			delete(w.running, got[0])
			w.settle()
			w.wantRunning("a", "b", "whole")
			w.wantWhy("small", queue.NoPlace)
		})
	}
}

// TestConsolidateStartsAll: whoever moves runs again at once, and so does the one
// for whom. No firm reservation of another tree moves later.
func TestConsolidateStartsAll(t *testing.T) {
	moved := 0
	rapid.Check(t, func(rt *rapid.T) {
		const nodes, each = 3, 4
		s := queue.Snapshot{Queues: []queue.Queue{{ID: "q", Quotas: quota(nodes * each)}, {ID: "other", Quotas: quota(nodes * each)}}}
		of := func() string { return rapid.SampledFrom([]string{"q", "other"}).Draw(rt, "queue") }
		long := func(j *queue.Job) { j.RunTime = time.Duration(rapid.IntRange(1, 5).Draw(rt, "hours")) * time.Hour }
		for n := range nodes {
			for at := rapid.IntRange(0, 2).Draw(rt, "first"); at < each; at += rapid.IntRange(1, 3).Draw(rt, "next") {
				size := rapid.IntRange(1, min(2, each-at)).Draw(rt, "size")
				s.Running = append(s.Running, runsOn(onGPUs(fmt.Sprintf("r%d-%d", n, at), of(), size, long), n, at, -time.Duration(rapid.IntRange(1, 59).Draw(rt, "minutes"))*time.Minute))
				at += size - 1
			}
		}
		w := open(t, s, fleet(rt, nodes, each))
		for i := range rapid.IntRange(1, 3).Draw(rt, "waiting") {
			w.submit(onGPUs(fmt.Sprint("w", i), of(), rapid.IntRange(2, 4).Draw(rt, "asks"), long, at(time.Duration(i)*time.Second)))
		}
		w.settle()
		before := w.last.Reserve
		running := len(w.running)
		p := w.Consolidate(w.now)
		if p.Empty() {
			return
		}
		moved++
		w.must(w.Apply(p, w.now))
		for _, e := range p.Evict {
			w.must(w.Requeue(e.Job, w.now))
			delete(w.running, e.Job)
		}
		w.step(true)
		if len(w.running) < running+1 || len(w.last.Evict) > 0 {
			rt.Fatalf("of %d jobs, %d run after %+v, then %+v", running, len(w.running), p, w.last)
		}
		if _, ok := w.running[p.Evict[0].For]; !ok {
			rt.Fatalf("job %s does not start: %+v, then %+v", p.Evict[0].For, p, w.last)
		}
		for _, r := range before {
			for _, now := range w.last.Reserve {
				if r.Job == now.Job && r.Firm && now.At.After(r.At) {
					rt.Fatalf("job %s was promised %s, now %s", r.Job, r.At, now.At)
				}
			}
		}
	})
	if moved == 0 {
		t.Error("nothing ever moved")
	}
}
