package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Supposition is what might be otherwise.
type Supposition struct {
	// Nodes are added to the cluster, empty.
	Nodes []MoreNodes `json:"nodes,omitempty" maxItems:"100"`
	// Definitions are in force instead of those that are.
	Definitions *workspace.Definitions `json:"definitions,omitempty"`
	// Requests wait beside those that do.
	Requests []Request `json:"-"`
}

// MoreNodes are further nodes like one that is there.
type MoreNodes struct {
	Like  string `json:"like" minLength:"1" maxLength:"256" doc:"Name or ID of a node of the cluster"`
	Count int    `json:"count" minimum:"1" maximum:"10000"`
}

// WhatIf is the queue as it would stand, with a forecast. Nothing is changed.
func (s *Scheduler) WhatIf(ctx context.Context, sup Supposition) (View, error) {
	f := &frozen{}
	err := s.do(ctx, func() error {
		if s.state == nil {
			return notYet()
		}
		f.at = time.Now().UTC()
		return s.suppose(ctx, sup, f)
	})
	if err != nil {
		return View{}, err
	}
	return f.look()
}

func (s *Scheduler) suppose(ctx context.Context, sup Supposition, f *frozen) error {
	nodes, err := s.cluster.with(sup.Nodes)
	if err != nil {
		return err
	}
	d := s.definitions
	if sup.Definitions != nil {
		d = *sup.Definitions
	}
	fleet, err := inventory.New(nodes, flavors(d))
	if err != nil {
		return fmt.Errorf("supposing other nodes: %w", err)
	}
	rows := maps.Clone(s.rows)
	for i, r := range sup.Requests {
		rows[r.ID] = &Row{Request: sup.Requests[i], Phase: Waiting, Queued: f.at}
	}
	o := opening{s: s, d: d, fleet: fleet, now: f.at, options: map[string]option{}, parked: map[queue.JobID]string{}}
	snap, err := o.snapshot(ctx, rows)
	if err != nil {
		return err
	}
	state, err := queue.Open(snap, fleet)
	if err != nil {
		return problem.New(problem.Invalid, "supposing: %w", err)
	}
	state.Plan(f.at)
	supposed := &Scheduler{rows: rows, state: state, cluster: newCluster(nodes, nil, nil), definitions: d}
	f.snap, f.places, f.names = state.Snapshot(), fleet, supposed.cluster.nodeNames
	f.view = supposed.view(f.snap, f.at)
	for i := range f.view.Entries {
		if e := &f.view.Entries[i]; e.State == "waiting" {
			if why := supposed.reasonOf(e.Task); why.Code != "" {
				e.Reason = &why
			}
		}
	}
	for id, why := range o.parked {
		f.view.Entries = append(f.view.Entries, supposed.parkedEntry(rows[id], why))
	}
	return nil
}

// with is the cluster's nodes and some more.
func (c *cluster) with(more []MoreNodes) ([]inventory.Node, error) {
	nodes := slices.Clone(c.nodes)
	for k, m := range more {
		i := slices.IndexFunc(c.nodes, func(n inventory.Node) bool { return n.Name == m.Like || string(n.ID) == m.Like })
		if i < 0 {
			return nil, problem.New(problem.NotFound, "there is no node %q in the cluster that more could be like", m.Like)
		}
		for j := range m.Count {
			n := c.nodes[i]
			n.Name = fmt.Sprintf("%s+%d.%d", m.Like, k+1, j+1)
			n.ID, n.Eligible = queue.NodeID(n.Name), true
			n.Groups = slices.Clone(n.Groups)
			for g := range n.Groups {
				n.Groups[g].Instances = slices.Clone(n.Groups[g].Instances)
				for x := range n.Groups[g].Instances {
					n.Groups[g].Instances[x] = inventory.Instance{ID: fmt.Sprintf("%s/%d.%d", n.Name, g, x), Healthy: true}
				}
			}
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}
