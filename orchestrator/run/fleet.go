package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/problem"
)

// fleet knows the faults of the cluster's devices. It keeps an incident for
// each, tells the runs, and moves the endpoints' instances. Like an actor, it
// stores what it decides before it acts, and can have all else again.
type fleet struct {
	engine *Engine
	bell   chan struct{}

	mu     sync.Mutex
	heard  map[string]failover.Node // news, by node ID
	relist bool
	known  map[string]failover.Node // nodes as they were last taken in
	faults []failover.Fault         // of all nodes, as the incidents have them
	open   map[place]opened         // incidents that go on
	listed bool                     // all nodes were taken in once
	// moving tells that an instance may be on its way. Only run uses it.
	moving bool
}

type opened struct {
	incident string
	at       time.Time // when it was seen
	// told tells that Nomad knows. What a task has died of may be known here
	// before.
	told bool
	// missing is since when the node does not list the device, zero if it does.
	missing time.Time
}

// place is where a device is.
type place struct{ node, device string }

func newFleet(e *Engine) *fleet {
	return &fleet{
		engine: e, bell: make(chan struct{}, 1),
		heard: map[string]failover.Node{}, known: map[string]failover.Node{}, open: map[place]opened{}, moving: true,
	}
}

// load takes up the incidents that go on.
func (f *fleet) load(ctx context.Context) error {
	incidents, err := f.engine.config.Store.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, i := range incidents {
		// Whether Nomad had told of it is not known any more: a new one is
		// believed until Nomad must have heard.
		f.note(i, i.Seen)
	}
	return nil
}

// note takes in that an incident goes on, since at.
func (f *fleet) note(i failover.Incident, at time.Time) {
	if i.Ended != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := place{i.NodeID, i.Device}
	o, known := f.open[p]
	if !known {
		o = opened{incident: i.ID, at: at}
	}
	f.drop(p)
	f.faults = append(f.faults, i.Fault)
	f.open[p] = o
}

// confirm notes that Nomad tells of a fault, and reports whether it is for the
// first time.
func (f *fleet) confirm(x failover.Fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := place{x.NodeID, x.Device}
	o := f.open[p]
	first := !o.told
	o.told = true
	f.open[p] = o
	for i := range f.faults {
		if f.faults[i].Same(x) {
			f.faults[i].Index = x.Index
		}
	}
	return first
}

// drop forgets a device's fault. f.mu is held.
func (f *fleet) drop(p place) {
	delete(f.open, p)
	for i, x := range f.faults {
		if x.NodeID == p.node && x.Device == p.device {
			f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
			return
		}
	}
}

// knows reports whether there is anything to go by yet.
func (f *fleet) knows() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listed
}

// fault is the worst fault of an allocation's devices, with its incident; nil
// if they are well.
func (f *fleet) fault(a *Alloc) (*failover.Fault, string) {
	return f.worst(a.NodeID, a.Devices, a.Created)
}

// worstOf is the one of some allocations, at least one, whose devices fare worst,
// with the fault; the first and nil if they are all well.
func (f *fleet) worstOf(all []*Alloc) (alloc *Alloc, fault *failover.Fault, incident string) {
	alloc = all[0]
	for _, x := range all {
		if found, id := f.fault(x); found != nil && (fault == nil || found.Worse(*fault)) {
			alloc, fault, incident = x, found, id
		}
	}
	return alloc, fault, incident
}

func (f *fleet) worst(nodeID string, devices []string, placed uint64) (*failover.Fault, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	worst, ok := failover.Worst(f.faults, nodeID, devices, placed)
	if !ok {
		return nil, ""
	}
	return &worst, f.open[place{nodeID, worst.Device}].incident
}

// hearsay reports whether a device has a fault that Nomad does not know of yet.
func (f *fleet) hearsay(nodeID, device string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.open[place{nodeID, device}]
	return ok && !o.told
}

// isOpen reports whether a device has a fault.
func (f *fleet) isOpen(nodeID, device string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.open[place{nodeID, device}]
	return ok
}

// listen takes in what a driver tells of a task's device: Nomad's clients tell
// of it seconds later. What Nomad knows already, it knows better.
func (f *fleet) listen(ctx context.Context, x failover.Fault) (incident string, err error) {
	known, incident := f.worst(x.NodeID, []string{x.Device}, 0)
	if known != nil && !x.Worse(*known) {
		return incident, nil
	}
	if known != nil {
		x.Board = known.Board
	}
	if incident, err = f.begin(ctx, x); err == nil {
		f.engine.broadcast(ailing{})
	}
	return incident, err
}

