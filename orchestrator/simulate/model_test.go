package simulate

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

var models = []string{"G2", "T4"}

func someNodes(t *rapid.T) []placement.Node {
	all := make([]placement.Node, rapid.IntRange(1, 5).Draw(t, "nodes"))
	for i := range all {
		all[i] = placement.Node{
			Name: fmt.Sprint("node-", i), GPUs: rapid.IntRange(0, 4).Draw(t, "GPUs"),
			CPUMilli: rapid.Int64Range(1, 8).Draw(t, "cores") * 1000, MemoryMiB: rapid.Int64Range(1, 4).Draw(t, "memory") * 1024,
		}
		if all[i].GPUs > 0 {
			all[i].Model = rapid.SampledFrom(models).Draw(t, "model")
		}
	}
	return all
}

func someJobs(t *rapid.T, most int) []trace.Job {
	all := make([]trace.Job, rapid.IntRange(1, most).Draw(t, "jobs"))
	for i := range all {
		j := trace.Job{
			Name: fmt.Sprint("job-", i), Line: i + 2, Workspace: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "workspace"),
			Submitted: time.Duration(rapid.IntRange(0, 60).Draw(t, "submitted")) * time.Minute,
			Duration:  time.Duration(rapid.IntRange(0, 40).Draw(t, "duration")) * time.Minute,
			Priority:  rapid.IntRange(0, 2).Draw(t, "priority"), Min: rapid.IntRange(1, 2).Draw(t, "min"),
			Checkpoint: time.Duration(rapid.IntRange(0, 2).Draw(t, "checkpoint")) * 4 * time.Minute,
			RunTime:    time.Duration(rapid.IntRange(0, 2).Draw(t, "run time")) * 15 * time.Minute,
		}
		if rapid.Bool().Draw(t, "says") {
			j.Preemptible = new(rapid.Bool().Draw(t, "preemptible"))
		}
		j.Max = j.Min + rapid.IntRange(0, 1).Draw(t, "more")
		j.Each = placement.Task{CPUMilli: rapid.Int64Range(0, 3).Draw(t, "cpu") * 500, MemoryMiB: rapid.Int64Range(0, 3).Draw(t, "memory") * 512}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
		case 1:
			j.Each.GPUs, j.Each.ShareMilli = 1, rapid.SampledFrom([]int{250, 500, 700}).Draw(t, "share")
		default:
			j.Each.GPUs, j.Each.ShareMilli = rapid.IntRange(1, 4).Draw(t, "GPUs"), 1000
		}
		if rapid.Bool().Draw(t, "choosy") && j.Each.GPUs > 0 {
			j.Each.Models = []string{rapid.SampledFrom(models).Draw(t, "model")}
		}
		all[i] = j
	}
	return all
}

// someDefinitions are quotas of a and b, in one cohort, by model; nil: none.
func someDefinitions(t *rapid.T) *workspace.Definitions {
	if rapid.Bool().Draw(t, "shared") {
		return nil
	}
	d := workspace.Definitions{
		Policy: workspace.Policy{
			MinRunTime:      workspace.Duration(rapid.IntRange(0, 1).Draw(t, "min run time")) * workspace.Duration(5*time.Minute),
			PreemptionDelay: workspace.Duration(rapid.IntRange(0, 1).Draw(t, "delay")) * workspace.Duration(3*time.Minute),
			Patience:        workspace.Duration(10 * time.Hour),
			MaxEvictions:    2,
		},
		Cohorts: []workspace.Cohort{{Name: "all"}},
	}
	for _, m := range models {
		d.Flavors = append(d.Flavors, workspace.Flavor{Name: "gpu-" + m, Model: m})
	}
	for _, w := range []string{"a", "b"} {
		quotas := workspace.Quotas{}
		for _, m := range models {
			quotas[queue.Flavor("gpu-"+m)] = workspace.Quota{Nominal: workspace.Amount(rapid.IntRange(0, 4).Draw(t, "nominal")) * 1000}
		}
		d.Workspaces = append(d.Workspaces, workspace.Workspace{Name: w, Cohort: "all", Quotas: quotas})
	}
	return &d
}

