package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

func (a *app) workspaceShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show WORKSPACE",
		Short: "Show a workspace's quotas and budget, and what it uses of them",
		Long: `Show a workspace's quotas as schedules make them now, what its work and its
endpoints use of them, and how much of its budget is left.`,
		Args:              exactArgs("WORKSPACE"),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.WorkspaceStatus(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			a.printWorkspace(s)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// The marks of a plan.
var planMarks = map[workspace.Action]struct {
	mark  string
	color term.Color
}{
	workspace.Create: {"+", term.Green},
	workspace.Update: {"~", term.Yellow},
	workspace.Delete: {"-", term.Red},
}

func (a *app) printWorkspacePlan(p workspace.Plan) {
	if len(p.Changes) == 0 {
		a.screen.Printf("Nothing to change: this is what is declared, as version %d.\n", p.Version)
		return
	}
	counts := map[workspace.Action]int{}
	var unlimited []string
	for _, c := range p.Changes {
		counts[c.Action]++
		name := c.Kind
		if c.Name != "" {
			name += fmt.Sprintf(" %q", c.Name)
		}
		m := planMarks[c.Action]
		a.screen.Printf("%s\n", a.screen.Paint(m.color, m.mark+" "+term.Clean(name)))
		if c.Action == workspace.Delete {
			if c.Kind == "workspace" {
				unlimited = append(unlimited, c.Name)
			}
			continue
		}
		a.printFieldChanges(c)
	}
	a.screen.Printf("\nPlan: %d to create, %d to change, %d to delete.\n", counts[workspace.Create], counts[workspace.Update], counts[workspace.Delete])
	for _, c := range p.Cuts {
		a.screen.Printf("Workspace %s uses %s of %s now, and has %s then: what it uses beyond that goes back when others need it.\n",
			c.Workspace, c.Used, c.Flavor, c.Nominal)
	}
	if len(unlimited) > 0 {
		a.screen.Printf("Workspaces that nobody declares have no limits: %s.\n", strings.Join(unlimited, ", "))
	}
}

func (a *app) printFieldChanges(c workspace.Change) {
	width := 0
	for _, f := range c.Fields {
		width = max(width, len(f.Field))
	}
	for _, f := range c.Fields {
		value := f.After
		switch {
		case f.After == "":
			value = f.Before + " -> (none)"
		case f.Before != "":
			value = f.Before + " -> " + f.After
		case c.Action == workspace.Update:
			value = "(none) -> " + f.After
		}
		a.screen.Printf("    %-*s = %s\n", width, term.Clean(f.Field), term.Clean(value))
	}
}

func (a *app) printWorkspace(s workspace.Status) {
	w := s.Workspace
	order, preemptible := "", ""
	if w.Strict {
		order = "strict: nothing overtakes the first that waits"
	}
	if w.Preemptible != nil && !*w.Preemptible {
		preemptible = "no"
	}
	a.screen.Fields(
		"Workspace", w.Name,
		"Cohort", w.Cohort,
		"Namespace", w.Namespace,
		"Node pools", strings.Join(w.NodePools, ", "),
		"Weight", fmt.Sprint(max(1, w.Weight)),
		"Order", order,
		"Priority classes", strings.Join(w.PriorityClasses, ", "),
		"May be evicted", preemptible,
		"Budget", a.budgetStatus(s.Budget),
	)
	if len(s.Flavors) > 0 {
		a.screen.Printf("\nQuotas\n")
		t := term.NewTable("FLAVOR", "USED", "NOMINAL", "BORROW", "LEND", "ENDPOINTS", "FLOOR", "HEADROOM").Right(1, 2, 3, 4, 5, 6, 7)
		for _, f := range s.Flavors {
			used, nominal := unknown(f.Used), f.Nominal.String()
			switch {
			case f.Unlimited:
				nominal = "no limit"
			case f.Used != nil && *f.Used > f.Nominal:
				used = a.screen.Paint(term.Yellow, used)
			}
			t.Row(string(f.Flavor), used, nominal, limitText(f.Borrow), limitText(f.Lend),
				unknown(f.ServingUsed), f.Floor.String(), f.Headroom.String())
		}
		a.screen.Print(t)
	}
	if len(s.Schedules) > 0 {
		a.screen.Printf("\nSchedules\n")
		t := term.NewTable("SCHEDULE", "HOLDS", "UNTIL")
		for _, x := range s.Schedules {
			holds := "no"
			if x.Holds {
				holds = a.screen.Paint(term.Green, "yes")
			}
			t.Row(x.Name, holds, show.Stamp(x.Until))
		}
		a.screen.Print(t)
	}
}

func (a *app) budgetStatus(b *workspace.BudgetStatus) string {
	if b == nil {
		return ""
	}
	period := "this " + string(b.Per)
	if b.Per == workspace.Day {
		period = "today"
	}
	text := fmt.Sprintf("%s of %s GPU-hours used %s", b.Used, b.GPUHours, period)
	if b.Held {
		return a.screen.Paint(term.Red, text+"; nothing starts until "+show.Stamp(&b.End))
	}
	return text
}

// limitText is a limit for people.
func limitText(limit *workspace.Amount) string {
	if limit == nil {
		return "all"
	}
	return limit.String()
}

func unknown(a *workspace.Amount) string {
	if a == nil {
		return "?"
	}
	return a.String()
}
