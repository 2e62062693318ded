package placement

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Experiment fills an empty cluster with tasks drawn at random, one after the
// other, and nothing leaves: the experiment that the openb trace was published
// with.
type Experiment struct {
	Nodes []Node
	// Tasks are drawn from, and are the mix that policies expect.
	Tasks []Task
	// Load is the GPUs that the drawn tasks ask for over those of the cluster,
	// up to MaxLoad.
	Load   float64
	Policy string
	Seed   uint64
	// Clock tells the time of a monotonic clock, to measure decisions by.
	Clock func() time.Duration
	// Progress, if not nil, is called after each task.
	Progress func(done, of int)
}

// MaxLoad is the greatest load of an experiment.
const MaxLoad = 10

// Outcome is what came of an experiment.
type Outcome struct {
	// GPUs is what the cluster has.
	GPUs   int
	Placed int
	// Dropped is how many tasks fitted nowhere.
	Dropped int
	// curve has the allocated GPUs, in thousandths, after each task, and what
	// had arrived by then.
	arrived, allocated []int64
	// FragmentedPct is the part of all GPUs that is free and of no use to the
	// expected tasks, at the end, in per cent.
	FragmentedPct float64
	Decisions     []time.Duration // sorted
}

// AllocatedPct is the part of the GPUs that was allocated when tasks for
// arrivedPct of them had arrived, both in per cent, in an experiment of a load.
// It is false if that was less. Draws stop short of the load by less than one
// task; the end counts as the load.
func (o Outcome) AllocatedPct(arrivedPct, load float64) (pct float64, ok bool) {
	all := float64(o.GPUs) * WholeGPU
	for i, a := range o.arrived {
		if float64(a) >= arrivedPct/100*all {
			return 100 * float64(o.allocated[i]) / all, true
		}
	}
	if load*100 < arrivedPct-1e-9 {
		return 0, false
	}
	return o.FinalPct(), true
}

// FinalPct is the part of the GPUs that is allocated at the end, in per cent.
func (o Outcome) FinalPct() float64 {
	if len(o.allocated) == 0 {
		return 0
	}
	return 100 * float64(o.allocated[len(o.allocated)-1]) / (float64(o.GPUs) * WholeGPU)
}

// Decision is the time of a decision at a quantile, 0 to 1.
func (o Outcome) Decision(quantile float64) time.Duration {
	if len(o.Decisions) == 0 {
		return 0
	}
	return o.Decisions[min(int(quantile*float64(len(o.Decisions))), len(o.Decisions)-1)]
}

// Run does the experiment.
func (e Experiment) Run(ctx context.Context) (Outcome, error) {
	c, err := New(e.Nodes, Config{Policy: e.Policy, Mix: e.Tasks, Seed: e.Seed})
	if err != nil {
		return Outcome{}, err
	}
	var o Outcome
	for _, n := range e.Nodes {
		o.GPUs += n.GPUs
	}
	tasks, err := e.draw(o.GPUs)
	if err != nil {
		return Outcome{}, err
	}
	o.Decisions = make([]time.Duration, 0, len(tasks))
	var arrived, allocated int64
	for i, t := range tasks {
		if err := ctx.Err(); err != nil {
			return Outcome{}, err
		}
		start := e.Clock()
		_, placed, err := c.Place(t)
		o.Decisions = append(o.Decisions, e.Clock()-start)
		if err != nil {
			return Outcome{}, err
		}
		arrived += t.GPUMilli()
		if placed {
			o.Placed++
			allocated += t.GPUMilli()
		} else {
			o.Dropped++
		}
		o.arrived, o.allocated = append(o.arrived, arrived), append(o.allocated, allocated)
		if e.Progress != nil {
			e.Progress(i+1, len(tasks))
		}
	}
	slices.Sort(o.Decisions)
	o.FragmentedPct = 100 * c.FragmentedMilli() / (float64(o.GPUs) * WholeGPU)
	return o, nil
}

// draw takes all tasks once if that is no more than the load, and then tasks at
// random until one more would pass it; else it takes tasks away at random. The
// order is random.
func (e Experiment) draw(gpus int) ([]Task, error) {
	if gpus == 0 {
		return nil, errors.New("the nodes have no GPUs")
	}
	if !(e.Load > 0 && e.Load <= MaxLoad) {
		return nil, fmt.Errorf("a load of %v is out of range: over 0, up to %d", e.Load, MaxLoad)
	}
	random := rand.New(rand.NewPCG(e.Seed, 0xd1b54a32d192ed03))
	target := int64(math.Round(e.Load * float64(gpus) * WholeGPU))
	tasks := slices.Clone(e.Tasks)
	var sum int64
	for _, t := range tasks {
		sum += t.GPUMilli()
	}
	if sum == 0 {
		return nil, errors.New("no task asks for a GPU")
	}
	random.Shuffle(len(tasks), func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
	for sum > target {
		sum -= tasks[len(tasks)-1].GPUMilli()
		tasks = tasks[:len(tasks)-1]
	}
	if len(tasks) == len(e.Tasks) {
		for {
			t := e.Tasks[random.IntN(len(e.Tasks))]
			if sum+t.GPUMilli() > target {
				break
			}
			sum += t.GPUMilli()
			tasks = append(tasks, t)
		}
	}
	random.Shuffle(len(tasks), func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
	return tasks, nil
}
