package scheduler

import (
	"github.com/hashicorp/nomad/api"
)

// reconcileNodes is the scheduler of system and sysbatch jobs: one allocation
// of each group on every node that can have it. Updates replace all at once;
// there are no deployments of such jobs.
func (e *evaluation) reconcileNodes() {
	for _, tg := range e.Job.TaskGroups {
		onNode := map[string]*api.Allocation{}
		for _, a := range e.Allocs {
			if a.TaskGroup == *tg.Name && !ServerTerminal(a) {
				if old := onNode[a.NodeID]; old == nil || ClientTerminal(old) {
					onNode[a.NodeID] = a
				}
			}
		}
		for _, n := range e.ready {
			e.reconcileOnNode(tg, n, onNode[n.ID])
			delete(onNode, n.ID)
		}
		for id, a := range onNode {
			e.leaveNode(tg, e.nodes[id], a)
		}
	}
	for _, a := range e.Allocs {
		if lookupGroup(e.Job, a.TaskGroup) == nil && !ServerTerminal(a) && !ClientTerminal(a) {
			e.stop(a, descNotNeeded, e.lostStatus(a))
			e.desired(a.TaskGroup).Stop++
		}
	}
}

// reconcileOnNode brings one eligible node to where the group wants it.
func (e *evaluation) reconcileOnNode(tg *api.TaskGroup, n *api.Node, a *api.Allocation) {
	desired := e.desired(*tg.Name)
	name := allocName(*e.Job.ID, *tg.Name, 0)
	switch {
	case a == nil:
		if e.infeasible(n, ask{tg: tg}) != "" {
			return // such nodes are simply not meant
		}
		desired.Place++
		e.place(ask{tg: tg, name: name, node: n}, "")
	case ClientTerminal(a):
		if *e.Job.Type == SysBatch && a.ClientStatus != api.AllocClientStatusLost && !e.older(a) {
			desired.Ignore++
			return
		}
		desired.Place++
		e.place(ask{tg: tg, name: name, prev: a, node: n}, "")
	case e.older(a) && Destructive(a.Job, e.Job, *tg.Name):
		desired.DestructiveUpdate++
		c := e.stop(a, descUpdating, "")
		if next, ok := e.place(ask{tg: tg, name: name, prev: a, node: n}, ""); ok {
			c.NextAllocation = next.ID
		}
	case e.older(a):
		desired.InPlaceUpdate++
		e.updateInPlace(a, "")
	default:
		desired.Ignore++
	}
}

// leaveNode handles an allocation on a node that is not eligible, or gone.
func (e *evaluation) leaveNode(tg *api.TaskGroup, n *api.Node, a *api.Allocation) {
	if ClientTerminal(a) {
		return
	}
	desired := e.desired(*tg.Name)
	switch {
	case e.lostStatus(a) != "":
		e.stop(a, descLost, api.AllocClientStatusLost)
		desired.Stop++
	case n.DrainStrategy != nil && a.DesiredTransition.Migrate != nil && *a.DesiredTransition.Migrate:
		e.stop(a, descTainted, "")
		desired.Stop++
	default:
		desired.Ignore++ // ineligible nodes keep what they have
	}
}
