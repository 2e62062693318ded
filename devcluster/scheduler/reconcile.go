package scheduler

import (
	"cmp"
	"slices"

	"github.com/hashicorp/nomad/api"
)

// sorting is a group's allocations by what is to be done with them.
type sorting struct {
	keep       []*api.Allocation // hold their name and stay
	migrate    []*api.Allocation // on a draining node
	lost       []*api.Allocation // on a node that is gone
	reschedule []*api.Allocation // failed, to be replaced now
	canaries   []*api.Allocation // live canaries of the running deployment
}

// reconcileCount is the scheduler of jobs with a count: service and batch.
func (e *evaluation) reconcileCount() {
	current := e.currentDeployment()
	groups := map[string]bool{}
	for _, tg := range e.Job.TaskGroups {
		groups[*tg.Name] = true
		if e.desired(*tg.Name); *tg.Count == 0 {
			groups[*tg.Name] = false
		}
	}
	for _, a := range e.Allocs {
		if !groups[a.TaskGroup] && !ServerTerminal(a) && !ClientTerminal(a) {
			e.stop(a, descNotNeeded, e.lostStatus(a))
			e.desired(a.TaskGroup).Stop++
		}
	}
	for _, tg := range e.Job.TaskGroups {
		if *tg.Count > 0 {
			e.reconcileGroup(tg, current)
		}
	}
	current.finish()
}

func (e *evaluation) lostStatus(a *api.Allocation) string {
	if n := e.nodes[a.NodeID]; n == nil || n.Status == api.NodeStatusDown {
		return api.AllocClientStatusLost
	}
	return ""
}

func (e *evaluation) reconcileGroup(tg *api.TaskGroup, dep *deploying) {
	s := e.sort(tg, dep)
	e.dropFailedCanaries(tg, &s, dep)
	names := newNames(*e.Job.ID, *tg.Name, *tg.Count)
	desired := e.desired(*tg.Name)
	canarying := dep.canarying(tg)

	holders := slices.Concat(s.keep, s.migrate, s.lost, s.reschedule)
	for _, a := range holders {
		names.take(a.Name)
	}
	s.keep = e.stopExcess(tg, s, names, canarying)
	inPlace, destructive := e.splitByVersion(tg, s.keep, s.canaries)
	desired.InPlaceUpdate += uint64(len(inPlace))
	desired.Ignore += uint64(len(s.keep) - len(inPlace) - len(destructive))

	dep.plan(tg, len(inPlace)+len(destructive), len(destructive))
	for _, a := range inPlace {
		e.updateInPlace(a, dep.idFor(tg))
		dep.placed(tg, e.updated[a.ID])
	}
	canarying = dep.canarying(tg)

	e.replaceLost(tg, s, dep, canarying)
	if dep.wantsCanaries(tg, destructive) {
		e.placeCanaries(tg, s, destructive, dep)
	}
	stalled := dep.stalled() || canarying
	limit := e.limit(tg, s, dep, len(destructive)+len(s.migrate))
	if !stalled {
		held := len(s.keep) + len(s.migrate) + len(s.lost) + len(s.reschedule)
		for range *tg.Count - held {
			if a, ok := e.place(ask{tg: tg, name: names.next()}, dep.idFor(tg)); ok {
				dep.placed(tg, a)
			}
			desired.Place++
			limit--
		}
	}
	if stalled {
		desired.Ignore += uint64(len(destructive))
	} else {
		e.replaceDestructive(tg, destructive, dep, max(0, limit))
	}
	e.migrate(tg, s.migrate, dep)
}

