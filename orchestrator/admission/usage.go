package admission

import (
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// chargeEvery is how often what is used is counted.
const chargeEvery = 15 * time.Second

// charge counts what a row has used so far.
func (s *Scheduler) charge(r *Row, now time.Time) {
	if r.Run == nil || r.Serving { // instances are charged as they are found
		return
	}
	for f, a := range r.Job.Option(r.Run.Option) {
		s.charges = append(s.charges, workspace.Charge{
			Job: r.ID, Attempt: r.Attempt, Workspace: r.Workspace, Flavor: f, Amount: a * queue.Amount(r.Run.Members),
			From: r.Run.Started, To: now,
		})
	}
}

// chargeAll counts what all have used, once in a while.
func (s *Scheduler) chargeAll(now time.Time) {
	if now.Before(s.charged.Add(chargeEvery)) {
		return
	}
	s.charged = now
	for _, r := range s.rows {
		s.charge(r, now)
	}
	for _, o := range s.others {
		for f, a := range o.Each {
			s.charges = append(s.charges, workspace.Charge{Job: o.ID, Attempt: 1, Workspace: o.workspace, Flavor: f, Amount: a, From: o.Run.Started, To: now})
		}
	}
	for _, w := range s.definitions.Workspaces {
		if w.Budget != nil && len(s.charges) > 0 {
			s.reopen = true // a budget may be used up
		}
	}
}
