package workspace

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Status is how a declared workspace stands.
type Status struct {
	Workspace Workspace        `json:"workspace" doc:"As it is declared"`
	Flavors   []FlavorStatus   `json:"flavors" doc:"What it has a quota of or uses, by name"`
	Budget    *BudgetStatus    `json:"budget,omitempty"`
	Schedules []ScheduleStatus `json:"schedules,omitempty"`
}

// FlavorStatus is what a workspace may use of a flavor and what it does use.
type FlavorStatus struct {
	Flavor    queue.Flavor `json:"flavor"`
	Quota                  // as schedules make it now
	Serving                // the part of it that is for endpoints
	Unlimited bool         `json:"unlimited,omitempty" doc:"No quota names it in the whole tree of cohorts, so there is no limit: of cpu and memory"`
	// Used is what its work holds, ServingUsed what its endpoints hold of that; nil:
	// nobody knows.
	Used        *Amount `json:"used,omitempty" doc:"What its work holds now; missing if that is not known yet"`
	ServingUsed *Amount `json:"serving_used,omitempty" doc:"What its endpoints hold of that"`
}

// BudgetStatus is how much of a budget is left.
type BudgetStatus struct {
	Budget
	Used  Amount    `json:"used" doc:"GPU-hours of this period"`
	Begin time.Time `json:"begin" doc:"Of this period"`
	End   time.Time `json:"end"`
	Held  bool      `json:"held" doc:"It is used up: nothing starts until the end"`
}

// ScheduleStatus is whether a schedule holds.
type ScheduleStatus struct {
	Name  string     `json:"name"`
	Holds bool       `json:"holds"`
	Until *time.Time `json:"until,omitempty" doc:"When that changes; missing: never"`
}

// Status is how a declared workspace stands: its quotas as they are now, and what
// it uses of them and of its budget.
func (s *Service) Status(ctx context.Context, name string) (Status, error) {
	d := s.Definitions()
	w, err := d.Workspace(name)
	if err != nil {
		return Status{}, err
	}
	now := s.now()
	out := Status{Workspace: w}
	for _, x := range w.Schedules {
		holds, until := x.At(now)
		status := ScheduleStatus{Name: x.Name, Holds: holds}
		if !until.IsZero() {
			until = until.UTC()
			status.Until = &until
		}
		out.Schedules = append(out.Schedules, status)
	}
	if w.Budget != nil {
		uses, err := s.store.Usage(ctx, d.UsedSince(now))
		if err != nil {
			return Status{}, err
		}
		out.Budget = budgetStatus(*w.Budget, usedOf(d, now, uses)[name], now)
	}
	use, err := s.inUse(ctx)
	if err != nil {
		return Status{}, err
	}
	out.Flavors = flavorStatus(d, w, now, use)
	return out, nil
}

func budgetStatus(b Budget, seconds queue.Amount, now time.Time) *BudgetStatus {
	begin, end := b.Per.Around(now)
	used := Amount(seconds / secondsPerHour)
	return &BudgetStatus{Budget: b, Used: used, Begin: begin, End: end, Held: used >= b.GPUHours}
}

// flavorStatus lists flavors that w has a quota of or uses. using is nil if
// nobody knows what is in use.
func flavorStatus(d Definitions, w Workspace, now time.Time, using map[queue.QueueID]queue.Resources) []FlavorStatus {
	e := effective{now: now}
	quotas := e.at(w.Quotas, w.Schedules)
	training, serving := using[d.QueueFor(w.Name, false)], using[d.QueueFor(w.Name, true)]
	all := map[queue.Flavor]bool{}
	for f := range quotas {
		all[f] = true
	}
	for _, resources := range []queue.Resources{training, serving} {
		for f := range resources {
			all[f] = true
		}
	}
	roots := d.roots()
	counted := d.counted(roots)[rootOf(w, roots)]
	out := []FlavorStatus{}
	for _, f := range slices.Sorted(maps.Keys(all)) {
		s := FlavorStatus{Flavor: f, Quota: quotas[f], Serving: w.Serving[f]}
		s.Unlimited = slices.Contains(plain, f) && !counted[f]
		if using != nil {
			used, served := Amount(training[f]+serving[f]), Amount(serving[f])
			s.Used, s.ServingUsed = &used, &served
		}
		out = append(out, s)
	}
	return out
}

// Cut is a quota that a plan makes smaller than what is used.
type Cut struct {
	Workspace string       `json:"workspace"`
	Flavor    queue.Flavor `json:"flavor"`
	Used      Amount       `json:"used" doc:"Now"`
	Nominal   Amount       `json:"nominal" doc:"What the quota is then"`
}

// cuts are the quotas that are less in after than in before, and than what is
// used. A workspace that is no longer declared has no quota, and is not cut.
func cuts(before, after Definitions, now time.Time, using map[queue.QueueID]queue.Resources) []Cut {
	var all []Cut
	for _, w := range after.Workspaces {
		old := map[queue.Flavor]FlavorStatus{}
		if was, ok := before.find(w.Name); ok {
			for _, f := range flavorStatus(before, was, now, using) {
				old[f.Flavor] = f
			}
		}
		for _, f := range flavorStatus(after, w, now, using) {
			was, there := old[f.Flavor]
			more := !there || was.Unlimited || was.Nominal > f.Nominal
			if more && !f.Unlimited && f.Used != nil && *f.Used > f.Nominal {
				all = append(all, Cut{w.Name, f.Flavor, *f.Used, f.Nominal})
			}
		}
	}
	return all
}
