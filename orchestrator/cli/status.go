package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) runsCmd() *cobra.Command {
	var opts struct {
		filter client.RunFilter
		phase  string
		before string
		asJSON bool
	}
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List runs",
		Long:  "List the workspace's runs, the newest first.",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			opts.filter.Phase, opts.filter.Before = run.Phase(opts.phase), run.ID(opts.before)
			page, err := c.Runs(cmd.Context(), opts.filter)
			if err != nil {
				return err
			}
			if opts.asJSON {
				return a.printJSON(page.Runs)
			}
			a.printRuns(page)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.filter.Pipeline, "pipeline", "", "Only runs of the pipeline `NAME`")
	flags.StringVar(&opts.phase, "phase", "", "Only runs in `PHASE`: "+strings.Join(phases, ", "))
	flags.IntVar(&opts.filter.Limit, "limit", 20, "`NUMBER` of runs to list, at most 999")
	flags.StringVar(&opts.before, "before", "", "Only runs older than `RUN`")
	flags.BoolVar(&opts.asJSON, "json", false, "Print JSON")
	mustComplete(cmd, "phase", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return phases, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

var phases = []string{string(run.Waiting), string(run.Queued), string(run.Running), string(run.Succeeded), string(run.Failed), string(run.Cancelled)}

func (a *app) printRuns(page api.RunPage) {
	if len(page.Runs) == 0 {
		a.screen.Printf("No runs. Start one with: drover run PIPELINE\n")
		return
	}
	now := a.Now()
	t := term.NewTable("RUN", "PIPELINE", "PHASE", "SUBMITTED", "TIME", "BY", "ERROR")
	for _, r := range page.Runs {
		t.Row(string(r.ID), r.Pipeline, a.screen.Paint(show.PhaseColor(r.Phase), string(r.Phase)), show.Ago(r.Submitted, now),
			show.Between(r.Started, r.Ended, now), r.By, term.Clean(show.FirstLine(r.Error)))
	}
	a.screen.Print(t)
	if page.Next != "" {
		a.screen.Printf("There are older ones: drover runs -before %s\n", page.Next)
	}
}

func (a *app) statusCmd() *cobra.Command {
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "status RUN [STEP]",
		Short: "Say how a run, or one of its steps, stands",
		Long: `Say how a run stands, and of each step what it waits for, where it runs, or
how it ended. With STEP, tell everything about that one: attempts, inputs,
outputs, parameters and metrics. Without STEP, -follow stays until the end.`,
		Example:           "  drover status d227rea941ch\n  drover status d227rea941ch step.train",
		Args:              rangeArgs(1, "RUN", "STEP"),
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id := run.ID(args[0])
			if follow {
				health, err := c.Health(cmd.Context())
				if err != nil {
					return err
				}
				return a.watch(cmd.Context(), c, run.Run{ID: id}, health.Gateway, asJSON)
			}
			r, err := c.Run(cmd.Context(), id)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if asJSON {
					return a.printJSON(r)
				}
				a.printRun(r)
				return nil
			}
			n, err := nodeOf(r, args[1])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(n)
			}
			a.printNode(n)
			return nil
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "Show progress until the run has ended")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// nodeOf finds a node of a run by its ID, or by its name alone if only one node
// has that name.
func nodeOf(r run.Run, name string) (*run.Node, error) {
	var found []*run.Node
	var ids []string
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if string(n.ID) == name {
			return n, nil
		}
		if _, label, _ := strings.Cut(string(n.ID), "."); label == name {
			found = append(found, n)
		}
		ids = append(ids, string(n.ID))
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(ids) > 20 {
		ids = append(ids[:20], "…")
	}
	return nil, fmt.Errorf("run %s has no step %q; it has %s", r.ID, name, strings.Join(ids, ", "))
}

// findNode asks for a run and finds a node of it.
func findNode(ctx context.Context, c *client.Client, id run.ID, name string) (*run.Node, error) {
	r, err := c.Run(ctx, id)
	if err != nil {
		return nil, err
	}
	return nodeOf(r, name)
}

func (a *app) printRun(r run.Run) {
	a.screen.Fields(
		"Run", string(r.ID),
		"Pipeline", r.Pipeline,
		"Workspace", r.Workspace,
		"Phase", a.screen.Paint(show.PhaseColor(r.Phase), string(r.Phase)),
		"Error", term.Clean(r.Error),
		"By", r.By,
		"Submitted", show.Stamp(&r.Submitted),
		"Started", show.Stamp(r.Started),
		"Ended", show.Stamp(r.Ended),
		"Variables", show.Pairs(r.Variables),
	)
	a.screen.Printf("\n")
	a.screen.Print(show.Nodes(a.screen, r, a.Now()))
}

