package simulate

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Shared are the definitions of a cluster without quotas: the workspaces of a trace
// share it evenly, by what they use and have used in the last days, and take nothing
// back from each other.
func Shared(nodes []placement.Node, jobs []trace.Job) workspace.Definitions {
	const gpu, cohort = "gpu", "(cluster)"
	var gpus, cpu, memory queue.Amount
	for _, n := range nodes {
		gpus += queue.Amount(n.GPUs) * queue.One
		cpu += queue.Amount(n.CPUMilli)
		memory += gib(n.MemoryMiB)
	}
	all := workspace.Quotas{}
	for f, a := range map[queue.Flavor]queue.Amount{gpu: gpus, workspace.CPU: cpu, workspace.Memory: memory} {
		all[f] = workspace.Quota{Nominal: workspace.Amount(min(a, queue.MaxAmount))}
	}
	d := workspace.Definitions{
		Policy:  workspace.Policy{HalfLife: workspace.Duration(7 * 24 * time.Hour)},
		Flavors: []workspace.Flavor{{Name: gpu}},
		Cohorts: []workspace.Cohort{{Name: cohort, Quotas: all}},
	}
	for _, w := range workspacesOf(jobs) {
		d.Workspaces = append(d.Workspaces, workspace.Workspace{Name: w, Cohort: cohort})
	}
	return d
}

// workspacesOf are the names of the jobs' workspaces, sorted.
func workspacesOf(jobs []trace.Job) []string {
	names := map[string]bool{}
	for i := range jobs {
		names[jobs[i].Workspace] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// gib is memory as it is charged.
func gib(mib int64) queue.Amount { return queue.Amount((mib*int64(queue.One) + 1023) / 1024) }

// flavorsOf are the flavors of GPU models, by the rule for real nodes.
func flavorsOf(d workspace.Definitions, models []string) (map[string]queue.Flavor, error) {
	declared := make([]inventory.Flavor, len(d.Flavors))
	for i, f := range d.Flavors {
		declared[i] = inventory.Flavor{
			Name: queue.Flavor(f.Name), Vendor: f.Vendor, Type: f.Type, Model: f.Model,
			MinMemoryMiB: f.MemoryMinMiB, MaxMemoryMiB: f.MemoryMaxMiB,
		}
	}
	of := map[string]queue.Flavor{}
	for _, m := range models {
		// A trace tells no vendor; what asks for one means the usual one.
		fleet, err := inventory.New([]inventory.Node{{
			ID: "node", Eligible: true,
			Groups: []inventory.Group{{Vendor: "nvidia", Type: "gpu", Name: m, Instances: []inventory.Instance{{ID: "0", Healthy: true}}}},
		}}, declared)
		if err != nil {
			return nil, fmt.Errorf("naming the flavor of model %q: %w", m, err)
		}
		for f := range fleet.Flavors() {
			if f != inventory.CPU && f != inventory.Memory {
				of[m] = f
			}
		}
	}
	return of, nil
}

// budgetEvery is how often budgets are looked at.
const budgetEvery = time.Hour

// settings are the quotas of a time.
type settings struct {
	policy  queue.Policy
	cohorts []queue.Cohort
	queues  []queue.Queue
	nominal []queue.Resources // of GPUs, by workspace; nil: it has nothing of its own
	next    time.Time         // when they may change; zero: never
}

// settingsNow are the quotas of d that hold now.
func (r *replay) settingsNow(d workspace.Definitions) settings {
	seen := workspace.Seen{Workspaces: r.workspaces, Flavors: slices.Sorted(maps.Values(r.flavors)), Used: r.record.days.uses(r)}
	var s settings
	s.policy, s.cohorts, s.queues, s.next = d.Effective(r.now, seen)
	if r.budgets && (s.next.IsZero() || s.next.After(r.now.Add(budgetEvery))) {
		s.next = r.now.Add(budgetEvery)
	}
	s.nominal = make([]queue.Resources, len(r.workspaces))
	for i, w := range r.workspaces {
		at := slices.IndexFunc(s.queues, func(q queue.Queue) bool { return q.ID == d.QueueFor(w, false) })
		for f, q := range s.queues[at].Quotas {
			if f != workspace.CPU && f != workspace.Memory && q.Nominal < queue.MaxAmount {
				if s.nominal[i] == nil {
					s.nominal[i] = queue.Resources{}
				}
				s.nominal[i][f] = q.Nominal
			}
		}
	}
	return s
}

// quotasChange lets quotas be what they are now, and reports whether they were not.
func (r *replay) quotasChange() (bool, error) {
	was := r.settings
	r.settings = r.settingsNow(*r.Definitions)
	r.expect(r.settings.next, quotaChange, 0)
	if reflect.DeepEqual(was.cohorts, r.settings.cohorts) && reflect.DeepEqual(was.queues, r.settings.queues) {
		return false, nil
	}
	if err := r.open(r.state.Snapshot()); err != nil {
		return true, err
	}
	still := r.outside[:0]
	for _, i := range r.outside {
		j := &r.jobs[i]
		var err error
		if j.why, err = j.refusal(r.state.Submit(j.asked)); err != nil {
			return true, err
		}
		if j.why != "" {
			still = append(still, i)
		}
	}
	r.outside = still
	return true, nil
}

// open makes the state of a snapshot with the quotas that hold now.
func (r *replay) open(snap queue.Snapshot) (err error) {
	r.state, err = r.opened(snap, r.settings)
	return err
}

func (r *replay) opened(snap queue.Snapshot, s settings) (*queue.State, error) {
	snap.Policy, snap.Cohorts, snap.Queues = s.policy, s.cohorts, s.queues
	state, err := queue.Open(snap, r.fleet)
	if err != nil {
		return nil, fmt.Errorf("opening the queues as of %s: %w", r.now.UTC().Format(time.RFC3339), err)
	}
	return state, nil
}

// days are GPU-seconds of workspaces by the day, for budgets.
type days map[dayOf]float64

type dayOf struct {
	day       time.Time // midnight UTC
	workspace int
}

// add notes thousandths of GPUs that a workspace held between two times.
func (d days) add(w int, from, to time.Time, gpu int64) {
	for from.Before(to) && gpu > 0 {
		day := from.UTC().Truncate(24 * time.Hour)
		until := day.Add(24 * time.Hour)
		if to.Before(until) {
			until = to
		}
		d[dayOf{day, w}] += float64(gpu) * until.Sub(from).Seconds()
		from = until
	}
}

// uses are what budgets need to know of them; earlier days are forgotten.
func (d days) uses(r *replay) []workspace.Use {
	since := r.Definitions.UsedSince(r.now)
	var all []workspace.Use
	for k, seconds := range d {
		if k.day.Before(since.UTC().Truncate(24 * time.Hour)) {
			delete(d, k)
			continue
		}
		all = append(all, workspace.Use{Workspace: r.workspaces[k.workspace], Flavor: "gpu", Day: k.day, Seconds: queue.Amount(seconds)})
	}
	return all // only sums of it count
}
