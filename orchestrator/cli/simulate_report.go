package cli

import (
	"fmt"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/simulate"
)

// printReplay prints a report for people.
func (a *app) printReplay(r *simulate.Report) {
	percent := func(v float64) string { return fmt.Sprintf("%.1f %%", v) }
	fairness, lost, cost := "", "", ""
	if r.Fairness.Jain != nil {
		fairness = fmt.Sprintf("%.2f of 1 (Jain), in %s in which several workspaces waited", *r.Fairness.Jain, wait(r.Fairness.Hours*3600))
	}
	if p := r.Preemption; p.Evictions > 0 {
		lost = fmt.Sprintf("%s, %s lost", show.Count(p.Evictions, "eviction"), gpuHours(p.LostGPUHours))
	}
	if r.Cost != nil {
		cost = fmt.Sprintf("%.2f", *r.Cost)
	}
	a.screen.Fields(
		"Cluster", fmt.Sprintf("%s, %s, %s, %s GiB", show.Count(r.Cluster.Nodes, "node"), show.Count(r.Cluster.GPUs, "GPU"), cores(r.Cluster.Cores), show.Number(r.Cluster.MemoryGiB)),
		"Policy", fmt.Sprintf("%s, seed %d, load %s", r.Policy, r.Seed, show.Number(r.Load)),
		"Jobs", jobCounts(r.Jobs),
		"Makespan", wait(r.MakespanS),
		"Waiting", fmt.Sprintf("%s in the mean, %s at most, up to %s at once", wait(r.Waiting.MeanS), wait(r.Waiting.MaxS), show.Count(r.Jobs.PeakWaiting, "job")),
		"GPUs in use", fmt.Sprintf("%s, %s while jobs wait", percent(r.Utilisation.GPUPct), percent(r.Utilisation.GPUPctWhileWaiting)),
		"Cores in use", percent(r.Utilisation.CPUPct),
		"Memory in use", percent(r.Utilisation.MemoryPct),
		"Fragmented", percent(r.FragmentedPct)+" of GPUs",
		"Fairness", fairness,
		"Preemption", lost,
		"Cost", cost,
	)
	a.screen.Printf("\nWaiting times by workspace, and what it got\n\n")
	a.screen.Print(workspaceTable(r))
	a.screen.Printf("\nWaiting times by GPUs of a job\n\n")
	t := term.NewTable("GPUS", "JOBS", "MEAN", "MEDIAN", "P90", "P99", "MAX").Right(1, 2, 3, 4, 5, 6)
	for _, s := range r.Sizes {
		t.Row(append([]string{s.GPUs, fmt.Sprint(s.Jobs)}, waitCells(s.Waiting)...)...)
	}
	a.screen.Print(t)
	a.screen.Printf("\nGPU models\n\n")
	t = term.NewTable("MODEL", "GPUS", "GPU-HOURS", "COST").Right(1, 2, 3)
	for _, m := range r.GPUs {
		t.Row(term.Clean(m.Model), fmt.Sprint(m.GPUs), fmt.Sprintf("%.1f", m.UsedHours), price(m.Cost))
	}
	a.screen.Print(t)
	a.printUnrun("Refused", r.Refused)
	a.printUnrun("Never started", r.Stranded)
}

func workspaceTable(r *simulate.Report) *term.Table {
	t := term.NewTable("WORKSPACE", "JOBS", "MEAN", "MEDIAN", "P90", "P99", "MAX", "GPU-HOURS", "SHARE", "SHORT", "EVICTED", "LOST", "COST").
		Right(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	// Columns that say nothing of anybody are left empty.
	short, evicted := false, false
	for _, w := range r.Workspaces {
		short, evicted = short || w.ShortGPUHours > 0, evicted || w.Evictions > 0
	}
	for _, w := range r.Workspaces {
		cells := append([]string{term.Clean(w.Name), fmt.Sprint(w.Jobs)}, waitCells(w.Waiting)...)
		cells = append(cells, fmt.Sprintf("%.1f", w.GPUHours), fmt.Sprintf("%.1f %%", w.SharePct), "", "", "", price(w.Cost))
		if short {
			cells[9] = fmt.Sprintf("%.1f", w.ShortGPUHours)
		}
		if evicted {
			cells[10], cells[11] = fmt.Sprint(w.Evictions), fmt.Sprintf("%.1f", w.LostGPUHours)
		}
		t.Row(cells...)
	}
	return t
}

func waitCells(w simulate.Waits) []string {
	if w.Started == 0 {
		return []string{"-", "-", "-", "-", "-"}
	}
	return []string{wait(w.MeanS), wait(w.MedianS), wait(w.P90S), wait(w.P99S), wait(w.MaxS)}
}

// mostUnrun is how many jobs that did not run are shown; all are in the JSON.
const mostUnrun = 10

func (a *app) printUnrun(title string, jobs []simulate.Refused) {
	if len(jobs) == 0 {
		return
	}
	a.screen.Printf("\n%s\n\n", title)
	t := term.NewTable("JOB", "LINE", "WORKSPACE", "WHY").Right(1)
	for _, j := range jobs[:min(len(jobs), mostUnrun)] {
		t.Row(term.Clean(j.Job), fmt.Sprint(j.Line), term.Clean(j.Workspace), term.Clean(j.Why))
	}
	a.screen.Print(t)
	if more := len(jobs) - mostUnrun; more > 0 {
		a.screen.Printf("and %d more; -json lists them all\n", more)
	}
}

func jobCounts(n simulate.Jobs) string {
	text := fmt.Sprintf("%d ended", n.Ended)
	if n.Refused > 0 {
		text += fmt.Sprintf(", %d refused", n.Refused)
	}
	if n.Stranded > 0 {
		text += fmt.Sprintf(", %d never started", n.Stranded)
	}
	return text
}

func gpuHours(h float64) string { return fmt.Sprintf("%.1f GPU-hours", h) }

func cores(n float64) string {
	if n == 1 {
		return "1 core"
	}
	return show.Number(n) + " cores"
}

func price(cost *float64) string {
	if cost == nil {
		return ""
	}
	return fmt.Sprintf("%.2f", *cost)
}
