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
	Nodes []MoreNodes
	// Definitions are in force instead of those that are; nil: those that are.
	Definitions *workspace.Definitions
	// Requests wait beside those that do.
	Requests []Request
}

// MoreNodes are further nodes like one that is there.
type MoreNodes struct {
	Like  string `json:"like" minLength:"1" maxLength:"256" doc:"Name or ID of a node of the cluster"`
	Count int    `json:"count" minimum:"1" maximum:"10000"`
}

// maxMoreNodes is how many nodes may be supposed.
const maxMoreNodes = 10_000

// Comparison is the queue as it stands beside the queue as it would stand, from one
// snapshot.
type Comparison struct {
	At time.Time `json:"at"`
	// NowUntil and ThenUntil are how far the forecasts reach; nil: they are complete.
	NowUntil  *time.Time `json:"now_until,omitempty" doc:"How far the forecast of the queue as it is reaches, if it is not complete"`
	ThenUntil *time.Time `json:"then_until,omitempty" doc:"How far the other forecast reaches, if it is not complete"`
	Waiting   int        `json:"waiting" doc:"How many wait of those that were asked for"`
	Earlier   int        `json:"earlier" doc:"How many of them start earlier, or would not start otherwise"`
	Later     int        `json:"later" doc:"How many start later, or would not start any more"`
	// Tasks are first those whose start is another one, by when they start then.
	Tasks []Compared `json:"tasks"`
}

// Compared is a task that waits, now and as supposed.
type Compared struct {
	Task      queue.JobID `json:"task"`
	Workspace string      `json:"workspace"`
	Priority  int         `json:"priority"`
	Members   int         `json:"members"`
	Needs     Resources   `json:"needs" doc:"Of all members, by flavor"`
	Submitted time.Time   `json:"submitted"`
	// Change is how its start changes.
	Change Shift   `json:"change" enum:"same,earlier,later" doc:"Whether it starts earlier or later then; not at all, or not as far as is foreseen, is later"`
	Now    Outlook `json:"now"`
	Then   Outlook `json:"then"`
}

// Shift is how a start changes.
type Shift string

// The shifts. Not to start, as far as is foreseen, is later.
const (
	Same    Shift = "same"
	Earlier Shift = "earlier"
	Later   Shift = "later"
)

// WhatIf compares the queue with what it would be. Nothing is changed.
func (s *Scheduler) WhatIf(ctx context.Context, sup Supposition, filter Filter) (Comparison, error) {
	defer s.takeTurn()()
	f, rows, err := s.freezeRows(ctx)
	if err != nil {
		return Comparison{}, err
	}
	g, err := s.suppose(ctx, f, rows, sup)
	if err != nil {
		return Comparison{}, err
	}
	all := filter
	all.Waiting, all.Limit = true, 0
	now, err := f.look(ctx, all)
	if err != nil {
		return Comparison{}, err
	}
	then, err := g.look(ctx, all)
	if err != nil {
		return Comparison{}, err
	}
	c := compare(now, then)
	if filter.Limit > 0 && len(c.Tasks) > filter.Limit {
		c.Tasks = c.Tasks[:filter.Limit]
	}
	return c, nil
}

// compare joins two views of the same tasks.
func compare(now, then View) Comparison {
	c := Comparison{At: now.At, NowUntil: now.Until, ThenUntil: then.Until, Waiting: len(then.Entries), Tasks: []Compared{}}
	before := make(map[queue.JobID]*Outlook, len(now.Entries))
	for i := range now.Entries {
		before[now.Entries[i].Task] = &now.Entries[i].Outlook
	}
	for _, e := range then.Entries {
		t := Compared{
			Task: e.Task, Workspace: e.Workspace, Priority: e.Priority, Members: e.Members, Needs: e.Needs, Submitted: e.Submitted,
			Then: e.Outlook,
		}
		if o := before[e.Task]; o != nil {
			t.Now = *o
		}
		switch t.Change = c.shift(t.Now.Expected, t.Then.Expected); t.Change {
		case Earlier:
			c.Earlier++
		case Later:
			c.Later++
		}
		c.Tasks = append(c.Tasks, t)
	}
	slices.SortStableFunc(c.Tasks, func(a, b Compared) int {
		switch sa, sb := a.Change == Same, b.Change == Same; {
		case sa == sb:
			return 0
		case sa:
			return 1
		}
		return -1
	})
	return c
}

// shift is how a start changes. One that is in one forecast, and beyond the end of
// the other, may be the same.
func (c *Comparison) shift(now, then *time.Time) Shift {
	beyond := func(t, until *time.Time) bool { return until != nil && !t.Before(*until) }
	switch {
	case now == nil && then == nil:
	case now == nil && !beyond(then, c.NowUntil), now != nil && then != nil && then.Before(*now):
		return Earlier
	case then == nil && !beyond(now, c.ThenUntil), now != nil && then != nil && now.Before(*then):
		return Later
	}
	return Same
}

