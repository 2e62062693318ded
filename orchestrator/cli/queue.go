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

// maxListed is how many tasks the server lists at most.
const maxListed = 10_000

func (a *app) queueCmd() *cobra.Command {
	var asJSON, all bool
	var filter admission.Filter
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
  drover queue explain 01ja2b3c4d5e/step.train
  drover queue what-if -nodes gpu-01=2`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkListed(filter.Limit); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if !all {
				filter.Workspace = a.workspaceName()
			}
			v, err := c.Queue(cmd.Context(), filter)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(v)
			}
			a.printQueue(v, all)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "That of all workspaces, and what nobody submitted through Drover")
	cmd.Flags().BoolVar(&filter.Waiting, "waiting", false, "Only what waits")
	limitListed(cmd, &filter.Limit)
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(a.queueExplainCmd(), a.queueWhatIfCmd())
	return cmd
}

func limitListed(cmd *cobra.Command, to *int) {
	cmd.Flags().IntVar(to, "limit", 100, fmt.Sprintf("List a `NUMBER` of tasks that wait, and as many that run; at most %d", maxListed))
}

func checkListed(limit int) error {
	if limit < 1 || limit > maxListed {
		return usagef("-limit is 1 to %d", maxListed)
	}
	return nil
}

func (a *app) queueExplainCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain TASK",
		Short: "Tell why a task waits, and what would let it start",
		Long: `Tell the one reason for which a task waits, in numbers, the smallest change that
takes it away, and when it starts otherwise. A TASK is RUN/NODE, or
RUN/NODE/TRIAL, as drover queue lists it. docs/queue.md has all reasons.`,
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

func (a *app) printQueue(v admission.View, all bool) {
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
		a.printRunning(running, v.At, all)
		a.printMore(v.Running-len(running), "run, for longer")
	}
	if len(running) > 0 && len(waiting) > 0 {
		a.screen.Printf("\n")
	}
	if len(waiting) > 0 {
		a.printWaiting(waiting, v.At, all)
		a.printMore(v.Waiting-len(waiting), "wait")
	}
	if v.Until != nil {
		a.screen.Printf("What starts after %s is not foreseen: so much waits that the forecast does not reach further.\n", show.Stamp(v.Until))
	}
}

func (a *app) printMore(n int, what string) {
	if n > 0 {
		a.screen.Printf("… and %d more that %s: -limit lists more.\n", n, what)
	}
}

func (a *app) printRunning(running []admission.Entry, at time.Time, all bool) {
	header := []string{"RUNNING", "WORKSPACE", "PRIORITY", "HOLDS", "NODES", "SINCE", "NOTE"}
	rows := make([][]string, len(running))
	for i, e := range running {
		rows[i] = []string{shortTask(e), e.Workspace, fmt.Sprint(e.Priority), needs(e.Needs, e.Members), some(e.Nodes), show.Ago(*e.Started, at), a.note(e)}
	}
	a.printTable(header, rows, uninteresting(running, all, 1), nil)
}

func (a *app) printWaiting(waiting []admission.Entry, at time.Time, all bool) {
	header := []string{"#", "WAITING", "WORKSPACE", "PRIORITY", "NEEDS", "WAITED", "STARTS", "WHY"}
	rows := make([][]string, len(waiting))
	for i, e := range waiting {
		rows[i] = []string{fmt.Sprint(e.Position), string(e.Task), e.Workspace, fmt.Sprint(e.Priority), needs(e.Needs, e.Members),
			show.Duration(at.Sub(e.Submitted)), starts(e.Outlook, at), whyNot(e.Outlook)}
	}
	a.printTable(header, rows, uninteresting(waiting, all, 2), []int{0})
}

// uninteresting are the columns of a workspace and of a priority, which is the next,
// if they say nothing.
func uninteresting(entries []admission.Entry, all bool, column int) []int {
	var drop []int
	if !all {
		drop = append(drop, column)
	}
	if !slices.ContainsFunc(entries, func(e admission.Entry) bool { return e.Priority != entries[0].Priority }) {
		drop = append(drop, column+1)
	}
	return drop
}

// shortTask is what runs, other work by the part of its allocation's ID that Nomad's
// own commands show.
func shortTask(e admission.Entry) string {
	const short = len("alloc/") + 8
	if e.State == "foreign" && len(e.Task) > short {
		return string(e.Task)[:short]
	}
	return string(e.Task)
}

// note is what is out of the ordinary with what runs.
func (a *app) note(e admission.Entry) string {
	if e.State == "admitted" {
		return ""
	}
	return a.queueState(e)
}

// queueState is the state of an entry.
func (a *app) queueState(e admission.Entry) string {
	switch e.State {
	case "leaving":
		return a.screen.Paint(term.Yellow, "makes room for "+e.For)
	case "foreign":
		return a.screen.Paint(term.Dim, "not Drover's")
	case "admitted":
		return a.screen.Paint(term.Green, e.State)
	}
	return e.State
}

// needs are the GPUs that a task holds or needs, if it does, and else the rest.
func needs(r admission.Resources, members int) string {
	devices, rest := amounts(r)
	if len(devices) == 0 {
		devices = rest
	}
	return together(devices, members)
}

// allNeeds are all that a task holds or needs, GPUs first.
func allNeeds(r admission.Resources, members int) string {
	devices, rest := amounts(r)
	return together(append(devices, rest...), members)
}

func amounts(r admission.Resources) (devices, rest []string) {
	for _, f := range slices.Sorted(maps.Keys(r)) {
		switch n := r[f]; f {
		case "cpu":
			rest = append(rest, n+" GHz")
		case "memory":
			rest = append(rest, n+" GiB")
		default:
			devices = append(devices, n+" "+string(f))
		}
	}
	return devices, rest
}

func together(parts []string, members int) string {
	text := strings.Join(parts, ", ")
	if members > 1 {
		text += fmt.Sprintf(" on %d members", members)
	}
	return strings.TrimSpace(text)
}

// some is the first of many names, or both of two.
func some(names []string) string {
	if len(names) > 2 {
		return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
	}
	return strings.Join(names, ", ")
}

// starts is when a task is expected to start, from a moment.
func starts(o admission.Outlook, at time.Time) string {
	switch {
	case o.Expected == nil && o.Position == 0:
		return "" // it does not wait
	case o.Expected == nil:
		return "not foreseen"
	case o.Expected.Sub(at) > time.Second:
		return "in " + show.Duration(o.Expected.Sub(at))
	}
	return "now"
}

// whyNot is why a task does not start at once, and what makes room for it.
func whyNot(o admission.Outlook) string {
	if o.Reason == nil {
		return ""
	}
	text := o.Reason.Text
	if len(o.Evicts) > 0 {
		var names []string
		for _, v := range o.Evicts {
			names = append(names, string(v.Task))
		}
		text += "; evicts " + some(names)
	}
	return term.Clean(text)
}

// lost is how much work a victim loses.
func lost(v admission.Victim) string {
	d := show.Duration(time.Duration(v.LostGPUSeconds * float64(time.Second)))
	if d == "" {
		return "nothing"
	}
	return d + " of GPU time"
}

func (a *app) printQueueEntry(e admission.Entry) {
	pairs := []string{
		"Task", string(e.Task),
		"Workspace", e.Workspace,
		"Queue", string(e.Queue),
		"State", a.queueState(e),
	}
	add := func(name, value string) { pairs = append(pairs, name, value) }
	if e.State == "waiting" {
		add("Position", fmt.Sprint(e.Position))
	}
	add("Priority", fmt.Sprint(e.Priority))
	add("Needs", allNeeds(e.Needs, e.Members))
	add("Nodes", strings.Join(e.Nodes, ", "))
	add("Devices", strings.Join(e.Devices, ", "))
	add("Submitted", show.Stamp(&e.Submitted))
	add("Admitted", show.Stamp(e.Started))
	if r := e.Reason; r != nil {
		add("Reason", r.Code)
		for _, line := range wrap(term.Clean(r.Text), max(40, a.width()-20)) {
			add("Why", line)
		}
		var parts []string
		for _, f := range slices.Sorted(maps.Keys(r.Raise)) {
			parts = append(parts, fmt.Sprintf("%s %s", r.Raise[f], f))
		}
		if len(parts) > 0 {
			add("Smallest change", strings.Join(parts, " and ")+" more of nominal quota")
		}
	}
	expected := starts(e.Outlook, a.Now())
	if len(e.OnNodes) > 0 {
		expected += " on " + strings.Join(e.OnNodes, ", ")
	}
	add("Starts", expected)
	for _, v := range e.Evicts {
		add("Evicts", fmt.Sprintf("%s, which loses %s", v.Task, lost(v)))
	}
	if e.Evictions > 0 {
		add("Evicted before", show.Count(e.Evictions, "time"))
	}
	a.screen.Fields(pairs...)
}
