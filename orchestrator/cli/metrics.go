package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
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
		t.Row(taskName(p.Node, p.Trial), term.Clean(p.Metric), fmt.Sprint(p.Step), number(p.Value), stamp(&at))
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
		key := taskName(p.Node, p.Trial) + "\x00" + p.Metric
		e := byName[key]
		if e == nil {
			e = &extremes{name: taskName(p.Node, p.Trial), metric: p.Metric, first: p.Value, least: p.Value, most: p.Value}
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
		t.Row(e.name, term.Clean(e.metric), number(e.last), fmt.Sprint(e.at), number(e.first), number(e.least), number(e.most), fmt.Sprint(e.points))
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
			rows := comparison(runs, opts.all)
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

// compared is a row of a comparison: something that runs have, and what each of
// them has.
type compared struct {
	Kind   string `json:"kind"` // run, variable, param, metric, output, gate or model
	Step   string `json:"step,omitempty"`
	Name   string `json:"name"`
	Values []any  `json:"values"` // nil where a run does not have it
}

// comparison puts runs side by side.
func comparison(runs []run.Run, all bool) []compared {
	rows := []compared{}
	index := map[[3]string]int{}
	set := func(i int, kind, step, name string, v any) {
		key := [3]string{kind, step, name}
		at, ok := index[key]
		if !ok {
			at = len(rows)
			index[key] = at
			rows = append(rows, compared{Kind: kind, Step: step, Name: name, Values: make([]any, len(runs))})
		}
		rows[at].Values[i] = v
	}
	for i, r := range runs {
		set(i, "run", "", "phase", string(r.Phase))
		if r.Started != nil && r.Ended != nil {
			set(i, "run", "", "seconds", r.Ended.Sub(*r.Started).Seconds())
		}
		for _, k := range slices.Sorted(maps.Keys(r.Variables)) {
			set(i, "variable", "", k, r.Variables[k])
		}
		for j := range r.Nodes {
			compareNode(&r.Nodes[j], func(kind, name string, v any) { set(i, kind, string(r.Nodes[j].ID), name, v) })
		}
	}
	if all {
		return rows
	}
	return slices.DeleteFunc(rows, func(c compared) bool {
		for _, v := range c.Values[1:] {
			if value(v) != value(c.Values[0]) {
				return false
			}
		}
		return true
	})
}

func compareNode(n *run.Node, set func(kind, name string, v any)) {
	if n.Kind == pipeline.KindModel {
		if n.Version > 0 {
			set("model", "version", float64(n.Version))
		}
		return // its metrics and files are its steps'
	}
	for _, k := range slices.Sorted(maps.Keys(n.Params)) {
		set("param", k, n.Params[k])
	}
	for _, k := range slices.Sorted(maps.Keys(n.Metrics)) {
		set("metric", k, n.Metrics[k])
	}
	for _, k := range slices.Sorted(maps.Keys(n.Outputs)) {
		set("output", k, shortDigest(n.Outputs[k].Digest))
	}
	if n.Gate != nil {
		set("gate", "verdict", verdictWord(n.Gate))
	}
}

func (a *app) printComparison(runs []run.Run, rows []compared) {
	if len(rows) == 0 {
		a.screen.Printf("These runs have the same parameters and metrics; -all shows them.\n")
		return
	}
	header := []string{"KIND", "STEP", "NAME"}
	for _, r := range runs {
		header = append(header, strings.ToUpper(string(r.ID)))
	}
	t := term.NewTable(header...)
	for _, row := range rows {
		cells := []string{row.Kind, row.Step, term.Clean(row.Name)}
		for _, v := range row.Values {
			if v == nil {
				cells = append(cells, "")
			} else {
				cells = append(cells, term.Clean(value(v)))
			}
		}
		t.Row(cells...)
	}
	a.screen.Print(t)
}