// sort puts a group's allocations into what is to be done with them.
func (e *evaluation) sort(tg *api.TaskGroup, dep *deploying) sorting {
	var s sorting
	batch := *e.Job.Type == Batch
	for _, a := range e.Allocs {
		if a.TaskGroup != *tg.Name || e.stopped[a.ID] != nil {
			continue
		}
		if ClientTerminal(a) && e.older(a) {
			if !ServerTerminal(a) {
				e.desired(*tg.Name).Ignore++
			}
			continue
		}
		switch {
		case ServerTerminal(a):
			// Told to stop: whatever replaces it was planned with it. A batch
			// allocation that had finished before stays finished.
			if batch && a.ClientStatus == api.AllocClientStatusComplete && ranSuccessfully(a) && a.NextAllocation == "" {
				s.keep = append(s.keep, a)
			}
		case a.ClientStatus == api.AllocClientStatusComplete:
			if batch {
				s.keep = append(s.keep, a)
			}
		case a.ClientStatus == api.AllocClientStatusLost:
		case a.ClientStatus == api.AllocClientStatusFailed:
			e.sortFailed(&s, a, tg, dep)
		case e.lostStatus(a) != "":
			s.lost = append(s.lost, a)
		case a.DesiredTransition.Migrate != nil && *a.DesiredTransition.Migrate:
			s.migrate = append(s.migrate, a)
		default:
			s.keep = append(s.keep, a)
			if a.DeploymentStatus != nil && a.DeploymentStatus.Canary && dep.isCanary(tg, a.ID) {
				s.canaries = append(s.canaries, a)
			}
		}
	}
	return s
}

// dropFailedCanaries stops the canaries of a deployment that failed.
func (e *evaluation) dropFailedCanaries(tg *api.TaskGroup, s *sorting, dep *deploying) {
	if !dep.failed() || !dep.canarying(tg) {
		return
	}
	for _, a := range s.canaries {
		e.stop(a, descNotNeeded, "")
		e.desired(*tg.Name).Stop++
		s.keep = slices.DeleteFunc(s.keep, func(k *api.Allocation) bool { return k == a })
	}
	s.canaries = nil
}

func (e *evaluation) sortFailed(s *sorting, a *api.Allocation, tg *api.TaskGroup, dep *deploying) {
	if a.NextAllocation != "" {
		return
	}
	if dep.d != nil && a.DeploymentID == dep.d.ID && deploymentActive(dep.d) &&
		!(a.DesiredTransition.Reschedule != nil && *a.DesiredTransition.Reschedule) {
		s.keep = append(s.keep, a) // the deployment decides about it
		return
	}
	switch v, at := e.reschedule(a, tg.ReschedulePolicy); v {
	case replaceNow:
		s.reschedule = append(s.reschedule, a)
		e.desired(*tg.Name).RescheduleNow++
	case replaceLater:
		s.keep = append(s.keep, a)
		e.desired(*tg.Name).RescheduleLater++
		if a.FollowupEvalID == "" {
			id := e.followUp(at).ID
			e.update(a, func(c *api.Allocation) { c.FollowupEvalID = id })
		}
	default:
		s.keep = append(s.keep, a)
	}
}

// older reports whether an allocation is of an earlier version of the job.
func (e *evaluation) older(a *api.Allocation) bool {
	return *a.Job.CreateIndex != *e.Job.CreateIndex || *a.Job.Version < *e.Job.Version
}

func ranSuccessfully(a *api.Allocation) bool {
	if len(a.TaskStates) == 0 {
		return false
	}
	for _, ts := range a.TaskStates {
		if ts.State != "dead" || ts.Failed {
			return false
		}
	}
	return true
}