// TestModel replays random traces on random clusters, and keeps books of its own.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Nodes: someNodes(t), Jobs: someJobs(t, 25), Definitions: someDefinitions(t), Seed: rapid.Uint64().Draw(t, "seed"),
			Policy: rapid.SampledFrom(Policies()).Draw(t, "policy"), Load: rapid.SampledFrom([]float64{0.5, 1, 3}).Draw(t, "load"),
		}
		r, err := newReplay(c)
		if err != nil {
			t.Fatal(err)
		}
		left := make([]int64, len(r.jobs)) // milliseconds times members
		for i := range left {
			left[i] = r.jobs[i].left
		}
		ends := make([]int, len(r.jobs))
		for r.goesOn() {
			ended := make([]bool, len(r.jobs))
			for i := range r.jobs {
				ended[i] = r.jobs[i].ended
			}
			was := r.now
			if err := r.step(); err != nil {
				t.Fatal(err)
			}
			if r.now.Before(was) {
				t.Fatalf("time went back from %s to %s", was, r.now)
			}
			for i := range r.jobs {
				if r.jobs[i].ended != ended[i] {
					ends[i]++
				}
			}
			checkHeld(t, r)
		}
		rep := r.report()
		fates := map[string]int{}
		for i := range r.jobs {
			if ends[i] > 1 {
				t.Fatalf("job %s ended %d times", r.jobs[i].Name, ends[i])
			}
			fates[r.jobs[i].Name] = ends[i]
		}
		for _, f := range append(slices.Clone(rep.Refused), rep.Stranded...) {
			fates[f.Job]++
			if f.Why == "" {
				t.Fatalf("job %s did not run, and nobody says why", f.Job)
			}
		}
		for name, n := range fates {
			if n != 1 {
				t.Fatalf("job %s has %d fates", name, n)
			}
		}
		if n := rep.Jobs; n.Ended+n.Refused+n.Stranded != n.Total || n.Stranded > 0 {
			t.Fatalf("%+v, where all that is not refused must end", n)
		}
		checkHours(t, r, rep)
		checkAgain(t, c, rep)
	})
}

// checkHeld counts what is held anew: no GPU, node or gang more than there is.
func checkHeld(t *rapid.T, r *replay) {
	free := map[queue.NodeID]*placement.Node{}
	gpus := map[string]int{}
	for i := range r.Nodes {
		n := r.Nodes[i]
		free[queue.NodeID(n.Name)] = &n
	}
	for i := range r.jobs {
		j := &r.jobs[i]
		if !j.running {
			continue
		}
		members := 0
		for _, s := range j.place {
			members += s.Members
			n := free[s.Node]
			n.CPUMilli -= int64(s.Members) * j.Each.CPUMilli
			n.MemoryMiB -= int64(s.Members) * j.Each.MemoryMiB
			if n.CPUMilli < 0 || n.MemoryMiB < 0 {
				t.Fatalf("node %s has %d of a core and %d MiB left", s.Node, n.CPUMilli, n.MemoryMiB)
			}
			if len(s.Devices) != s.Members*j.Each.GPUs {
				t.Fatalf("job %s has %d GPUs for %d members of %d", j.Name, len(s.Devices), s.Members, j.Each.GPUs)
			}
			if j.Each.GPUs > 0 && len(j.Each.Models) > 0 && !slices.Contains(j.Each.Models, n.Model) {
				t.Fatalf("job %s of %v is on %s", j.Name, j.Each.Models, n.Model)
			}
			for _, d := range s.Devices {
				at := string(s.Node) + "/" + d
				if gpus[at] += j.Each.ShareMilli; gpus[at] > 1000 {
					t.Fatalf("GPU %s is given out %d thousandths of", at, gpus[at])
				}
			}
		}
		if members != j.members || members < j.Min || members > j.Max {
			t.Fatalf("job %s of %d to %d members runs with %d, places for %d", j.Name, j.Min, j.Max, j.members, members)
		}
	}
}

