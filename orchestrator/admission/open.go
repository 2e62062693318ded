package admission

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// cluster is what the cluster has told.
type cluster struct {
	asked    time.Time // what came later may not be in it
	nodes    []inventory.Node
	allocs   []inventory.Alloc
	services []Service
	byID     map[queue.NodeID]*inventory.Node
	fleet    *inventory.Fleet // of the last opening; knows no jobs
	// bare is the fleet by these flavors, which expects nothing.
	bare    *inventory.Fleet
	flavors []inventory.Flavor
}

func newCluster(asked time.Time, nodes []inventory.Node, allocs []inventory.Alloc, services []Service) *cluster {
	c := &cluster{asked: asked, nodes: nodes, allocs: allocs, services: services, byID: make(map[queue.NodeID]*inventory.Node, len(nodes))}
	for i := range nodes {
		c.byID[nodes[i].ID] = &nodes[i]
	}
	return c
}

// fits reports whether a state that was made of c can follow what d has: other
// allocations, but of no endpoint.
func (c *cluster) fits(d *cluster) bool {
	if !reflect.DeepEqual(c.nodes, d.nodes) || !reflect.DeepEqual(c.services, d.services) {
		return false
	}
	return !slices.ContainsFunc(c.services, func(svc Service) bool { return c.count(svc.JobID) != d.count(svc.JobID) })
}

// has reports whether a job holds anything.
func (c *cluster) has(job string) bool {
	return slices.ContainsFunc(c.allocs, func(a inventory.Alloc) bool { return a.JobID == job })
}

// members are the places of a job's members.
func (c *cluster) members(st queue.Start) []jobspec.Place {
	var out []jobspec.Place
	for _, spot := range st.Place {
		per := len(spot.Devices) / max(1, spot.Members)
		for i := range spot.Members {
			p := jobspec.Place{NodeID: string(spot.Node), Devices: spot.Devices[i*per : (i+1)*per : (i+1)*per]}
			if n := c.byID[spot.Node]; n != nil {
				p.NodeName, p.Pool = n.Name, n.Pool
				if per > 0 {
					p.Device, _ = c.fleet.GroupOf(spot.Node, p.Devices[0])
				}
			}
			out = append(out, p)
		}
	}
	return out
}

// flavors are the names for devices that definitions give.
func flavors(d workspace.Definitions) []inventory.Flavor {
	out := make([]inventory.Flavor, len(d.Flavors))
	for i, f := range d.Flavors {
		out[i] = inventory.Flavor{
			Name: queue.Flavor(f.Name), Model: f.Model, Vendor: f.Vendor, Type: f.Type,
			MinMemoryMiB: f.MemoryMinMiB, MaxMemoryMiB: f.MemoryMaxMiB,
		}
	}
	return out
}

// open makes the state anew: of the rows, of what the definitions say now, and
// of what the cluster has.
func (s *Scheduler) open(ctx context.Context, now time.Time) error {
	d := s.config.Workspaces.Definitions()
	fleet, err := s.fleetOf(d)
	if err != nil {
		return err
	}
	if s.state != nil {
		s.memory.Claims, s.memory.Promises, s.memory.Served = s.state.Memory()
	}
	s.instances(now)
	o := opening{s: s, d: d, fleet: fleet, now: now, options: map[string]option{}, parked: map[queue.JobID]string{}}
	snap, err := o.snapshot(ctx, s.rows)
	if err != nil {
		return err
	}
	state, err := queue.Open(snap, fleet)
	if err != nil {
		return err
	}
	for _, j := range snap.Waiting {
		s.rows[j.ID].Job = j
	}
	s.definitions, s.cluster.fleet, s.state, s.parked, s.next, s.reopen = d, fleet, state, o.parked, o.next, false
	s.others, s.opened = o.others, now
	return nil
}

