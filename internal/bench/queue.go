package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// queueLoad is a load that Kueue publishes, and its figures for it: queues that
// all get the same jobs.
type queueLoad struct {
	name               string
	cohorts, queues    int
	nominal, borrowing queue.Amount
	classes            []queueClass
	makespan           time.Duration // Kueue's
	racks, nodes       int           // of 96 cores each; zero: quotas alone decide
}

// queueClass is count jobs a queue, one every interval.
type queueClass struct {
	name           string
	count          int
	every, runtime time.Duration
	priority       int
	size           queue.Amount // of a member
	members        int
	rack           string  // "required", "preferred"; else it does not matter
	kueue          float64 // Kueue's mean seconds to admission; zero: not published
}

const (
	ms   = time.Millisecond
	unit = queue.One
)

var queueLoads = []queueLoad{
	{name: "baseline", cohorts: 5, queues: 6, nominal: 20 * unit, borrowing: 100 * unit, classes: []queueClass{
		{"small", 350, 100 * ms, 200 * ms, 50, 1 * unit, 1, "", 215},
		{"medium", 100, 500 * ms, 500 * ms, 100, 5 * unit, 1, "", 76.8},
		{"large", 50, 1200 * ms, 1000 * ms, 200, 20 * unit, 1, "", 16.5},
	}, makespan: 351 * time.Second},
	{name: "large-scale", cohorts: 10, queues: 100, nominal: 20 * unit, borrowing: 100 * unit, classes: []queueClass{
		{"small", 35, 60 * ms, 150 * ms, 50, 1 * unit, 1, "", 700},
		{"medium", 11, 300 * ms, 350 * ms, 100, 5 * unit, 1, "", 256},
		{"large", 4, 700 * ms, 700 * ms, 200, 20 * unit, 1, "", 105.6},
	}, makespan: 1179 * time.Second},
	// A third of each is "balanced" there, which spreads over racks: preferred here.
	{name: "topology", cohorts: 5, queues: 6, nominal: 20 * unit, borrowing: 100 * unit, classes: []queueClass{
		{"small, rack required", 120, 100 * ms, 200 * ms, 50, unit / 2, 2, "required", 0},
		{"small, rack preferred", 230, 50 * ms, 200 * ms, 50, unit / 2, 2, "preferred", 0},
		{"medium, rack required", 34, 500 * ms, 500 * ms, 100, 5 * unit / 4, 4, "required", 0},
		{"medium, rack preferred", 66, 250 * ms, 500 * ms, 100, 5 * unit / 4, 4, "preferred", 0},
		{"large, rack required", 17, 1200 * ms, 1000 * ms, 200, 5 * unit / 2, 8, "required", 0},
		{"large, rack preferred", 33, 600 * ms, 1000 * ms, 200, 5 * unit / 2, 8, "preferred", 0},
	}, makespan: 401 * time.Second, racks: 10, nodes: 640},
}

func benchQueue(ctx context.Context) ([]row, error) {
	rows, err := benchPass()
	if err != nil {
		return rows, fmt.Errorf("one pass: %w", err)
	}
	for _, l := range queueLoads {
		more, err := l.run(ctx)
		rows = append(rows, more...)
		if err != nil {
			return rows, fmt.Errorf("load %s: %w", l.name, err)
		}
	}
	return rows, nil
}

// loadEvent is a job that arrives or, at its run's end, leaves.
type loadEvent struct {
	at    time.Duration
	job   queue.JobID
	class int
	queue queue.QueueID
	start int // of a run, counted; zero: it arrives
}

func (l queueLoad) flavor() queue.Flavor {
	if l.racks > 0 {
		return queue.CPU
	}
	return "gpu"
}

// places is where its jobs run.
func (l queueLoad) places() (queue.Places, error) {
	if l.racks == 0 {
		return queue.Anywhere{}, nil
	}
	var nodes []inventory.Node
	for i := range l.nodes {
		nodes = append(nodes, inventory.Node{ID: queue.NodeID(fmt.Sprintf("node-%03d", i)), Eligible: true, CPUMHz: 96_000, MemoryMiB: 256 << 10,
			Meta: map[string]string{"rack": fmt.Sprint("rack-", i*l.racks/l.nodes), "block": "block"}})
	}
	return inventory.New(nodes, nil)
}

// job is one of a class, without a name.
func (l queueLoad) job(c queueClass) queue.Job {
	j := queue.Job{Priority: c.priority, Preemptible: true, Each: queue.Resources{l.flavor(): c.size}, Min: c.members, RunTime: c.runtime}
	if c.rack != "" {
		j.Shape = inventory.Ask{CPUMHz: int64(c.size), Topology: inventory.Topology{Level: inventory.Rack, Required: c.rack == "required"}}.Shape()
	}
	return j
}

func (l queueLoad) snapshot() queue.Snapshot {
	var s queue.Snapshot
	borrowing := l.borrowing
	for c := range l.cohorts {
		cohort := fmt.Sprint("cohort-", c)
		s.Cohorts = append(s.Cohorts, queue.Cohort{Name: cohort})
		for q := range l.queues {
			s.Queues = append(s.Queues, queue.Queue{ID: queue.QueueID(fmt.Sprintf("%s-%d", cohort, q)), Cohort: cohort,
				Quotas: map[queue.Flavor]queue.Quota{l.flavor(): {Nominal: l.nominal, BorrowingLimit: &borrowing}}})
		}
	}
	return s
}