// hear takes news of a node, to be looked at by run.
func (f *fleet) hear(n failover.Node) {
	f.mu.Lock()
	if n.Index >= f.heard[n.ID].Index && n.Index >= f.known[n.ID].Index {
		f.heard[n.ID] = n
	}
	f.mu.Unlock()
	f.ring()
}

// resync has all nodes asked for: news may have been missed.
func (f *fleet) resync() {
	f.mu.Lock()
	f.relist = true
	f.mu.Unlock()
	f.ring()
}

func (f *fleet) ring() {
	select {
	case f.bell <- struct{}{}:
	default:
	}
}

// run looks at the news until ctx ends.
func (f *fleet) run(ctx context.Context) {
	// Where an instance that was moved has gone is asked for as often as the
	// metrics of tasks are.
	tick := time.NewTicker(f.engine.config.TailEvery)
	defer tick.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-f.bell:
		case <-tick.C:
		}
		err := f.catchUp(ctx)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		f.engine.config.Logger.Warn("following the health of devices: trying again", "error", err)
		if !pause(ctx, f.engine.config.Backoff, failures) {
			return
		}
		failures++
		f.resync()
	}
}

// catchUp takes in all that was heard, and goes on with the instances.
func (f *fleet) catchUp(ctx context.Context) error {
	f.mu.Lock()
	relist := f.relist
	f.mu.Unlock()
	if relist {
		nodes, err := f.engine.config.Cluster.Nodes(ctx)
		if err != nil {
			return err
		}
		if err := f.endLost(ctx, nodes); err != nil {
			return err
		}
		f.mu.Lock()
		f.relist = false
		f.mu.Unlock()
		for _, n := range nodes {
			f.hear(n)
		}
	}
	f.mu.Lock()
	var news []failover.Node
	for _, n := range f.heard {
		news = append(news, n)
	}
	f.mu.Unlock()
	for _, n := range news {
		if err := f.takeIn(ctx, n); err != nil {
			return err
		}
	}
	if relist {
		f.mu.Lock()
		first := !f.listed
		f.listed = true
		f.mu.Unlock()
		if first {
			f.engine.broadcast(ailing{})
		}
	}
	return f.instances(ctx)
}