// Outlook is what would become of requests, were they made now, in their order.
// Nothing is changed.
func (s *Scheduler) Outlook(ctx context.Context, requests []Request) ([]Entry, error) {
	defer s.takeTurn()()
	f, rows, err := s.freezeRows(ctx)
	if err != nil {
		return nil, err
	}
	g, err := s.suppose(ctx, f, rows, Supposition{Requests: requests})
	if err != nil {
		return nil, err
	}
	v, err := g.look(ctx, Filter{Waiting: true})
	if err != nil {
		return nil, err
	}
	byID := make(map[queue.JobID]Entry, len(requests))
	for _, e := range v.Entries {
		byID[e.Task] = e
	}
	out := make([]Entry, 0, len(requests))
	for _, r := range requests {
		out = append(out, byID[r.ID])
	}
	return out, nil
}

// freezeRows is freeze with the rows.
func (s *Scheduler) freezeRows(ctx context.Context) (f *frozen, rows []Row, err error) {
	f = &frozen{}
	err = s.afterPass(ctx, func() error {
		if err := s.freezeInto(f); err != nil {
			return err
		}
		rows = make([]Row, 0, len(s.rows))
		for _, r := range s.rows {
			row := *r
			if r.Run != nil { // the scheduler changes it
				run := *r.Run
				row.Run = &run
			}
			row.Avoid = maps.Clone(r.Avoid)
			rows = append(rows, row)
		}
		return nil
	})
	return f, rows, err
}

// suppose is f with something otherwise.
func (s *Scheduler) suppose(ctx context.Context, f *frozen, rows []Row, sup Supposition) (*frozen, error) {
	nodes, err := f.cluster.with(sup.Nodes)
	if err != nil {
		return nil, err
	}
	d := f.definitions
	if sup.Definitions != nil {
		d = *sup.Definitions
	}
	fleet, err := inventory.New(nodes, flavors(d))
	if err != nil {
		return nil, problem.New(problem.Invalid, "supposing other nodes or flavors: %w", err)
	}
	all := make(map[queue.JobID]*Row, len(rows)+len(sup.Requests))
	for i := range rows {
		all[rows[i].ID] = &rows[i]
	}
	for _, r := range sup.Requests {
		r.Submitted = f.at
		all[r.ID] = &Row{Request: r, Phase: Waiting, Queued: f.at}
	}
	supposed := &Scheduler{config: s.config, gone: f.gone, cluster: newCluster(f.cluster.asked, nodes, f.cluster.allocs, f.cluster.services)}
	supposed.memory = Memory{Claims: f.snap.Claims, Promises: f.snap.Promises, Served: f.snap.Served}
	o := opening{s: supposed, d: d, fleet: fleet, now: f.at, options: map[string]option{}, parked: map[queue.JobID]string{}}
	g := &frozen{at: f.at, places: fleet, cluster: supposed.cluster, definitions: d, makesRoom: f.makesRoom}
	if g.snap, err = o.snapshot(ctx, all); err != nil {
		return nil, err
	}
	for id, why := range o.parked {
		g.parked = append(g.parked, parked{all[id].Request, all[id].Evictions, why})
	}
	return g, nil
}

// with is the cluster's nodes and some more.
func (c *cluster) with(more []MoreNodes) ([]inventory.Node, error) {
	nodes := slices.Clone(c.nodes)
	for k, m := range more {
		i := slices.IndexFunc(c.nodes, func(n inventory.Node) bool { return n.Name == m.Like || string(n.ID) == m.Like })
		switch {
		case i < 0:
			return nil, problem.New(problem.NotFound, "there is no node %q in the cluster that more could be like", m.Like)
		case m.Count < 1 || m.Count > maxMoreNodes-(len(nodes)-len(c.nodes)):
			return nil, problem.New(problem.Invalid, "%d nodes like %q: at least one can be supposed, and %d in all", m.Count, m.Like, maxMoreNodes)
		}
		for j := range m.Count {
			nodes = append(nodes, another(c.nodes[i], fmt.Sprintf("%s+%d.%d", m.Like, k+1, j+1)))
		}
	}
	return nodes, nil
}

// another is a node like n that is well and takes new work. Its devices are named
// after those of n.
func another(n inventory.Node, name string) inventory.Node {
	n.Name, n.ID, n.Eligible = name, queue.NodeID(name), true
	n.Groups = slices.Clone(n.Groups)
	for g := range n.Groups {
		n.Groups[g].Instances = slices.Clone(n.Groups[g].Instances)
		for x, old := range n.Groups[g].Instances {
			n.Groups[g].Instances[x] = inventory.Instance{ID: name + "/" + old.ID, Healthy: true}
		}
	}
	if n.Wiring != nil {
		w := *n.Wiring
		w.Boards, w.Slices = slices.Clone(w.Boards), slices.Clone(w.Slices)
		for b := range w.Boards {
			w.Boards[b].ID = name + "/" + w.Boards[b].ID
		}
		for b := range w.Slices {
			w.Slices[b].ID = name + "/" + w.Slices[b].ID
		}
		n.Wiring = &w
	}
	return n
}
