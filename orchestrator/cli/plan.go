package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) planCmd() *cobra.Command {
	var vars variables
	var opts struct {
		offline, asJSON bool
		out             string
	}
	cmd := &cobra.Command{
		Use:   "plan PIPELINE",
		Short: "Show what a run would do: the graph, what is cached, the Nomad jobs",
		Long: `Show what a run would do, and do nothing: each step with what it depends on,
whether its result is cached, and the Nomad jobs that would be registered now.

The action of a step is one of
  cached   the result is there, from an earlier run
  run      its jobs would be registered now
  unknown  its inputs or parameters come from a step that has yet to run, and so
           it has no job until that one has ended
  skip     its condition says no
  fail     it cannot run, for the reason shown
  decide   gates, models and endpoints, once their time comes

For tasks that would be queued now it says what the queue would do: when they
start and where, why not at once, and what makes room for them.

Without a server, or with -offline, nothing is known to be cached, and nothing of
the queue.

With -out, each job is written to DIR/<job ID>.json, a file that
nomad job run -json accepts.`,
		Example: "  drover plan examples/digits/pipeline.hcl\n  drover plan -offline -out jobs pipeline.hcl",
		Args:    exactArgs("PIPELINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, err := a.load(args[0], vars)
			if err != nil {
				return err
			}
			sources, err := f.scan(ctx, func(string) {})
			if err != nil {
				return err
			}
			plan, err := a.plan(ctx, f, sources, opts.offline)
			if err != nil {
				return err
			}
			if opts.out != "" {
				if err := writeJobs(opts.out, plan); err != nil {
					return err
				}
			}
			if opts.asJSON {
				return a.printJSON(plan)
			}
			a.printPlan(f.pipeline, plan, opts.out)
			return nil
		},
	}
	vars.flags(cmd)
	cmd.Flags().BoolVar(&opts.offline, "offline", false, "Ask no server")
	cmd.Flags().StringVar(&opts.out, "out", "", "Write the jobs to the folder `DIR`, a file for each")
	jsonFlag(cmd, &opts.asJSON)
	return cmd
}

// plan asks the server for a plan or, if there is none or none is wanted, makes
// one without knowing what is cached.
func (a *app) plan(ctx context.Context, f *file, sources map[string]client.Source, offline bool) (run.Plan, error) {
	sub := f.submission(sources)
	sub.Workspace = a.workspaceName()
	if !offline {
		c, err := a.client()
		if err != nil {
			return run.Plan{}, err
		}
		_, err = c.Health(ctx)
		var unreachable *client.UnreachableError
		switch {
		case err == nil:
			return c.Plan(ctx, sub)
		case !errors.As(err, &unreachable):
			return run.Plan{}, err
		}
		fmt.Fprintf(a.Err, "No server answers at %s, so what is cached is not known.\n", c.Address())
	}
	return run.PlanAlone(sub, jobspec.Cluster{})
}

// writeJobs writes each job of a plan to a file of its own.
func writeJobs(dir string, plan run.Plan) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing jobs: %w", err)
	}
	for _, n := range plan.Nodes {
		for _, job := range n.Jobs {
			b, err := json.MarshalIndent(map[string]any{"Job": job}, "", "  ")
			if err != nil {
				return fmt.Errorf("writing job %s: %w", *job.ID, err)
			}
			if err := os.WriteFile(filepath.Join(dir, *job.ID+".json"), append(b, '\n'), 0o644); err != nil {
				return fmt.Errorf("writing job %s: %w", *job.ID, err)
			}
		}
	}
	return nil
}

func (a *app) printPlan(p *pipeline.Pipeline, plan run.Plan, out string) {
	what := map[pipeline.NodeID]string{}
	for _, n := range p.Nodes {
		what[n.ID] = n.Summary()
	}
	a.screen.Fields("Pipeline", plan.Pipeline, "Variables", show.Pairs(plan.Variables))
	a.screen.Printf("\n")
	t := term.NewTable("STEP", "ACTION", "AFTER", "WHAT")
	var jobs []string
	for _, n := range plan.Nodes {
		detail := what[n.ID]
		switch {
		case n.Cached != "":
			detail = "result of run " + string(n.Cached)
		case n.Reason != "":
			detail = show.FirstLine(n.Reason)
		}
		action := string(n.Action)
		if n.Kind == pipeline.KindDataset {
			action = "" // it is there
		}
		t.Row(string(n.ID), a.screen.Paint(actionColor(n.Action), action), joinIDs(n.DependsOn), term.Clean(detail))
		for _, job := range n.Jobs {
			jobs = append(jobs, *job.ID)
		}
	}
	a.screen.Print(t)
	a.printOutlook(plan)
	if len(jobs) == 0 {
		a.screen.Printf("\nNo job would be registered now.\n")
		return
	}
	a.screen.Printf("\n%s would be registered now\n", show.Count(len(jobs), "Nomad job"))
	for _, id := range jobs[:min(len(jobs), maxJobs)] {
		a.screen.Printf("  %s\n", id)
	}
	if len(jobs) > maxJobs {
		a.screen.Printf("  … and %d more\n", len(jobs)-maxJobs)
	}
	if out == "" {
		a.screen.Printf("The jobs themselves: drover plan -out DIR, or -json\n")
	} else {
		a.screen.Printf("Wrote %s to %s; nomad job run -json FILE takes each of them.\n", show.Count(len(jobs), "file"), strings.TrimSuffix(out, "/"))
	}
}

// printOutlook tells what the queue would do.
func (a *app) printOutlook(plan run.Plan) {
	if plan.NoQueue != "" {
		a.screen.Printf("\nWhen tasks would start is not known: %s\n", term.Clean(plan.NoQueue))
	}
	var rows [][]string
	var evicted []string
	more := 0
	for _, n := range plan.Nodes {
		for _, e := range n.Queue {
			if len(rows) == maxJobs {
				more++
				continue
			}
			_, task, _ := strings.Cut(string(e.Task), "/")
			why := ""
			if e.Reason != nil {
				why = term.Clean(e.Reason.Text)
			}
			rows = append(rows, []string{task, needs(e.Needs, e.Members), starts(e.Outlook, a.Now()), some(e.OnNodes), why})
			for _, v := range e.Evicts {
				evicted = append(evicted, fmt.Sprintf("%s would make room for %s, and lose %s", v.Task, task, lost(v)))
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	a.screen.Printf("\n")
	a.printTable([]string{"IN THE QUEUE", "NEEDS", "STARTS", "ON", "WHY NOT NOW"}, rows, nil, nil)
	if more > 0 {
		a.screen.Printf("… and %d more\n", more)
	}
	for _, line := range evicted {
		a.screen.Printf("%s\n", line)
	}
}

// maxJobs is how many jobs plan names.
const maxJobs = 20

func actionColor(a run.Action) term.Color {
	switch a {
	case run.ActCached:
		return term.Green
	case run.ActRun:
		return term.Cyan
	case run.ActFail:
		return term.Red
	default:
		return term.Dim
	}
}
