package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// The cluster of the pass: full, with a long queue.
const (
	passNodes   = 10_000
	passWaiting = 100_000
	passQueues  = 200
)

// passSnapshot is 10,000 nodes of 8 GPUs that are all in use, by jobs of 1 to 64,
// and 100,000 jobs that wait, in 200 queues of so much quota: so many in a cohort, 4
// run times, 2 priorities.
func passSnapshot(r *rand.Rand, quota queue.Amount, inCohort int) (queue.Snapshot, queue.Places) {
	s := queue.Snapshot{Policy: queue.Policy{HalfLife: 24 * time.Hour, MinRunTime: 10 * time.Minute}}
	nodes := map[queue.NodeID]queue.Resources{}
	name := func(i int) queue.NodeID { return queue.NodeID(fmt.Sprintf("node-%05d", i)) }
	for i := range passNodes {
		nodes[name(i)] = queue.Resources{"gpu": 8 * unit}
	}
	for i := range passQueues {
		cohort := fmt.Sprint("cohort-", i/inCohort)
		if i%inCohort == 0 {
			s.Cohorts = append(s.Cohorts, queue.Cohort{Name: cohort})
		}
		s.Queues = append(s.Queues, queue.Queue{ID: queue.QueueID(fmt.Sprintf("queue-%03d", i)), Cohort: cohort,
			Quotas: map[queue.Flavor]queue.Quota{"gpu": {Nominal: quota}}})
	}
	// Those that wait do not outrank those that run: evictions are over.
	job := func(id string, i, priority, gpus int) queue.Job {
		j := queue.Job{ID: queue.JobID(id), Queue: s.Queues[i%passQueues].ID, Submitted: passNow.Add(-time.Duration(r.IntN(86400)) * time.Second),
			Priority: priority + 50*r.IntN(2), Preemptible: true, Each: queue.Resources{"gpu": queue.Amount(min(gpus, 8)) * unit},
			RunTime: time.Duration(1<<r.IntN(4)) * time.Hour, Min: max(1, gpus/8)}
		return j
	}
	for n := 0; n < passNodes; {
		size := []int{1, 1, 2, 4, 8, 8, 16, 64}[r.IntN(8)]
		at := passNow.Add(-time.Duration(r.IntN(3600)) * time.Second)
		count := max(1, 8/size) // that fill a node
		for range count {
			j := job(fmt.Sprintf("run-%06d", len(s.Running)), n, 50, size)
			var place queue.Place
			for m := range j.Min {
				place = append(place, queue.Spot{Node: name(min(n+m, passNodes-1)), Members: 1})
			}
			s.Running = append(s.Running, queue.Running{Job: j, Run: queue.Run{Started: at, Members: j.Min, Place: place}})
		}
		n += max(1, size/8)
	}
	for i := range passWaiting {
		s.Waiting = append(s.Waiting, job(fmt.Sprintf("wait-%06d", i), r.IntN(passQueues), 0, []int{1, 1, 1, 2, 4, 8, 16, 64}[r.IntN(8)]))
	}
	return s, queue.NewCounting(nodes)
}

// onDevices is a pass's snapshot on a fleet, in which jobs hold single devices.
func onDevices(s queue.Snapshot) (queue.Snapshot, queue.Places, error) {
	nodes := make([]inventory.Node, passNodes)
	for i := range nodes {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "h100"}
		for k := range 8 {
			g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("gpu-%05d-%d", i, k), Healthy: true})
		}
		nodes[i] = inventory.Node{ID: queue.NodeID(fmt.Sprintf("node-%05d", i)), Eligible: true, CPUMHz: 256_000, MemoryMiB: 2 << 20,
			Meta: map[string]string{"rack": fmt.Sprint(i / 16), "block": fmt.Sprint(i / 512)}, Groups: []inventory.Group{g}}
	}
	fleet, err := inventory.New(nodes, []inventory.Flavor{{Name: "gpu"}})
	if err != nil {
		return s, nil, err
	}
	shape := func(j *queue.Job) {
		j.Shape = inventory.Ask{GPU: &pipeline.GPU{Device: "nvidia/gpu", Count: int(j.Each["gpu"] / unit)}}.Shape()
	}
	held := fleet.Clone()
	running := s.Running
	s.Running = nil
	for _, r := range running {
		shape(&r.Job)
		place, n := held.Find(&r.Job, 0, r.Run.Members)
		if n < r.Run.Members {
			continue // the last of them may be more than there is
		}
		held.Take(&r.Job, 0, place)
		r.Run.Place = place
		s.Running = append(s.Running, r)
	}
	for i := range s.Waiting {
		shape(&s.Waiting[i])
	}
	return s, fleet, nil
}

