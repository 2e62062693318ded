// Package scheduler decides what a job's allocations should be. It is pure:
// an Input is all that it sees, a Plan is all that it does, and the same
// Input always gives the same Plan.
//
// It follows Nomad in what its users see: which nodes are feasible, names and
// statuses, reschedule policies, rolling updates, the metrics that explain a
// failed placement. It differs where that is invisible or better for a small
// cluster: all nodes are ranked, not a random sample, and ties are broken by
// name. It never commits more of a node than the node has, and never gives a
// device instance to two allocations.
package scheduler

import (
	"fmt"
	"math"
	"path"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Job types.
const (
	Service  = "service"
	Batch    = "batch"
	System   = "system"
	SysBatch = "sysbatch"
)

// Descriptions that say why an allocation was stopped.
const (
	descNotNeeded   = "alloc not needed due to job update"
	descMigrating   = "alloc is being migrated"
	descUpdating    = "alloc is being updated due to job update"
	descLost        = "alloc is lost since its node is down"
	descTainted     = "alloc not needed as node is tainted"
	descRescheduled = "alloc was rescheduled because it failed"
)

// Input is what an evaluation looks at.
type Input struct {
	Now  time.Time
	Eval *api.Evaluation
	// Job is the job as it should be; nil if it was purged.
	Job *api.Job
	// Allocs are the job's allocations, of any state.
	Allocs []*api.Allocation
	Nodes  []*api.Node
	// OnNode gives a node's allocations, of all jobs.
	OnNode func(nodeID string) map[string]*api.Allocation
	// Deployment is the job's latest deployment, or nil.
	Deployment *api.Deployment
	// NewID makes identifiers.
	NewID func() string
	// Seed varies the choice of dynamic ports.
	Seed uint64
}

// Plan is what to change. Allocations in it are new, or changed copies.
type Plan struct {
	Place       []*api.Allocation
	Stop        []*api.Allocation
	Update      []*api.Allocation
	Deployments []*api.Deployment
	// FollowUps are evaluations to run at their WaitUntil.
	FollowUps []*api.Evaluation
	// Failed explains, per group, why allocations could not be placed.
	Failed map[string]*api.AllocationMetric
	// Queued is how many allocations of each group remain to be placed.
	Queued map[string]int
	// Desired sums the changes up, per group.
	Desired map[string]*api.DesiredUpdates
}

// Empty reports whether the plan changes nothing.
func (p *Plan) Empty() bool {
	return len(p.Place)+len(p.Stop)+len(p.Update)+len(p.Deployments)+len(p.FollowUps) == 0
}

// evaluation is a decision in the making.
type evaluation struct {
	Input
	plan   *Plan
	nodes  map[string]*api.Node
	usages map[string]*usage
	ready  []*api.Node // eligible nodes of the job's pool and datacenters
	pool   int         // nodes in the job's pool
	// stopped holds the IDs of allocations that the plan stops.
	stopped map[string]*api.Allocation
	updated map[string]*api.Allocation
}

// Evaluate decides. It returns an error only for a job type it does not know.
func Evaluate(in Input) (*Plan, error) {
	e := &evaluation{
		Input: in,
		plan: &Plan{Failed: map[string]*api.AllocationMetric{}, Queued: map[string]int{},
			Desired: map[string]*api.DesiredUpdates{}},
		nodes:   map[string]*api.Node{},
		usages:  map[string]*usage{},
		stopped: map[string]*api.Allocation{},
		updated: map[string]*api.Allocation{},
	}
	for _, n := range in.Nodes {
		e.nodes[n.ID] = n
	}
	if in.Job == nil || *in.Job.Stop {
		e.stopAll()
		return e.plan, nil
	}
	e.findReady()
	switch *in.Job.Type {
	case Service, Batch:
		e.reconcileCount()
	case System, SysBatch:
		e.reconcileNodes()
	default:
		return nil, fmt.Errorf("job %q has type %q, which has no scheduler", *in.Job.ID, *in.Job.Type)
	}
	return e.plan, nil
}

// findReady lists the nodes that may take new allocations of the job.
func (e *evaluation) findReady() {
	for _, n := range e.Nodes {
		if *e.Job.NodePool != api.NodePoolAll && n.NodePool != *e.Job.NodePool {
			continue
		}
		e.pool++
		if n.Status != api.NodeStatusReady || n.SchedulingEligibility != api.NodeSchedulingEligible {
			continue
		}
		for _, dc := range e.Job.Datacenters {
			if ok, err := path.Match(dc, n.Datacenter); err == nil && ok {
				e.ready = append(e.ready, n)
				break
			}
		}
	}
}

// usage is what is taken of a node now, with the plan's changes.
func (e *evaluation) usage(n *api.Node) *usage {
	if u, ok := e.usages[n.ID]; ok {
		return u
	}
	u := newUsage(n, e.Seed)
	for id, a := range e.OnNode(n.ID) {
		if !ClientTerminal(a) && e.stopped[id] == nil {
			u.add(a)
		}
	}
	for _, a := range e.plan.Place {
		if a.NodeID == n.ID {
			u.add(a)
		}
	}
	e.usages[n.ID] = u
	return u
}

func (e *evaluation) desired(group string) *api.DesiredUpdates {
	if e.plan.Desired[group] == nil {
		e.plan.Desired[group] = &api.DesiredUpdates{}
	}
	return e.plan.Desired[group]
}

// stop plans to stop an allocation. clientStatus "" leaves the client's.
func (e *evaluation) stop(a *api.Allocation, description, clientStatus string) *api.Allocation {
	c := *a
	c.DesiredStatus = api.AllocDesiredStatusStop
	c.DesiredDescription = description
	if clientStatus != "" {
		c.ClientStatus = clientStatus
	}
	c.ModifyTime = e.Now.UnixNano()
	e.stopped[a.ID] = &c
	e.plan.Stop = append(e.plan.Stop, &c)
	delete(e.usages, a.NodeID) // count the node again without it
	return &c
}

// update plans a change of an allocation that stays.
func (e *evaluation) update(a *api.Allocation, change func(*api.Allocation)) {
	c := e.updated[a.ID]
	if c == nil {
		copied := *a
		c = &copied
		c.ModifyTime = e.Now.UnixNano()
		e.updated[a.ID] = c
		e.plan.Update = append(e.plan.Update, c)
	}
	change(c)
}

func (e *evaluation) stopAll() {
	for _, a := range e.Allocs {
		if ServerTerminal(a) || ClientTerminal(a) {
			continue
		}
		status := ""
		if n := e.nodes[a.NodeID]; n == nil || n.Status == api.NodeStatusDown {
			status = api.AllocClientStatusLost
		}
		e.stop(a, descNotNeeded, status)
		e.desired(a.TaskGroup).Stop++
	}
	if d := e.Deployment; d != nil && deploymentActive(d) {
		e.setDeploymentStatus(d, api.DeploymentStatusCancelled, "Cancelled because job is stopped")
	}
}

// allocIndex reads the index in an allocation's name; -1 if there is none.
func allocIndex(name string) int {
	open := len(name) - 1
	for open >= 0 && name[open] != '[' {
		open--
	}
	n, digits := 0, false
	for i := open + 1; i >= 1 && i < len(name)-1; i++ {
		if name[i] < '0' || name[i] > '9' || n > math.MaxInt32 {
			return -1
		}
		n, digits = n*10+int(name[i]-'0'), true
	}
	if !digits {
		return -1
	}
	return n
}

func allocName(job, group string, index int) string {
	return fmt.Sprintf("%s.%s[%d]", job, group, index)
}

func lookupGroup(j *api.Job, name string) *api.TaskGroup {
	if j == nil {
		return nil
	}
	for _, tg := range j.TaskGroups {
		if *tg.Name == name {
			return tg
		}
	}
	return nil
}