// endLost ends the incidents of nodes that the cluster has forgotten.
func (f *fleet) endLost(ctx context.Context, nodes []failover.Node) error {
	there := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		there[n.ID] = true
	}
	f.mu.Lock()
	var lost []place
	for p := range f.open {
		if !there[p.node] {
			lost = append(lost, p)
		}
	}
	f.mu.Unlock()
	for _, p := range lost {
		if err := f.end(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// takeIn makes a node's faults incidents, ends the incidents of devices that
// are well, and tells the runs.
func (f *fleet) takeIn(ctx context.Context, n failover.Node) error {
	changed, move := false, false
	for _, x := range n.Faults() {
		move = move || x.Action != gpustatus.Keep
		if now, _ := f.worst(n.ID, []string{x.Device}, 0); now != nil && now.Same(x) {
			changed = f.confirm(x) || changed
			continue
		}
		if _, err := f.begin(ctx, x); err != nil {
			return err
		}
		f.confirm(x)
		changed = true
	}
	for _, p := range f.over(n) {
		if err := f.end(ctx, p); err != nil {
			return err
		}
		changed = true
	}
	f.mu.Lock()
	f.known[n.ID] = n
	f.mu.Unlock()
	if changed {
		f.engine.broadcast(ailing{})
	}
	if move {
		if err := f.moveInstances(ctx, n); err != nil {
			return err
		}
	}
	f.mu.Lock()
	if f.heard[n.ID].Index == n.Index {
		delete(f.heard, n.ID)
	}
	f.mu.Unlock()
	return nil
}

// over are a node's devices whose incidents end now: they are well, or were not
// there for long.
func (f *fleet) over(n failover.Node) []place {
	there := make(map[string]failover.Device, len(n.Devices))
	for _, d := range n.Devices {
		there[d.ID] = d
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []place
	for p, o := range f.open {
		if p.node != n.ID {
			continue
		}
		d, listed := there[p.device]
		switch {
		case listed && d.Healthy && (o.told || time.Since(o.at) > failover.HearsayTimeout):
			all = append(all, p)
		case listed:
			o.missing = time.Time{}
		case o.missing.IsZero():
			o.missing = time.Now()
		case time.Since(o.missing) > failover.Gone:
			all = append(all, p)
		}
		f.open[p] = o
	}
	return all
}

// begin opens a fault's incident, or changes the one that its device has.
func (f *fleet) begin(ctx context.Context, x failover.Fault) (string, error) {
	at := now()
	i, err := f.engine.config.Store.OpenIncident(ctx, failover.Incident{
		ID: string(f.engine.ids.next(at)), Fault: x, Cause: x.Reason, Seen: at, Times: 1,
	})
	if err != nil {
		return "", err
	}
	i.Index = x.Index
	f.note(i, at)
	f.engine.config.Logger.Warn("a GPU has a fault", "incident", i.ID, "node", x.NodeName, "device", x.Device, "reason", x.Reason, "action", x.Action)
	return i.ID, nil
}

func (f *fleet) end(ctx context.Context, p place) error {
	f.mu.Lock()
	id := f.open[p].incident
	f.mu.Unlock()
	at := now()
	i, err := f.engine.config.Store.UpdateIncident(ctx, id, func(i *failover.Incident) { i.Ended = &at })
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.drop(p)
	f.mu.Unlock()
	f.engine.config.Logger.Info("a GPU is in service again", "incident", id, "node", i.NodeName, "device", p.device)
	return nil
}

// moveInstances has the endpoints' instances leave a node's devices that they
// should not be on. Nomad places them again.
func (f *fleet) moveInstances(ctx context.Context, n failover.Node) error {
	all, err := f.engine.config.Cluster.Instances(ctx, n.ID)
	if err != nil {
		return err
	}
	for _, x := range all {
		fault, id := f.fault(&x.Alloc)
		if fault == nil || fault.Action == gpustatus.Keep || x.Desired != "run" {
			continue
		}
		switch e, err := f.engine.config.Store.Endpoint(ctx, x.Workspace, x.Endpoint); {
		case problem.Is(err, problem.NotFound) || err == nil && e.JobID != x.JobID:
			continue // another server's
		case err != nil:
			return err
		}
		at := now()
		_, err := f.engine.config.Store.UpdateIncident(ctx, id, func(i *failover.Incident) {
			moves := 0
			for _, m := range i.Instances {
				if m.AllocID == x.ID {
					return
				}
				if m.Workspace == x.Workspace && m.Endpoint == x.Endpoint {
					moves++
				}
			}
			if moves < failover.MaxMoves {
				f.moving = true
				i.Instances = append(i.Instances, failover.Move{
					Incident: id, Fault: *fault, AllocID: x.ID, Namespace: x.Namespace, JobID: x.JobID, Workspace: x.Workspace, Endpoint: x.Endpoint,
					Phase: failover.Leaving, Seen: at,
				})
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// instances goes on with the instances that are being moved.
func (f *fleet) instances(ctx context.Context) error {
	if !f.moving {
		return nil
	}
	f.moving = false
	incidents, err := f.engine.config.Store.Unfinished(ctx)
	if err != nil {
		f.moving = true
		return err
	}
	for _, i := range incidents {
		for _, m := range i.Instances {
			before := m.Phase
			if err := f.moveOn(ctx, &m); err != nil {
				f.moving = true
				return err
			}
			f.moving = f.moving || m.Phase == failover.Leaving || m.Phase == failover.Left
			if m.Phase == before {
				continue
			}
			_, err := f.engine.config.Store.UpdateIncident(ctx, i.ID, func(i *failover.Incident) {
				for j := range i.Instances {
					if i.Instances[j].AllocID == m.AllocID {
						i.Instances[j] = m
					}
				}
			})
			if err != nil {
				f.moving = true
				return err
			}
		}
	}
	return nil
}

// moveOn takes a step with an instance: it is stopped, and then its successor
// is looked for.
func (f *fleet) moveOn(ctx context.Context, m *failover.Move) error {
	switch m.Phase {
	case failover.Leaving:
		if err := f.engine.config.Cluster.In(m.Namespace).StopAlloc(ctx, m.AllocID); err != nil {
			return err
		}
		at := now()
		m.Phase, m.Stopped, m.Outcome = failover.Left, &at, "stopped: Nomad places another instance"
	case failover.Left:
		s, err := f.engine.config.Cluster.In(m.Namespace).Job(ctx, m.JobID)
		if errors.Is(err, ErrNoJob) || err == nil && (s.Stopped || s.Dead) {
			m.Phase, m.Outcome = failover.Over, "the endpoint was deleted"
			return nil
		}
		if err != nil {
			return err
		}
		var created uint64
		for _, a := range s.Allocs {
			if a.ID == m.AllocID {
				created = a.Created
			}
		}
		for _, a := range s.Allocs {
			if a.Created > created && a.Client == "running" && !a.Started.IsZero() {
				m.Phase, m.Resumed, m.To = failover.Resumed, new(a.Started.UTC()), a.NodeName
				m.Outcome = fmt.Sprintf("replaced by allocation %s on node %s", short(a.ID), a.NodeName)
				return nil
			}
		}
	}
	return nil
}