// fleetOf is what the cluster has when nothing is held, by the flavors of d. It
// expects more of what waits and runs.
func (s *Scheduler) fleetOf(d workspace.Definitions) (*inventory.Fleet, error) {
	c, names := s.cluster, flavors(d)
	if c.bare == nil || !reflect.DeepEqual(c.flavors, names) {
		fleet, err := inventory.New(c.nodes, names)
		if err != nil {
			return nil, fmt.Errorf("taking in the cluster's nodes: %w", err)
		}
		for _, p := range fleet.Problems() {
			s.config.Logger.Warn("a node tells what cannot be understood", "problem", p)
		}
		c.bare, c.flavors = fleet, names
	}
	mix := map[string]*inventory.Expected{}
	for _, r := range s.rows {
		shape := r.Ask.Shape()
		if mix[shape] == nil {
			mix[shape] = &inventory.Expected{Ask: r.Ask}
		}
		mix[shape].Members += float64(max(1, r.Min))
	}
	var expected []inventory.Expected
	for _, shape := range slices.Sorted(maps.Keys(mix)) {
		expected = append(expected, *mix[shape])
	}
	fleet := c.bare.Clone().(*inventory.Fleet)
	fleet.Expect(expected)
	return fleet, nil
}

// opening collects a snapshot.
type opening struct {
	s     *Scheduler
	d     workspace.Definitions
	fleet *inventory.Fleet
	now   time.Time

	options map[string]option // by shape
	parked  map[queue.JobID]string
	seen    map[string]bool // workspaces
	snap    queue.Snapshot
	next    time.Time
	others  []other
}

// other is work that no row is of.
type other struct {
	queue.Running
	workspace string
}

// option is what a shape is charged, or why it fits nowhere.
type option struct {
	each queue.Resources
	or   []queue.Resources
	err  error
}

func (o *opening) snapshot(ctx context.Context, rows map[queue.JobID]*Row) (queue.Snapshot, error) {
	used, err := o.s.config.Workspaces.Used(ctx, o.d.UsedSince(o.now))
	if err != nil {
		return queue.Snapshot{}, err
	}
	o.seen = map[string]bool{}
	waiting := map[queue.JobID]bool{}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		r := rows[id]
		switch r.Phase {
		case Waiting:
			if j, err := o.job(r); err != nil {
				o.parked[id] = err.Error()
			} else {
				o.snap.Waiting = append(o.snap.Waiting, j)
				waiting[id] = true
			}
		case Admitted, Leaving, Observed:
			o.seen[r.Workspace] = true
			o.snap.Running = append(o.snap.Running, queue.Running{Job: r.Job, Run: *r.Run})
		}
	}
	for a := range o.s.foreign(rows) {
		o.foreign(a)
	}
	for _, id := range o.s.memory.Claims {
		if waiting[id] {
			o.snap.Claims = append(o.snap.Claims, id)
		}
	}
	for _, id := range o.s.memory.Promises {
		if waiting[id] && !slices.Contains(o.snap.Claims, id) {
			o.snap.Promises = append(o.snap.Promises, id)
		}
	}
	o.snap.Served = o.s.memory.Served
	seen := workspace.Seen{Used: used, Workspaces: slices.Sorted(maps.Keys(o.seen)), Flavors: slices.Sorted(maps.Keys(o.fleet.Flavors()))}
	var next time.Time
	o.snap.Policy, o.snap.Cohorts, o.snap.Queues, next = o.d.Effective(o.now, seen)
	o.soonest(next)
	return o.snap, nil
}

func (o *opening) soonest(t time.Time) {
	if !t.IsZero() && (o.next.IsZero() || t.Before(o.next)) {
		o.next = t
	}
}

// job is the queue's job of a row that waits.
func (o *opening) job(r *Row) (queue.Job, error) {
	o.seen[r.Workspace] = true
	ask := r.Ask
	for _, node := range slices.Sorted(maps.Keys(r.Avoid)) {
		if until := r.Avoid[node]; o.now.Before(until) {
			ask.Avoid.Nodes = append(slices.Clip(ask.Avoid.Nodes), queue.NodeID(node))
			o.soonest(until)
		}
	}
	ask.Pools = o.d.PoolsOf(r.Workspace)
	shape := ask.Shape()
	opt, ok := o.options[shape]
	if !ok {
		opt.each, opt.or, opt.err = o.fleet.Options(ask)
		o.options[shape] = opt
	}
	if opt.err != nil {
		return queue.Job{}, opt.err
	}
	priority, err := priorityOf(o.d, r.Request)
	if err != nil {
		return queue.Job{}, err
	}
	return queue.Job{
		ID: r.ID, Queue: o.d.QueueFor(r.Workspace, r.Serving), Submitted: r.Submitted, Queued: r.Queued,
		Priority: priority, Preemptible: r.Preemptible && o.d.Preemptible(r.Workspace),
		Each: opt.each, Or: opt.or, Shape: shape, Min: r.Min, Max: r.Max, RunTime: r.RunTime, Evictions: r.Evictions,
	}, nil
}

