package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/failover"
)

func (a *app) incidentsCmd() *cobra.Command {
	var filter client.IncidentFilter
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "incidents [INCIDENT]",
		Short: "List faults of GPUs, or show what one has done",
		Long: `List the faults of the cluster's GPUs, the newest first, or show one with what
became of the tasks on the GPU: where they went on, and what was lost.`,
		Args: rangeArgs(0, "INCIDENT"),
		Example: `  drover incidents -open
  drover incidents -device GPU-5e7f2c41`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				i, err := c.Incident(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(i)
				}
				a.printIncident(i)
				return nil
			}
			page, err := c.Incidents(cmd.Context(), filter)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(notNil(page.Incidents))
			}
			a.printIncidents(page.Incidents)
			if page.Next != "" {
				a.screen.Printf("There are older ones: -before %s lists them.\n", page.Next)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.Device, "device", "", "Only those of the GPU with this `ID`, or whose ID begins so")
	flags.StringVar(&filter.Node, "node", "", "Only those on the node of this `NAME`")
	flags.BoolVar(&filter.Open, "open", false, "Only those that go on: GPUs that are out of service")
	flags.IntVar(&filter.Limit, "limit", 20, "At most so many, as a `NUMBER`")
	flags.StringVar(&filter.Before, "before", "", "Only those older than this `INCIDENT`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printIncidents(all []failover.Incident) {
	if len(all) == 0 {
		a.screen.Printf("No incidents.\n")
		return
	}
	t := term.NewTable("INCIDENT", "SEEN", "STATE", "NODE", "DEVICE", "TASKS", "FAULT")
	for _, i := range all {
		t.Row(i.ID, show.Ago(i.Seen, a.Now()), a.incidentState(i), i.NodeName, i.Device, fmt.Sprint(len(i.Affected)), term.Clean(show.FirstLine(i.Cause)))
	}
	a.screen.Print(t)
}

// incidentState says whether a device is in service again.
func (a *app) incidentState(i failover.Incident) string {
	if i.Ended != nil {
		return a.screen.Paint(term.Green, "over")
	}
	return a.screen.Paint(term.Red, "open")
}

func (a *app) printIncident(i failover.Incident) {
	now := ""
	if i.Ended == nil {
		now = i.Reason
	}
	times := ""
	if i.Times > 1 {
		times = fmt.Sprint(i.Times)
	}
	a.screen.Fields(
		"Incident", i.ID,
		"State", a.incidentState(i),
		"Device", i.Device,
		"Board", i.Board,
		"Node", i.NodeName,
		"Fault", term.Clean(i.Cause),
		"Now", term.Clean(now),
		"Running work", string(i.Action),
		"Seen", show.Stamp(&i.Seen),
		"Ended", show.Stamp(i.Ended),
		"Times", times,
	)
	if len(i.Affected) == 0 {
		a.screen.Printf("\nNo task had to leave.\n")
		return
	}
	a.screen.Printf("\nTasks\n")
	t := term.NewTable("TASK", "RUN", "ATTEMPT", "PHASE", "TOOK", "LOST", "OUTCOME")
	for _, x := range i.Affected {
		t.Row(show.Mover(x), x.Run, versionlessNumber(x.Attempt), a.screen.Paint(show.MoveColor(x.Phase), string(x.Phase)),
			show.Between(&x.Seen, x.Resumed, a.Now()), show.Lost(x.Move), term.Clean(x.Outcome))
	}
	a.screen.Print(t)
}
