package pipeline

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// arrange turns edges into dependencies, checks them, and puts the nodes in
// order.
func (p *parser) arrange() {
	for _, n := range p.pipeline.Nodes {
		p.depend(n)
		if n.Endpoint != nil {
			if model := p.byID[n.Endpoint.Model]; model != nil {
				n.deferred.served = model.Model
			}
		}
	}
	p.cycles()
	p.order()
	for _, n := range p.pipeline.Nodes {
		n.deferred.edges = nil
	}
}

// depend gives n the dependencies that its edges make.
func (p *parser) depend(n *Node) {
	d := n.deferred
	if n.OnExit {
		d.named = map[NodeID]bool{}
	}
	for _, e := range d.edges {
		other := p.byID[e.to]
		if other == nil {
			continue // what is wrong with it has been reported
		}
		n.DependsOn = append(n.DependsOn, e.to)
		switch {
		case n.OnExit && e.results:
			d.named[e.to] = true
		case other.OnExit && !n.OnExit:
			p.diags = append(p.diags, problem(e.at, "Depends on a clean-up",
				fmt.Sprintf("%s runs after everything else has ended (on_exit), so %s cannot wait for it.", e.to, n.ID)))
		}
	}
	slices.Sort(n.DependsOn)
	n.DependsOn = slices.Compact(n.DependsOn)
}

// edgeTo is where n names another node.
func (n *Node) edgeTo(id NodeID) hcl.Range {
	for _, e := range n.deferred.edges {
		if e.to == id {
			return e.at
		}
	}
	return n.Range
}

// order sorts the nodes so that each comes after what it depends on; among
// equals as in the file, and clean-ups last. Nodes of a cycle, which has been
// reported, are left out.
func (p *parser) order() {
	position := make(map[NodeID]int, len(p.pipeline.Nodes))
	waits := make(map[NodeID]int, len(p.pipeline.Nodes))
	dependents := make(map[NodeID][]NodeID, len(p.pipeline.Nodes))
	ready := &byPosition{}
	for i, n := range p.pipeline.Nodes {
		position[n.ID] = i
		if n.OnExit {
			position[n.ID] += len(p.pipeline.Nodes)
		}
		waits[n.ID] = len(n.DependsOn)
		for _, id := range n.DependsOn {
			dependents[id] = append(dependents[id], n.ID)
		}
		if len(n.DependsOn) == 0 {
			heap.Push(ready, position[n.ID])
		}
	}
	byPosition := make(map[int]*Node, len(position))
	for id, i := range position {
		byPosition[i] = p.byID[id]
	}
	ordered := make([]*Node, 0, len(p.pipeline.Nodes))
	for ready.Len() > 0 {
		n := byPosition[heap.Pop(ready).(int)]
		ordered = append(ordered, n)
		for _, id := range dependents[n.ID] {
			if waits[id]--; waits[id] == 0 {
				heap.Push(ready, position[id])
			}
		}
	}
	p.pipeline.Nodes = ordered
}

// byPosition is a heap of places in the file.
type byPosition []int

func (h byPosition) Len() int           { return len(h) }
func (h byPosition) Less(i, j int) bool { return h[i] < h[j] }
func (h byPosition) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byPosition) Push(x any)        { *h = append(*h, x.(int)) }
func (h *byPosition) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// cycles reports each group of nodes that wait for each other, with the
// shortest way around it.
func (p *parser) cycles() {
	for _, group := range p.components() {
		path := p.shortestCycle(group)
		if path == nil {
			continue
		}
		names := make([]string, len(path))
		for i, id := range path {
			names[i] = string(id)
		}
		p.diags = append(p.diags, problem(p.byID[path[0]].edgeTo(path[1]), "Cycle",
			fmt.Sprintf("These wait for each other, so none could ever start: %s. Take one of the references out.", strings.Join(names, " → "))))
	}
}

// components are the strongly connected components of the graph (Tarjan's
// algorithm, with a stack of its own).
func (p *parser) components() [][]NodeID {
	type frame struct {
		id   NodeID
		next int // dependency to look at
	}
	index, low := map[NodeID]int{}, map[NodeID]int{}
	onStack := map[NodeID]bool{}
	var stack []NodeID
	var groups [][]NodeID
	for _, root := range p.pipeline.Nodes {
		if _, seen := index[root.ID]; seen {
			continue
		}
		frames := []frame{{id: root.ID}}
		for len(frames) > 0 {
			f := &frames[len(frames)-1]
			if f.next == 0 {
				index[f.id], low[f.id] = len(index), len(index)
				stack, onStack[f.id] = append(stack, f.id), true
			}
			depends := p.byID[f.id].DependsOn
			if f.next < len(depends) {
				id := depends[f.next]
				f.next++
				if _, seen := index[id]; !seen {
					frames = append(frames, frame{id: id})
				} else if onStack[id] {
					low[f.id] = min(low[f.id], index[id])
				}
				continue
			}
			if low[f.id] == index[f.id] {
				var group []NodeID
				for onStack[f.id] {
					top := stack[len(stack)-1]
					stack, onStack[top] = stack[:len(stack)-1], false
					group = append(group, top)
				}
				groups = append(groups, group)
			}
			done := f.id
			frames = frames[:len(frames)-1]
			if len(frames) > 0 {
				parent := frames[len(frames)-1].id
				low[parent] = min(low[parent], low[done])
			}
		}
	}
	return groups
}

// shortestCycle is the way from the group's first node in the file back to it,
// nil if there is none.
func (p *parser) shortestCycle(group []NodeID) []NodeID {
	start := group[0]
	inGroup := make(map[NodeID]bool, len(group))
	for _, id := range group {
		inGroup[id] = true
		if p.byID[id].Range.Start.Byte < p.byID[start].Range.Start.Byte {
			start = id
		}
	}
	cameFrom := map[NodeID]NodeID{}
	queue := []NodeID{start}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		for _, next := range p.byID[id].DependsOn {
			if next == start {
				path := []NodeID{start}
				for ; id != start; id = cameFrom[id] {
					path = append(path, id)
				}
				path = append(path, start)
				slices.Reverse(path)
				return path
			}
			if _, seen := cameFrom[next]; !seen && inGroup[next] {
				cameFrom[next] = id
				queue = append(queue, next)
			}
		}
	}
	return nil
}