// arrivals are all jobs in the order of their arrival.
func (l queueLoad) arrivals(s queue.Snapshot) []loadEvent {
	var es []loadEvent
	for _, q := range s.Queues {
		for c, class := range l.classes {
			for i := range class.count {
				es = append(es, loadEvent{time.Duration(i+1) * class.every, queue.JobID(fmt.Sprintf("%s-%s-%d", q.ID, class.name, i)), c, q.ID, 0})
			}
		}
	}
	slices.SortFunc(es, func(a, b loadEvent) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.job, b.job)) })
	return es
}

// run plays the load in real time; work is a wait. A pass decides on all that has
// happened since the one before.
func (l queueLoad) run(ctx context.Context) ([]row, error) {
	snap := l.snapshot()
	places, err := l.places()
	if err != nil {
		return nil, err
	}
	state, err := queue.Open(snap, places)
	if err != nil {
		return nil, err
	}
	waiting := l.arrivals(snap)
	total := len(waiting)
	of := make(map[queue.JobID]loadEvent, total)
	for _, e := range waiting {
		of[e.job] = e
	}
	ends := make([][]loadEvent, len(l.classes)) // by class, in order
	runs := map[queue.JobID]int{}
	first := map[queue.JobID]time.Duration{}
	var passes []float64
	evictions, starts, done := 0, 0, 0
	cpu := usedTime()
	begin := time.Now()
	for done < total {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		at := nextEvent(waiting, ends)
		time.Sleep(time.Until(begin.Add(at)))
		now := time.Since(begin)
		for len(waiting) > 0 && waiting[0].at <= now {
			e := waiting[0]
			waiting = waiting[1:]
			j := l.job(l.classes[e.class])
			j.ID, j.Queue, j.Submitted = e.job, e.queue, begin.Add(e.at)
			if err := state.Submit(j); err != nil {
				return nil, err
			}
		}
		for c := range ends {
			for len(ends[c]) > 0 && ends[c][0].at <= now {
				e := ends[c][0]
				ends[c] = ends[c][1:]
				if runs[e.job] != e.start {
					continue // it was evicted
				}
				if err := state.End(e.job, begin.Add(now)); err != nil {
					return nil, err
				}
				done++
			}
		}
		// Victims leave at once, so that a second pass starts who needed their room.
		for again := true; again; {
			before := time.Now()
			plan := state.Plan(begin.Add(now))
			passes = append(passes, time.Since(before).Seconds()*1000)
			if err := state.Apply(plan, begin.Add(now)); err != nil {
				return nil, err
			}
			for _, s := range plan.Start {
				e := of[s.Job]
				starts++
				runs[s.Job] = starts
				if _, ok := first[s.Job]; !ok {
					first[s.Job] = time.Since(begin) - e.at
				}
				e.at, e.start = time.Since(begin)+l.classes[e.class].runtime, starts
				ends[e.class] = append(ends[e.class], e)
			}
			for _, v := range plan.Evict {
				evictions++
				delete(runs, v.Job)
				if err := state.Requeue(v.Job, begin.Add(now)); err != nil {
					return nil, err
				}
			}
			again = len(plan.Evict) > 0
		}
	}
	return l.rows(time.Since(begin), usedTime()-cpu, of, first, passes, evictions), nil
}

// nextEvent is when something happens next.
func nextEvent(waiting []loadEvent, ends [][]loadEvent) time.Duration {
	at := time.Duration(1 << 62)
	for _, es := range append(ends[:len(ends):len(ends)], waiting) {
		if len(es) > 0 {
			at = min(at, es[0].at)
		}
	}
	return at
}

func (l queueLoad) rows(took, cpu time.Duration, of map[queue.JobID]loadEvent, first map[queue.JobID]time.Duration, passes []float64, evictions int) []row {
	var work float64
	for _, c := range l.classes {
		work += float64(c.count) * float64(c.size) * float64(c.members) * c.runtime.Seconds()
	}
	bound := work / float64(l.nominal)
	rows := []row{
		{Case: l.name, Subject: "makespan / (work / quota)", Value: took.Seconds() / bound, Min: took.Seconds() / bound, Max: took.Seconds() / bound,
			Unit: "x", Note: fmt.Sprintf("%d jobs in %.1f s, bound %.2f s; Kueue %.0f s = %.1f", len(of), took.Seconds(), bound, l.makespan.Seconds(), l.makespan.Seconds()/bound)},
		{Case: l.name, Subject: "evictions", Value: float64(evictions), Min: float64(evictions), Max: float64(evictions), Unit: "jobs"},
		{Case: l.name, Subject: "processor time", Value: cpu.Seconds(), Min: cpu.Seconds(), Max: cpu.Seconds(), Unit: "s", Note: fmt.Sprintf("%d passes, peak RSS of the process %.0f MiB", len(passes), peakRSS())},
		spread(l.name, "pass", "ms", passes),
	}
	for i, c := range l.classes {
		var sum, least, most, n float64
		least = 1e9
		for id, d := range first {
			if of[id].class == i {
				s := d.Seconds()
				sum, n, least, most = sum+s, n+1, min(least, s), max(most, s)
			}
		}
		r := row{Case: l.name, Subject: "mean to admission, " + c.name, Value: sum / n, Min: least, Max: most, Unit: "s", Note: "Kueue publishes none"}
		if c.kueue > 0 {
			r.Note = fmt.Sprintf("Kueue %g s, / Kueue %.3f", c.kueue, sum/n/c.kueue)
		}
		rows = append(rows, r)
	}
	return rows
}

// usedTime is the processor time of this process so far.
func usedTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func peakRSS() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Maxrss) / 1024
}
