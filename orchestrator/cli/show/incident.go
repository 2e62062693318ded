package show

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Mover names a task, or an endpoint's instance, that an incident has touched.
func Mover(x failover.Affected) string {
	name := "endpoint." + x.Endpoint
	if x.Endpoint == "" {
		name = TaskName(pipeline.NodeID(x.Step), x.Trial)
	}
	if x.Workspace != "default" {
		name += " of workspace " + x.Workspace
	}
	return name
}

// MovedBefore says why the attempt before one of a node's was moved, "" if it
// was not. attempt 0 is the newest.
func MovedBefore(n *run.Node, trial *int, attempt int) string {
	var before *run.Attempt
	for i := range n.Attempts {
		at := &n.Attempts[i]
		switch {
		case trial != nil && (at.Trial == nil || *at.Trial != *trial):
		case at.Number == attempt || attempt == 0 && i == len(n.Attempts)-1:
			if before != nil && before.Moved {
				return fmt.Sprintf("Attempt %d was %s", before.Number, FirstLine(before.Reason))
			}
		default:
			before = at
		}
	}
	return ""
}

// MoveColor is the colour of a move's phase.
func MoveColor(p failover.Phase) term.Color {
	switch p {
	case failover.Resumed, failover.Stayed:
		return term.Green
	case failover.Over:
		return term.Dim
	default:
		return term.Yellow
	}
}

// Lost says what a move has cost, such as "3 steps, 12s".
func Lost(m failover.Move) string {
	text := ""
	if m.LostSteps != nil {
		text = Count(int(*m.LostSteps), "step")
	}
	if m.LostSeconds != nil {
		text = Joined(text, Duration(time.Duration(*m.LostSeconds*float64(time.Second))))
	}
	return text
}
