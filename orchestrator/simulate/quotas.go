package simulate

import (
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
)

// Flavors besides those of GPUs, in what jobs are charged.
const (
	CPU    queue.Flavor = "cpu"    // in cores
	Memory queue.Flavor = "memory" // in GiB
	GPU    queue.Flavor = "gpu"    // of any model, where models have no quotas of their own
)

// Quotas say which queues there are in a replay, and what they may use.
type Quotas interface {
	// At is what holds from now on until Next. usedHours are the GPU-hours that
	// workspaces have used so far.
	At(now time.Time, usedHours map[string]float64) Settings
	// Queue is where a workspace's jobs wait.
	Queue(workspace string) queue.QueueID
	// Flavor is what a GPU of a model is charged as.
	Flavor(model string) queue.Flavor
}

// Settings are the quotas of a time.
type Settings struct {
	Policy  queue.Policy
	Cohorts []queue.Cohort
	Queues  []queue.Queue
	// Next is when they change; zero: never.
	Next time.Time
	// Nominal is what workspaces have of their own; those that are missing have
	// nothing.
	Nominal map[string]queue.Resources
}

// shared is a cluster without quotas: all workspaces share it evenly.
type shared struct {
	capacity   map[queue.Flavor]queue.Quota
	workspaces []string
}

// Shared are the quotas of a cluster that has none: workspaces share it fairly, by
// what they use and have used in the last days, and take nothing back from each
// other.
func Shared(nodes []placement.Node, jobs []trace.Job) Quotas {
	s := shared{capacity: map[queue.Flavor]queue.Quota{}}
	var gpus, cpu, memory queue.Amount
	for _, n := range nodes {
		gpus += queue.Amount(n.GPUs) * queue.One
		cpu += queue.Amount(n.CPUMilli)
		memory += gib(n.MemoryMiB)
	}
	for f, a := range map[queue.Flavor]queue.Amount{GPU: gpus, CPU: cpu, Memory: memory} {
		s.capacity[f] = queue.Quota{Nominal: min(a, queue.MaxAmount)}
	}
	names := map[string]bool{}
	for i := range jobs {
		names[jobs[i].Workspace] = true
	}
	s.workspaces = slices.Sorted(maps.Keys(names))
	return s
}

// sharedHalfLife is how fast past use is forgotten.
const sharedHalfLife = 7 * 24 * time.Hour

// At is as [Quotas] says.
func (s shared) At(time.Time, map[string]float64) Settings {
	all := Settings{
		Policy:  queue.Policy{HalfLife: sharedHalfLife},
		Cohorts: []queue.Cohort{{Name: "cluster", Quotas: s.capacity}},
	}
	for _, w := range s.workspaces {
		all.Queues = append(all.Queues, queue.Queue{ID: queue.QueueID(w), Cohort: "cluster"})
	}
	return all
}

// Queue is as [Quotas] says.
func (s shared) Queue(workspace string) queue.QueueID { return queue.QueueID(workspace) }

// Flavor is as [Quotas] says.
func (s shared) Flavor(string) queue.Flavor { return GPU }

// gib is memory as it is charged, rounded up to a thousandth of a GiB.
func gib(mib int64) queue.Amount { return queue.Amount((mib*1000 + 1023) / 1024) }