var passNow = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// benchPass measures one decision on a great cluster: with as much quota as there
// is, and with quota that nobody reaches; counted, and device by device.
func benchPass() (rows []row, err error) {
	for _, c := range []struct {
		name    string
		quota   queue.Amount
		cohort  int // queues in one
		devices bool
	}{
		{"pass", passNodes * 8 / passQueues * unit, 20, false},
		{"pass, one cohort", passNodes * 8 / passQueues * unit, passQueues, false},
		{"pass without quotas", queue.MaxAmount, 20, false},
		{"pass, by device", passNodes * 8 / passQueues * unit, 20, true},
		{"pass without quotas, by device", queue.MaxAmount, 20, true},
	} {
		snap, places := passSnapshot(rand.New(rand.NewPCG(1, 0)), c.quota, c.cohort)
		if c.devices {
			if snap, places, err = onDevices(snap); err != nil {
				return rows, err
			}
		}
		more, err := benchPassOn(c.name, snap, places)
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func benchPassOn(name string, snap queue.Snapshot, places queue.Places) ([]row, error) {
	var open, first []float64
	scratch := usedTime()
	var state *queue.State
	var memory float64
	for range 5 {
		state = nil
		before := liveMiB()
		t := time.Now()
		s, err := queue.Open(snap, places)
		if err != nil {
			return nil, err
		}
		open = append(open, time.Since(t).Seconds())
		t = time.Now()
		plan := s.Plan(passNow)
		first = append(first, open[len(open)-1]+time.Since(t).Seconds())
		if err := s.Apply(plan, passNow); err != nil {
			return nil, err
		}
		state = s
		memory = liveMiB() - before
		for _, v := range plan.Evict {
			if err := s.Requeue(v.Job, passNow); err != nil {
				return nil, err
			}
		}
	}
	scratch = (usedTime() - scratch) / 5
	now := passNow
	decide := func() (queue.Plan, time.Duration, error) {
		t := time.Now()
		plan := state.Plan(now)
		err := state.Apply(plan, now)
		took := time.Since(t)
		for _, v := range plan.Evict { // they leave at once
			err = cmp.Or(err, state.Requeue(v.Job, now))
		}
		return plan, took, err
	}
	settled := 0
	for ; settled < 50; settled++ {
		if plan, _, err := decide(); err != nil {
			return nil, err
		} else if plan.Empty() {
			break
		}
	}
	var passes []float64
	started := 0
	cpu := usedTime()
	for i := range 200 {
		now = now.Add(time.Second)
		t := time.Now()
		if state.End(snap.Running[i*37%len(snap.Running)].ID, now) != nil {
			continue // it had made room already
		}
		ended := time.Since(t)
		plan, took, err := decide()
		if err != nil {
			return nil, err
		}
		passes = append(passes, (ended+took).Seconds()*1000)
		started += len(plan.Start)
	}
	cpu = usedTime() - cpu
	p := slices.Sorted(slices.Values(passes))
	note := fmt.Sprintf("%d passes after %d that settled reclaims, %d jobs started, p99 %.2f ms, processor time %.2f ms each", len(p), settled, started, p[len(p)*99/100], cpu.Seconds()*1000/float64(len(p)))
	load := strings.Join([]string{fmt.Sprint(passWaiting, " waiting"), fmt.Sprint(passNodes, " nodes"), fmt.Sprint(len(snap.Running), " running")}, ", ")
	after := spread(name, "after one job ended", "ms", passes)
	after.Note = note
	all := spread(name, "from scratch, checks of the snapshot included", "s", first)
	all.Note = fmt.Sprintf("%s, processor time %.2f s each", load, scratch.Seconds())
	return []row{all, after, {Case: name, Subject: "memory of the state", Value: memory, Min: memory, Max: memory, Unit: "MiB"}}, nil
}

// liveMiB is the live memory, in MiB.
func liveMiB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