// stopExcess stops what the count does not cover, and returns what stays.
func (e *evaluation) stopExcess(tg *api.TaskGroup, s sorting, names *names, canarying bool) []*api.Allocation {
	canary := map[string]bool{}
	if canarying {
		for _, a := range s.canaries {
			canary[a.ID] = true
		}
	}
	var stay, candidates []*api.Allocation
	for _, a := range s.keep {
		if canary[a.ID] {
			stay = append(stay, a)
		} else {
			candidates = append(candidates, a)
		}
	}
	// Who holds a name that is wanted stays before who does not; the newer
	// version before the older; of two with one name, the healthier.
	slices.SortStableFunc(candidates, func(a, b *api.Allocation) int {
		return cmp.Or(rank(names.wants(b.Name))-rank(names.wants(a.Name)),
			rank(e.older(a))-rank(e.older(b)), rank(ClientTerminal(a))-rank(ClientTerminal(b)),
			rank(healthy(b))-rank(healthy(a)))
	})
	room := *tg.Count - len(s.migrate) - len(s.lost) - len(s.reschedule)
	seen := map[string]bool{}
	var doubles []*api.Allocation
	stop := func(a *api.Allocation) {
		if ClientTerminal(a) {
			return
		}
		e.stop(a, descNotNeeded, "")
		e.desired(*tg.Name).Stop++
	}
	for _, a := range candidates {
		switch {
		case seen[a.Name]:
			doubles = append(doubles, a)
		case room > 0:
			seen[a.Name] = true
			room--
			stay = append(stay, a)
		default:
			stop(a)
		}
	}
	for _, a := range doubles {
		stop(a)
	}
	return stay
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

func healthy(a *api.Allocation) bool {
	return a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil && *a.DeploymentStatus.Healthy
}

// splitByVersion finds the live allocations of older versions.
func (e *evaluation) splitByVersion(tg *api.TaskGroup, keep, canaries []*api.Allocation) (inPlace, destructive []*api.Allocation) {
	for _, a := range keep {
		if ClientTerminal(a) || ServerTerminal(a) || !e.older(a) || slices.Contains(canaries, a) {
			continue
		}
		n := e.nodes[a.NodeID]
		if Destructive(a.Job, e.Job, *tg.Name) || n == nil || e.infeasibleInPlace(n, tg) {
			destructive = append(destructive, a)
		} else {
			inPlace = append(inPlace, a)
		}
	}
	return inPlace, destructive
}

func (e *evaluation) infeasibleInPlace(n *api.Node, tg *api.TaskGroup) bool {
	constraints := slices.Concat(e.Job.Constraints, tg.Constraints)
	for _, t := range tg.Tasks {
		constraints = append(constraints, t.Constraints...)
	}
	return slices.ContainsFunc(constraints, func(c *api.Constraint) bool {
		return !nodeMeets(n, c.LTarget, c.Operand, c.RTarget)
	})
}

func (e *evaluation) updateInPlace(a *api.Allocation, deployment string) {
	e.update(a, func(c *api.Allocation) {
		c.Job = e.Job
		c.EvalID = e.Eval.ID
		if deployment != "" {
			c.DeploymentID = deployment
			c.DeploymentStatus = nil
		}
	})
}

// replaceLost replaces what is lost or failed. It does not wait for a
// deployment: the job had these before.
func (e *evaluation) replaceLost(tg *api.TaskGroup, s sorting, dep *deploying, canarying bool) {
	desired := e.desired(*tg.Name)
	for _, a := range s.lost {
		c := e.stop(a, descLost, api.AllocClientStatusLost)
		desired.Stop++
		if dep.failed() && dep.isNew(a) {
			continue
		}
		e.replace(c, ask{tg: tg, name: a.Name, prev: a}, dep, canarying)
		desired.Place++
	}
	for _, a := range s.reschedule {
		if dep.failed() && dep.isNew(a) {
			desired.Ignore++
			continue
		}
		r := ask{tg: tg, name: a.Name, prev: a, reschedule: true, avoid: map[string]bool{a.NodeID: true}}
		if t := a.RescheduleTracker; t != nil {
			for _, ev := range t.Events {
				r.avoid[ev.PrevNodeID] = true
			}
		}
		desired.Place++
		if _, ok := e.tryPlace(r, dep, canarying); ok {
			c := e.stop(a, descRescheduled, "")
			c.NextAllocation = e.plan.Place[len(e.plan.Place)-1].ID
			desired.Stop++
		}
	}
}

// replace places the successor of an allocation that the plan stops.
func (e *evaluation) replace(stopped *api.Allocation, r ask, dep *deploying, canarying bool) {
	if next, ok := e.tryPlace(r, dep, canarying); ok {
		stopped.NextAllocation = next.ID
	}
}

// tryPlace places a replacement. While canaries are out, what is not a canary
// is replaced in the version that it had.
func (e *evaluation) tryPlace(r ask, dep *deploying, canarying bool) (*api.Allocation, bool) {
	id := dep.idFor(r.tg)
	if canarying && !dep.isNew(r.prev) {
		if old := lookupGroup(r.prev.Job, *r.tg.Name); old != nil {
			defer e.asVersion(r.prev.Job)()
			r.tg, id = old, ""
		}
	}
	if dep.d != nil && canarying && dep.isNew(r.prev) {
		r.canary = r.prev.DeploymentStatus != nil && r.prev.DeploymentStatus.Canary
	}
	a, ok := e.place(r, id)
	if ok && id != "" {
		dep.placed(r.tg, a)
	}
	return a, ok
}

// asVersion has placements use another version of the job, until the
// function that it returns is called.
func (e *evaluation) asVersion(j *api.Job) func() {
	now := e.Job
	e.Job = j
	return func() { e.Job = now }
}

func (e *evaluation) placeCanaries(tg *api.TaskGroup, s sorting, destructive []*api.Allocation, dep *deploying) {
	missing := *tg.Update.Canary - len(s.canaries)
	desired := e.desired(*tg.Name)
	desired.Canary += uint64(max(0, missing))
	for i := range max(0, missing) {
		name := allocName(*e.Job.ID, *tg.Name, i)
		if i < len(destructive) {
			name = destructive[i].Name
		}
		if a, ok := e.place(ask{tg: tg, name: name, canary: true}, dep.idFor(tg)); ok {
			dep.placed(tg, a)
		}
	}
}

// limit is how many allocations may be taken down or newly started at once.
func (e *evaluation) limit(tg *api.TaskGroup, s sorting, dep *deploying, replacing int) int {
	if tg.Update == nil || *tg.Update.MaxParallel == 0 || replacing == 0 || *e.Job.Type != Service {
		return *tg.Count
	}
	if dep.stalled() {
		return 0
	}
	limit := *tg.Update.MaxParallel
	if dep.d == nil {
		return limit
	}
	for _, a := range s.keep {
		if a.DeploymentID != dep.d.ID {
			continue
		}
		switch {
		case a.DeploymentStatus == nil || a.DeploymentStatus.Healthy == nil:
			limit--
		case !*a.DeploymentStatus.Healthy:
			return 0
		}
	}
	return limit
}

func (e *evaluation) replaceDestructive(tg *api.TaskGroup, destructive []*api.Allocation, dep *deploying, limit int) {
	desired := e.desired(*tg.Name)
	for i, a := range destructive {
		if i >= limit {
			desired.Ignore++
			continue
		}
		desired.DestructiveUpdate++
		// The replacement may use what the old one gives back. If it cannot be
		// placed even so, the old one stays.
		c := e.stop(a, descUpdating, "")
		next, ok := e.place(ask{tg: tg, name: a.Name, prev: a}, dep.idFor(tg))
		if !ok {
			e.unstop(a)
			continue
		}
		c.NextAllocation = next.ID
		dep.placed(tg, next)
	}
}

// unstop takes a stop back.
func (e *evaluation) unstop(a *api.Allocation) {
	delete(e.stopped, a.ID)
	delete(e.usages, a.NodeID)
	e.plan.Stop = slices.DeleteFunc(e.plan.Stop, func(c *api.Allocation) bool { return c.ID == a.ID })
}

func (e *evaluation) migrate(tg *api.TaskGroup, migrating []*api.Allocation, dep *deploying) {
	desired := e.desired(*tg.Name)
	for _, a := range migrating {
		desired.Migrate++
		c := e.stop(a, descMigrating, "")
		if next, ok := e.place(ask{tg: tg, name: a.Name, prev: a}, dep.idForVersion(a)); ok {
			c.NextAllocation = next.ID
		}
	}
}

// names gives out the indexes of a group's allocations.
type names struct {
	job, group string
	count      int
	taken      map[int]bool
}

func newNames(job, group string, count int) *names {
	return &names{job: job, group: group, count: count, taken: map[int]bool{}}
}

func (n *names) take(name string) { n.taken[allocIndex(name)] = true }

func (n *names) wants(name string) bool { i := allocIndex(name); return i >= 0 && i < n.count }

func (n *names) next() string {
	i := 0
	for n.taken[i] {
		i++
	}
	n.taken[i] = true
	return allocName(n.job, n.group, i)
}
