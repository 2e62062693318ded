package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
)

func (a *app) queueCmd() *cobra.Command {
	var asJSON, all, waiting bool
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Show what waits, in order, and what runs",
		Long: `Show what holds the cluster's GPUs, CPUs and memory, and what waits for them in
the order in which it is going to start: when, why not now, and what makes room
for it. Times are a forecast: as if nothing else were submitted, and everything
ran as long as it declares.`,
		Args: exactArgs(),
		Example: `  drover queue
  drover queue -all -waiting
  drover queue explain 01ja2b3c4d5e/step.train`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			workspace := a.workspaceName()
			if all {
				workspace = ""
			}
			v, err := c.Queue(cmd.Context(), workspace, waiting)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(v)
			}
			a.printQueue(v)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "That of all workspaces, and what Drover did not submit")
	cmd.Flags().BoolVar(&waiting, "waiting", false, "Only what waits")
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(a.queueExplainCmd())
	return cmd
}

func (a *app) queueExplainCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain TASK",
		Short: "Tell why a task waits, and what would let it start",
		Long: `Tell the one reason for which a task waits, in numbers, the smallest change that
takes it away, and when it starts otherwise. A TASK is RUN/NODE, or
RUN/NODE/TRIAL, as drover queue lists it.`,
		Args:    exactArgs("TASK"),
		Example: `  drover queue explain 01ja2b3c4d5e/step.train`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			e, err := c.QueueTask(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(e)
			}
			a.printQueueEntry(e)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printQueue(v admission.View) {
	i := slices.IndexFunc(v.Entries, func(e admission.Entry) bool { return e.State == "waiting" })
	if i < 0 {
		i = len(v.Entries)
	}
	running, waiting := v.Entries[:i], v.Entries[i:]
	if len(v.Entries) == 0 {
		a.screen.Printf("Nothing waits and nothing runs.\n")
		return
	}
	if len(running) > 0 {
		t := term.NewTable("RUNNING", "WORKSPACE", "PRIORITY", "HOLDS", "NODES", "SINCE", "STATE").Right(2)
		for _, e := range running {
			t.Row(string(e.Task), e.Workspace, fmt.Sprint(e.Priority), needs(e), strings.Join(e.Nodes, ","), show.Ago(*e.Started, a.Now()), a.queueState(e))
		}
		a.screen.Print(t)
	}
	if len(running) > 0 && len(waiting) > 0 {
		a.screen.Printf("\n")
	}
	if len(waiting) > 0 {
		t := term.NewTable("#", "WAITING", "WORKSPACE", "PRIORITY", "NEEDS", "WAITED", "STARTS", "WHY").Right(0, 3)
		for _, e := range waiting {
			t.Row(fmt.Sprint(e.Position), string(e.Task), e.Workspace, fmt.Sprint(e.Priority), needs(e), waited(e, a.Now()), starts(e, a.Now()), term.Clean(reasonText(e)))
		}
		a.screen.Print(t)
	}
}

func (a *app) queueState(e admission.Entry) string {
	switch e.State {
	case "leaving":
		return a.screen.Paint(term.Yellow, "makes room for "+e.For)
	case "foreign":
		return a.screen.Paint(term.Dim, "not Drover's")
	}
	return a.screen.Paint(term.Green, e.State)
}

// needs are what an entry holds or needs, GPUs first.
func needs(e admission.Entry) string {
	var devices, rest []string
	for _, f := range slices.Sorted(maps.Keys(e.Needs)) {
		switch n := e.Needs[f]; f {
		case "cpu":
			rest = append(rest, n+" GHz")
		case "memory":
			rest = append(rest, n+" GiB")
		default:
			devices = append(devices, n+" "+string(f))
		}
	}
	text := strings.Join(append(devices, rest...), ", ")
	if e.Members > 1 {
		text += fmt.Sprintf(" (%d members)", e.Members)
	}
	return text
}

func waited(e admission.Entry, now time.Time) string { return show.Duration(now.Sub(e.Submitted)) }

// starts is when an entry is expected to start, from now.
func starts(e admission.Entry, now time.Time) string {
	if e.Expected == nil {
		return "not foreseen"
	}
	if d := e.Expected.Sub(now); d > time.Second {
		return "in " + show.Duration(d)
	}
	return "now"
}

func reasonText(e admission.Entry) string {
	if e.Reason == nil {
		return ""
	}
	return e.Reason.Text
}

func (a *app) printQueueEntry(e admission.Entry) {
	position, expected, raise := "", "", ""
	if e.State == "waiting" {
		position, expected = fmt.Sprint(e.Position), starts(e, a.Now())
		if len(e.OnNodes) > 0 {
			expected += " on " + strings.Join(e.OnNodes, ", ")
		}
	}
	var victims []string
	for _, v := range e.Evicts {
		victims = append(victims, fmt.Sprintf("%s, which loses %s GPU-seconds", v.Task, show.Number(v.LostGPUSeconds)))
	}
	if r := e.Reason; r != nil && len(r.Raise) > 0 {
		var parts []string
		for _, f := range slices.Sorted(maps.Keys(r.Raise)) {
			parts = append(parts, fmt.Sprintf("%s of %s", r.Raise[f], f))
		}
		raise = strings.Join(parts, " and ") + " more of nominal quota"
	}
	code := ""
	if e.Reason != nil {
		code = e.Reason.Code
	}
	a.screen.Fields(
		"Task", string(e.Task),
		"Workspace", e.Workspace,
		"Queue", string(e.Queue),
		"State", a.queueState(e),
		"Position", position,
		"Priority", fmt.Sprint(e.Priority),
		"Needs", needs(e),
		"Nodes", strings.Join(e.Nodes, ", "),
		"Devices", strings.Join(e.Devices, ", "),
		"Submitted", show.Stamp(&e.Submitted),
		"Admitted", show.Stamp(e.Started),
		"Reason", code,
		"Why", term.Clean(reasonText(e)),
		"Would start with", raise,
		"Starts", expected,
		"Evicts", strings.Join(victims, "; "),
		"Evicted before", times(e.Evictions),
	)
}

func times(n int) string {
	if n == 0 {
		return ""
	}
	return show.Count(n, "time")
}
