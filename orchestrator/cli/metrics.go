package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/run"
)

func (a *app) metricsCmd() *cobra.Command {
	var opts struct {
		filter          client.MetricFilter
		trial           int
		history, asJSON bool
	}
	cmd := &cobra.Command{
		Use:   "metrics RUN [STEP]",
		Short: "Show what a run has measured",
		Long: `Show the first, last, least and greatest value of each metric of a run or of
one step. -history shows every value.`,
		Args:              rangeArgs(1, "RUN", "STEP"),
		ValidArgsFunction: a.completeRunAndNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id := run.ID(args[0])
			if len(args) == 2 {
				n, err := findNode(cmd.Context(), c, id, args[1])
				if err != nil {
					return err
				}
				opts.filter.Node = n.ID
			}
			if cmd.Flags().Changed("trial") {
				opts.filter.Trial = &opts.trial
			}
			opts.filter.Limit = 100_000
			page, err := c.Metrics(cmd.Context(), id, opts.filter)
			if err != nil {
				return err
			}
			switch {
			case opts.asJSON:
				return a.printJSON(page.Points)
			case opts.history:
				a.printHistory(page.Points)
			default:
				a.printExtremes(page.Points)
			}
			if page.Truncated {
				a.screen.Printf("There are more values than these; ask for one STEP, -trial or -metric.\n")
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.filter.Metric, "metric", "", "Only the metric `NAME`")
	flags.IntVar(&opts.trial, "trial", 0, "`NUMBER` of the trial, of a sweep")
	flags.BoolVar(&opts.history, "history", false, "Show every value")
	flags.BoolVar(&opts.asJSON, "json", false, "Print every value as JSON")
	return cmd
}

func (a *app) printHistory(points []run.MetricPoint) {
	t := term.NewTable("STEP", "METRIC", "AT", "VALUE", "TIME").Right(2, 3)
	for _, p := range points {
		at := p.Time
		t.Row(show.TaskName(p.Node, p.Trial), term.Clean(p.Metric), fmt.Sprint(p.Step), show.Number(p.Value), show.Stamp(&at))
	}
	a.screen.Print(t)
}

// extremes is the course of a metric in four numbers.
type extremes struct {
	name                     string
	metric                   string
	points                   int
	first, last, least, most float64
	at                       int64
}

func (a *app) printExtremes(points []run.MetricPoint) {
	var all []*extremes
	byName := map[string]*extremes{}
	for _, p := range points {
		key := show.TaskName(p.Node, p.Trial) + "\x00" + p.Metric
		e := byName[key]
		if e == nil {
			e = &extremes{name: show.TaskName(p.Node, p.Trial), metric: p.Metric, first: p.Value, least: p.Value, most: p.Value}
			byName[key] = e
			all = append(all, e)
		}
		e.points++
		e.last, e.at = p.Value, p.Step
		e.least, e.most = min(e.least, p.Value), max(e.most, p.Value)
	}
	if len(all) == 0 {
		a.screen.Printf("No metrics yet.\n")
		return
	}
	t := term.NewTable("STEP", "METRIC", "LAST", "AT", "FIRST", "MIN", "MAX", "VALUES").Right(2, 3, 4, 5, 6, 7)
	for _, e := range all {
		t.Row(e.name, term.Clean(e.metric), show.Number(e.last), fmt.Sprint(e.at), show.Number(e.first), show.Number(e.least), show.Number(e.most), fmt.Sprint(e.points))
	}
	a.screen.Print(t)
}

func (a *app) compareCmd() *cobra.Command {
	var opts struct {
		all, asJSON bool
	}
	cmd := &cobra.Command{
		Use:   "compare RUN RUN...",
		Short: "Show parameters and metrics of runs side by side",
		Long: `Show variables, parameters, metrics and results of two runs or more, side by
side. Rows that are equal in all of them are left out; -all shows them too.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%s needs two runs (usage: drover %s)", cmd.CommandPath(), usageLine(cmd))
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return a.completeRun(cmd, nil, typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			runs, err := getRuns(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			rows := show.Compare(runs, opts.all)
			if opts.asJSON {
				return a.printJSON(rows)
			}
			a.printComparison(runs, rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&opts.all, "all", false, "Show also what is equal")
	jsonFlag(cmd, &opts.asJSON)
	return cmd
}

func getRuns(ctx context.Context, c *client.Client, ids []string) ([]run.Run, error) {
	runs := make([]run.Run, len(ids))
	for i, id := range ids {
		r, err := c.Run(ctx, run.ID(id))
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", id, err)
		}
		runs[i] = r
	}
	return runs, nil
}

func (a *app) printComparison(runs []run.Run, rows []show.Row) {
	if len(rows) == 0 {
		a.screen.Printf("These runs have the same parameters and metrics; -all shows them.\n")
		return
	}
	header := []string{"KIND", "STEP", "NAME"}
	for _, r := range runs {
		header = append(header, string(r.ID))
	}
	t := term.NewTable(header...)
	for _, row := range rows {
		cells := []string{row.Kind, row.Step, term.Clean(row.Name)}
		for _, v := range row.Values {
			if v == nil {
				cells = append(cells, "")
			} else {
				cells = append(cells, term.Clean(show.Value(v)))
			}
		}
		t.Row(cells...)
	}
	a.screen.Print(t)
}