// priorityOf is a request's priority: that of its class, or of the class of work
// that names none, or its own.
func priorityOf(d workspace.Definitions, r Request) (int, error) {
	w, err := d.Workspace(r.Workspace)
	standard := err == nil && len(w.PriorityClasses) > 0 ||
		slices.ContainsFunc(d.PriorityClasses, func(c workspace.PriorityClass) bool { return c.Default })
	if r.Class == "" && !standard {
		return r.Priority, nil
	}
	return d.Priority(r.Workspace, r.Class)
}

// Elsewhere is the workspace of what runs in the cluster and belongs to nobody
// that is declared.
const Elsewhere = "(elsewhere)"

// foreign are the allocations that none of these rows is of.
func (s *Scheduler) foreign(rows map[queue.JobID]*Row) iter.Seq[inventory.Alloc] {
	ours := map[string]bool{} // Nomad jobs
	for job := range s.gone {
		ours[job] = true
	}
	for _, r := range rows {
		if r.Run != nil && r.NomadJob != "" {
			ours[r.NomadJob] = true
		}
	}
	return func(yield func(inventory.Alloc) bool) {
		for _, a := range s.cluster.allocs {
			if !ours[a.JobID] && !yield(a) {
				return
			}
		}
	}
}

// followOthers takes in which allocations of others have come and gone.
func (s *Scheduler) followOthers(now time.Time) {
	o := s.opening(now)
	there := map[queue.JobID]bool{}
	for a := range s.foreign(s.rows) {
		id := foreignID(a)
		if there[id] = true; !s.state.Has(id) {
			o.foreign(a)
		}
	}
	s.others = slices.DeleteFunc(s.others, func(x other) bool {
		if there[x.ID] {
			return false
		}
		s.must(s.state.End(x.ID, now))
		return true
	})
	for _, x := range o.others {
		if !s.state.HasQueue(x.Queue) { // the first of its workspace
			s.reopen = true
			return
		}
		s.must(s.state.Found(x.Running, now))
	}
	s.others = append(s.others, o.others...)
}

func foreignID(a inventory.Alloc) queue.JobID { return queue.JobID("alloc/" + a.ID) }

// foreign counts an allocation that no row is of: another's, or an endpoint's.
func (o *opening) foreign(a inventory.Alloc) {
	ws := a.Meta[jobspec.MetaWorkspace]
	if ws == "" {
		var ok bool
		if ws, ok = o.d.ByNamespace(a.Namespace); !ok {
			ws = Elsewhere
		}
	}
	o.seen[ws] = true
	r := o.fleet.Foreign(a)
	since := a.Created
	if since.IsZero() {
		since = o.now
	}
	r.ID, r.Submitted, r.Run.Started = foreignID(a), since, since
	r.Queue = o.d.QueueFor(ws, a.Meta[jobspec.MetaEndpoint] != "")
	o.others = append(o.others, other{r, ws})
	o.snap.Running = append(o.snap.Running, r)
}

// opening looks at single rows, with what the state was made with.
func (s *Scheduler) opening(now time.Time) *opening {
	return &opening{s: s, d: s.definitions, fleet: s.cluster.fleet, now: now, options: map[string]option{}, seen: map[string]bool{}}
}

// submit puts a row that waits into the state.
func (s *Scheduler) submit(r *Row) {
	if s.state == nil || s.reopen {
		s.reopen = true
		return
	}
	o := s.opening(time.Now())
	j, err := o.job(r)
	if !o.next.IsZero() && (s.next.IsZero() || o.next.Before(s.next)) {
		s.next = o.next
	}
	if err != nil {
		s.parked[r.ID] = err.Error()
		return
	}
	if !s.state.HasQueue(j.Queue) { // the first of its workspace
		s.reopen = true
		return
	}
	var refusal *queue.Refusal
	switch err := s.state.Submit(j); {
	case errors.As(err, &refusal): // a state that is made anew tells why it waits
		s.reopen = true
	case err != nil:
		s.parked[r.ID] = err.Error()
	default:
		r.Job = j
	}
}