func (a *app) printNode(n *run.Node) {
	now := a.Now()
	a.screen.Fields(
		"Step", string(n.ID),
		"Phase", a.screen.Paint(show.PhaseColor(n.Phase), string(n.Phase)),
		"Reason", term.Clean(n.Reason),
		"Cached from", string(n.Cached),
		"Depends on", joinIDs(n.Depends),
		"Started", show.Stamp(n.Started),
		"Time", show.Between(n.Started, n.Ended, now),
		"Params", show.Pairs(n.Params),
		"Metrics", strings.Join(show.Metrics(n.Metrics, len(n.Metrics)), " "),
		"Progress", show.Progress(n),
		"Model", modelOf(n),
		"Endpoint", n.Endpoint,
	)
	for _, line := range show.GateLines(n) {
		a.screen.Printf("%s\n", line)
	}
	a.printArtifacts(n)
	if len(n.Trials) > 0 {
		a.screen.Printf("\nTrials\n")
		t := term.NewTable("TRIAL", "PHASE", "TIME", "PARAMS", "METRICS", "DETAIL")
		for _, tr := range n.Trials {
			t.Row(trialMark(n, tr), a.screen.Paint(show.PhaseColor(tr.Phase), string(tr.Phase)), show.Between(tr.Started, tr.Ended, now),
				show.Pairs(tr.Params), strings.Join(show.Metrics(tr.Metrics, 3), " "), term.Clean(show.FirstLine(tr.Reason)))
		}
		a.screen.Print(t)
	}
	if len(n.Attempts) > 0 {
		a.screen.Printf("\nAttempts\n")
		t := term.NewTable("ATTEMPT", "PHASE", "TIME", "NODE", "ALLOC", "JOB", "DETAIL")
		for i := range n.Attempts {
			at := &n.Attempts[i]
			t.Row(attemptMark(at), show.AttemptPhase(a.screen, at), show.Between(at.Started, at.Ended, now),
				at.NodeName, at.AllocID[:min(8, len(at.AllocID))], at.JobID, term.Clean(attemptDetail(at)))
		}
		a.screen.Print(t)
	}
	a.printMembers(n)
	for i := range n.Attempts {
		if at := &n.Attempts[i]; at.Phase == run.Failed && !at.Moved && !at.Evicted {
			a.screen.Printf("\n")
			for _, line := range show.Failure(a.screen, n.ID, at) {
				a.screen.Printf("%s\n", line)
			}
		}
	}
}

// printMembers lists the members of the gangs that have not ended, or of the last
// one.
func (a *app) printMembers(n *run.Node) {
	for i := range n.Attempts {
		at := &n.Attempts[i]
		if len(at.Members) == 0 || at.Phase.Ended() && i != len(n.Attempts)-1 {
			continue
		}
		a.screen.Printf("\nMembers of attempt %s\n", attemptMark(at))
		t := term.NewTable("RANK", "NODE", "ALLOC", "DEVICES")
		for rank, m := range at.Members {
			t.Row(fmt.Sprint(rank), m.NodeName, m.AllocID[:min(8, len(m.AllocID))], strings.Join(m.Devices, " "))
		}
		a.screen.Print(t)
	}
}

// printArtifacts lists what a node read and left.
func (a *app) printArtifacts(n *run.Node) {
	if len(n.Inputs)+len(n.Outputs) == 0 {
		return
	}
	a.screen.Printf("\nArtefacts\n")
	t := term.NewTable("KIND", "NAME", "DIGEST", "SIZE")
	for _, name := range slices.Sorted(maps.Keys(n.Inputs)) {
		t.Row("input", name, n.Inputs[name])
	}
	for _, name := range slices.Sorted(maps.Keys(n.Outputs)) {
		o := n.Outputs[name]
		t.Row("output", name, o.Digest, show.Bytes(o.Bytes))
	}
	a.screen.Print(t)
}

func trialMark(n *run.Node, t run.Trial) string {
	mark := fmt.Sprint(t.Index)
	if n.Best != nil && *n.Best == t.Index {
		mark += " best"
	}
	return mark
}

func attemptMark(at *run.Attempt) string {
	if at.Trial != nil {
		return fmt.Sprintf("%d of trial %d", at.Number, *at.Trial)
	}
	return fmt.Sprint(at.Number)
}

func attemptDetail(at *run.Attempt) string {
	text := show.FirstLine(at.Reason)
	if at.Phase == run.Failed {
		text = show.FirstLine(show.ExitReason(at))
	}
	if at.ResumedFrom != nil {
		text = show.Joined(text, fmt.Sprintf("resumed from step %d", *at.ResumedFrom))
	}
	if at.Incident != "" {
		text = show.Joined(text, "incident "+at.Incident)
	}
	if len(at.Members) > 0 {
		return show.Joined(text, show.Count(len(at.Members), "member"))
	}
	if len(at.Devices) > 0 {
		text = show.Joined(text, "devices "+strings.Join(at.Devices, " "))
	}
	return text
}

func modelOf(n *run.Node) string {
	if n.Version == 0 {
		return n.Model
	}
	return fmt.Sprintf("%s version %d", n.Model, n.Version)
}

func joinIDs(ids []pipeline.NodeID) string {
	text := make([]string, len(ids))
	for i, id := range ids {
		text[i] = string(id)
	}
	return strings.Join(text, " ")
}
