package simulated

import (
	"context"
	"slices"

	"github.com/drover-ml/drover/internal/topology"
)

// Topology is the graph of the boards that are there and of the network cards.
func (s *Source) Topology(ctx context.Context) (topology.Graph, error) {
	t, now, err := s.enter(ctx, anyBoard)
	if err != nil {
		return topology.Graph{}, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return topology.Graph{}, err
	}
	return s.machine.graph(views), nil
}

func (m Machine) graph(views []boardView) topology.Graph {
	g := topology.Graph{NICs: slices.Clone(m.wiring.nics)}
	var there []boardView
	for _, v := range views {
		if !v.there() {
			continue
		}
		there = append(there, v)
		g.GPUs = append(g.GPUs, topology.GPU{
			ID: string(v.ID), Index: v.Index, PCIBusID: v.PCIBusID, NUMANode: v.NUMANode, CPUs: v.CPUs,
			MemoryNode: m.memoryNode(v.Index),
		})
	}
	for i, a := range there {
		for _, b := range there[i+1:] {
			g.Links = append(g.Links, m.link(a, b))
		}
		for _, n := range m.wiring.nics {
			g.Links = append(g.Links, topology.Link{
				A: string(a.ID), B: n.Name, Kind: m.wiring.pci(end{board: a.Index}, end{board: -1, nic: n.Name}),
				BandwidthMBps: a.model.pciBandwidthMBps(),
			})
		}
	}
	return g.WithIslands()
}

// memoryNode is the NUMA node of a coherent board's memory. Each board has
// eight numbers, beyond those of the CPUs, for its memory and its slices'.
func (m Machine) memoryNode(board int) *int {
	if !m.boards[board].coherent {
		return nil
	}
	first := 0
	for _, n := range m.wiring.nodes {
		first = max(first, n.node+1)
	}
	node := first + 8*board
	return &node
}

// link is the connection of two boards.
func (m Machine) link(a, b boardView) topology.Link {
	l := topology.Link{A: string(a.ID), B: string(b.ID)}
	if n := m.linksBetween(a, b); n > 0 {
		l.Kind, l.NVLinks = topology.NVLink, n
		l.BandwidthMBps = int64(n) * min(a.model.nvlinkMBps, b.model.nvlinkMBps)
		return l
	}
	l.Kind = m.wiring.pci(end{board: a.Index}, end{board: b.Index})
	l.BandwidthMBps = min(a.model.pciBandwidthMBps(), b.model.pciBandwidthMBps())
	return l
}

// linksBetween is how many NVLinks of two boards lead to each other and are up.
func (m Machine) linksBetween(a, b boardView) int {
	n := 0
	for i, g := range m.wiring.nvlinks {
		if slices.Contains(g.boards, a.Index) && slices.Contains(g.boards, b.Index) {
			n += min(m.up(a, i), m.up(b, i))
		}
	}
	return n
}

// up is how many links of a board that belong to a group are up. A board's
// links are numbered in the order of the groups.
func (m Machine) up(v boardView, group int) int {
	first := 0
	for _, g := range m.wiring.nvlinks[:group] {
		if slices.Contains(g.boards, v.Index) {
			first += g.links
		}
	}
	n := 0
	for link := range m.wiring.nvlinks[group].links {
		if !v.linkDown(first + link) {
			n++
		}
	}
	return n
}
