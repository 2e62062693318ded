package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/trace"
)

// placementResult is what drover simulate placement -json prints. A figure of
// a load that never arrived is null.
type placementResult struct {
	Policy           string   `json:"policy"`
	Seed             uint64   `json:"seed"`
	Load             float64  `json:"load"`
	Nodes            int      `json:"nodes"`
	GPUs             int      `json:"gpus"`
	Placed           int      `json:"placed"`
	Dropped          int      `json:"dropped"`
	AllocatedAt100   *float64 `json:"allocated_pct_at_100"`
	AllocatedAt130   *float64 `json:"allocated_pct_at_130"`
	AllocatedPct     float64  `json:"allocated_pct"`
	FragmentedPct    float64  `json:"fragmented_pct"`
	DecisionMedianUs float64  `json:"decision_median_us"`
	DecisionP99Us    float64  `json:"decision_p99_us"`
}

func (a *app) simulatePlacementCmd() *cobra.Command {
	var nodes, tasks string
	var asJSON bool
	e := placement.Experiment{}
	cmd := &cobra.Command{
		Use:   "placement",
		Short: "Fill an empty cluster with tasks drawn at random, by a placement policy",
		Long: `Fill an empty cluster with tasks drawn at random from a list, until the GPUs that
they ask for add up to -load times those of the cluster. They are placed one
after the other; one that does not fit is dropped, and nothing leaves. Policies
expect the mix of tasks that the list has.

Files have the format of the openb trace: CSV with a header, plain or gzipped.

  nodes   sn, cpu_milli, memory_mib, gpu, model
  tasks   name, cpu_milli, memory_mib, num_gpu, gpu_milli, and gpu_spec, the GPU
          models that the task accepts, with | between them

Allocated is the part of the cluster's GPUs that is given out when tasks for
100 % and 130 % of them have arrived; fragmented is the part that is free in the
end and that the tasks of the mix cannot use, in the mean. The same seed gives
the same result, but for the times of decisions.`,
		Example: "  drover simulate placement -nodes nodes.csv.gz -tasks tasks.csv.gz -seed 7 -json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes == "" || tasks == "" {
				return usagef("drover simulate placement needs -nodes and -tasks")
			}
			var err error
			if e.Nodes, err = readTrace(nodes, trace.ReadNodes); err != nil {
				return err
			}
			if e.Tasks, err = readTrace(tasks, trace.ReadTasks); err != nil {
				return err
			}
			start := time.Now()
			e.Clock = func() time.Duration { return time.Since(start) }
			e.Progress = a.placementProgress()
			o, err := e.Run(cmd.Context())
			if a.errScreen.Terminal() {
				a.errScreen.Draw(nil)
			}
			if err != nil {
				return fmt.Errorf("simulating placement: %w", err)
			}
			r := newPlacementResult(e, o)
			if asJSON {
				return a.printJSON(r)
			}
			a.printPlacement(r)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&nodes, "nodes", "", "`FILE` with the nodes")
	f.StringVar(&tasks, "tasks", "", "`FILE` with the tasks")
	f.Float64Var(&e.Load, "load", 1.3, fmt.Sprintf("`FACTOR` by which tasks ask for more GPUs than there are, up to %d", placement.MaxLoad))
	f.Uint64Var(&e.Seed, "seed", 1, "`NUMBER` that decides what is random")
	f.StringVar(&e.Policy, "policy", placement.DefaultPolicy, "`NAME` of the policy: "+strings.Join(placement.Policies(), ", "))
	jsonFlag(cmd, &asJSON)
	return cmd
}

// placementProgress draws how far an experiment is on a terminal, now and then.
func (a *app) placementProgress() func(done, of int) {
	if !a.errScreen.Terminal() {
		return nil
	}
	var drawn time.Time
	return func(done, of int) {
		if now := time.Now(); now.Sub(drawn) > 100*time.Millisecond {
			drawn = now
			a.errScreen.Draw([]string{fmt.Sprintf("placing tasks: %d of %d", done, of)})
		}
	}
}

func newPlacementResult(e placement.Experiment, o placement.Outcome) placementResult {
	us := func(quantile float64) float64 { return float64(o.Decision(quantile).Nanoseconds()) / 1000 }
	r := placementResult{
		Policy: e.Policy, Seed: e.Seed, Load: e.Load, Nodes: len(e.Nodes), GPUs: o.GPUs, Placed: o.Placed, Dropped: o.Dropped,
		AllocatedPct: o.FinalPct(), FragmentedPct: o.FragmentedPct, DecisionMedianUs: us(0.5), DecisionP99Us: us(0.99),
	}
	if pct, ok := o.AllocatedPct(100, e.Load); ok {
		r.AllocatedAt100 = &pct
	}
	if pct, ok := o.AllocatedPct(130, e.Load); ok {
		r.AllocatedAt130 = &pct
	}
	return r
}

func (a *app) printPlacement(r placementResult) {
	percent := func(v *float64) string {
		if v == nil {
			return ""
		}
		return fmt.Sprintf("%.2f %%", *v)
	}
	a.screen.Fields(
		"Policy", r.Policy,
		"Cluster", show.Count(r.Nodes, "node")+", "+show.Count(r.GPUs, "GPU"),
		"Tasks", fmt.Sprintf("%d placed, %d dropped", r.Placed, r.Dropped),
	)
	a.screen.Printf("\n")
	t := term.NewTable("WHAT", "VALUE").Right(1)
	t.Row("Allocated at 100 % arrived", percent(r.AllocatedAt100))
	t.Row("Allocated at 130 % arrived", percent(r.AllocatedAt130))
	t.Row("Allocated in the end", percent(&r.AllocatedPct))
	t.Row("Fragmented in the end", percent(&r.FragmentedPct))
	t.Row("Decision, median", fmt.Sprintf("%.1f µs", r.DecisionMedianUs))
	t.Row("Decision, p99", fmt.Sprintf("%.1f µs", r.DecisionP99Us))
	a.screen.Print(t)
}
