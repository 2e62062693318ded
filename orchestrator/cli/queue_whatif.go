package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
)

func (a *app) queueWhatIfCmd() *cobra.Command {
	var opts struct {
		nodes       []string
		files       definitionFiles
		filter      admission.Filter
		all, asJSON bool
	}
	cmd := &cobra.Command{
		Use:   "what-if",
		Short: "Tell what would start earlier or later with more nodes or other quotas",
		Long: `Compare the queue as it is with what it would be with more nodes, with other
definitions of workspaces, or both: which tasks would start earlier or later, and
what would have to make room. Both are forecasts from one snapshot, by the code
that decides. Nothing is changed.

What one more pipeline would do, drover plan tells. For a whole day's load,
drover simulate replays a trace.`,
		Args: exactArgs(),
		Example: `  drover queue what-if -nodes gpu-01=2
  drover queue what-if -all -workspaces workspaces.hcl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var req api.WhatIfRequest
			for _, text := range opts.nodes {
				n, err := moreNodes(text)
				if err != nil {
					return err
				}
				req.Nodes = append(req.Nodes, n)
			}
			if err := checkListed(opts.filter.Limit); err != nil {
				return err
			}
			if len(opts.files) > 0 {
				d, err := a.definitions(opts.files, opts.asJSON)
				if err != nil {
					return err
				}
				req.Definitions = &d
			}
			if len(req.Nodes) == 0 && req.Definitions == nil {
				return usagef("say what would be otherwise: -nodes LIKE=COUNT, -workspaces FILE, or both")
			}
			if !opts.all {
				opts.filter.Workspace = a.workspaceName()
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.WhatIf(cmd.Context(), req, opts.filter)
			if err != nil {
				return err
			}
			if opts.asJSON {
				return a.printJSON(v)
			}
			a.printWhatIf(v, opts.all)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&opts.nodes, "nodes", nil, "Suppose COUNT more nodes like the node LIKE, as `LIKE=COUNT`. Can be repeated")
	cmd.Flags().StringArrayVar((*[]string)(&opts.files), "workspaces", nil, "Suppose the definitions in `FILE` instead of all that hold; - is standard\ninput. Can be repeated: all are one as a whole")
	cmd.Flags().BoolVar(&opts.all, "all", false, "Compare tasks of all workspaces")
	limitListed(cmd, &opts.filter.Limit)
	jsonFlag(cmd, &opts.asJSON)
	return cmd
}

func moreNodes(text string) (admission.MoreNodes, error) {
	i := strings.LastIndex(text, "=")
	if i > 0 {
		if n, err := strconv.Atoi(text[i+1:]); err == nil && n >= 1 {
			return admission.MoreNodes{Like: text[:i], Count: n}, nil
		}
	}
	return admission.MoreNodes{}, usagef("-nodes %q is not LIKE=COUNT, such as gpu-01=2: a node that there is, and how many more", text)
}

func (a *app) printWhatIf(c admission.Comparison, all bool) {
	if c.Waiting == 0 {
		a.screen.Printf("Nothing waits.\n")
		return
	}
	header := []string{"TASK", "WORKSPACE", "PRIORITY", "NEEDS", "STARTS", "THEN", "DIFFERENCE"}
	var rows [][]string
	for _, t := range c.Tasks {
		if t.Change == admission.Same {
			break
		}
		rows = append(rows, []string{string(t.Task), t.Workspace, fmt.Sprint(t.Priority), needs(t.Needs, t.Members),
			startsOr(t.Now, c.At), startsOr(t.Then, c.At), a.difference(t)})
	}
	if len(rows) > 0 {
		drop := []int{2}
		if !all {
			drop = append(drop, 1)
		}
		a.printTable(header, rows, drop, nil)
		a.printMore(c.Earlier+c.Later-len(rows), "start at another time")
		a.screen.Printf("\n")
	}
	same := c.Waiting - c.Earlier - c.Later
	a.screen.Printf("Earlier: %d, later: %d, as before: %d.\n", c.Earlier, c.Later, same)
	a.printVictims(c.Tasks)
	for _, until := range []*time.Time{c.NowUntil, c.ThenUntil} {
		if until != nil {
			a.screen.Printf("What starts after %s is not compared: so much waits that the forecast does not reach further.\n", show.Stamp(until))
			break
		}
	}
}

func startsOr(o admission.Outlook, at time.Time) string {
	if o.Expected == nil {
		return "not foreseen"
	}
	return starts(o, at)
}

func (a *app) difference(t admission.Compared) string {
	text, color := "", term.Green
	switch now, then := t.Now.Expected, t.Then.Expected; {
	case now == nil:
		text = "starts only then"
	case then == nil:
		text, color = "does not start then", term.Red
	case t.Change == admission.Earlier:
		text = show.Duration(now.Sub(*then)) + " earlier"
	default:
		text, color = show.Duration(then.Sub(*now))+" later", term.Red
	}
	return a.screen.Paint(color, text)
}

// printVictims tells what makes room only now, or only then.
func (a *app) printVictims(tasks []admission.Compared) {
	type pair struct{ victim, task string }
	now, then := map[pair]bool{}, map[pair]bool{}
	for _, t := range tasks {
		for _, v := range t.Now.Evicts {
			now[pair{string(v.Task), string(t.Task)}] = true
		}
		for _, v := range t.Then.Evicts {
			then[pair{string(v.Task), string(t.Task)}] = true
		}
	}
	var lines []string
	for _, t := range tasks {
		for _, v := range t.Then.Evicts {
			if !now[pair{string(v.Task), string(t.Task)}] {
				lines = append(lines, fmt.Sprintf("%s would make room for %s, and lose %s", v.Task, t.Task, lost(v)))
			}
		}
		for _, v := range t.Now.Evicts {
			if !then[pair{string(v.Task), string(t.Task)}] {
				lines = append(lines, fmt.Sprintf("%s would not have to make room for %s", v.Task, t.Task))
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	a.screen.Printf("\nEvictions\n")
	for _, line := range lines {
		a.screen.Printf("  %s\n", line)
	}
}