// checkHours: what was held is the jobs' work, what was lost, and rounding.
func checkHours(t *rapid.T, r *replay, rep *Report) {
	want := rep.Preemption.LostGPUHours
	for i := range r.jobs {
		if j := &r.jobs[i]; j.ended {
			want += j.Duration.Hours() * float64(j.Max) * float64(j.Each.GPUMilli()) / 1000
		}
	}
	got, byModel := 0.0, 0.0
	for _, w := range rep.Workspaces {
		got += w.GPUHours
	}
	for _, m := range rep.GPUs {
		byModel += m.UsedHours
	}
	if diff := max(want-got, got-want, byModel-got, got-byModel); diff > 0.01 {
		t.Fatalf("%.4f GPU-hours held by workspaces, %.4f by models; %.4f were needed or lost", got, byModel, want)
	}
	if n := rep.Utilisation; n.GPUPct > 100 || n.CPUPct > 100 || n.MemoryPct > 100 || rep.FragmentedPct > 100-n.GPUPct+1e-3 {
		t.Fatalf("%+v, %v %% fragmented", n, rep.FragmentedPct)
	}
	if j := rep.Fairness.Jain; j != nil && (*j <= 0 || *j > 1) {
		t.Fatalf("Jain's index is %v", *j)
	}
}

// checkAgain: the same input gives the same report, and more nodes refuse no more.
func checkAgain(t *rapid.T, c Config, rep *Report) {
	again, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(asJSON(t, rep), asJSON(t, again)) {
		t.Fatalf("twice the same replay:\n%s\n%s", asJSON(t, rep), asJSON(t, again))
	}
	c.Nodes = append(slices.Clone(c.Nodes), placement.Node{Name: "more", CPUMilli: 8000, MemoryMiB: 4096, GPUs: 4, Model: "G2"})
	more, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if more.Jobs.Refused > rep.Jobs.Refused {
		t.Fatalf("with one more node %d jobs are refused, without %d", more.Jobs.Refused, rep.Jobs.Refused)
	}
}

// TestOneLine: jobs of one GPU each, that declare how long they run, wait as in a
// line before as many counters as there are GPUs.
func TestOneLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gpus := rapid.IntRange(1, 4).Draw(t, "GPUs")
		all := make([]trace.Job, rapid.IntRange(1, 40).Draw(t, "jobs"))
		for i := range all {
			all[i] = trace.Job{
				Name: fmt.Sprint("job-", i), Workspace: "a", Min: 1, Max: 1, Each: placement.Task{GPUs: 1, ShareMilli: 1000},
				Submitted: time.Duration(rapid.IntRange(0, 100).Draw(t, "submitted")) * time.Second,
				Duration:  time.Duration(rapid.IntRange(0, 30).Draw(t, "duration")) * time.Second,
				RunTime:   time.Minute, // of all, so that none overtakes
			}
		}
		r, err := newReplay(Config{Nodes: []placement.Node{{Name: "node", GPUs: gpus, Model: "G2"}}, Jobs: all})
		if err != nil {
			t.Fatal(err)
		}
		for r.goesOn() {
			if err := r.step(); err != nil {
				t.Fatal(err)
			}
		}
		line := make([]*job, len(r.jobs))
		for i := range r.jobs {
			line[i] = &r.jobs[i]
		}
		slices.SortStableFunc(line, func(a, b *job) int { return cmp.Compare(a.Submitted, b.Submitted) })
		free := make([]time.Time, gpus) // of each counter
		for _, j := range line {
			next := slices.IndexFunc(free, func(t time.Time) bool { return t.Equal(slices.MinFunc(free, time.Time.Compare)) })
			start := j.submitted
			if free[next].After(start) {
				start = free[next]
			}
			free[next] = start.Add(j.Duration)
			if !j.first.Equal(start) {
				t.Fatalf("job %s started at %s, want %s", j.Name, j.first.Sub(r.Start), start.Sub(r.Start))
			}
		}
	})
}
