package simulated

import (
	"slices"

	"github.com/drover-ml/drover/internal/topology"
)

// wiring is how the boards of a machine are connected with each other, with
// its network cards and with its CPUs. Boards are numbers, from 0 on.
type wiring struct {
	nodes    []numaNode
	switches []cluster
	nvlinks  []nvlinkGroup
	nics     []topology.NIC
}

// cluster is what is near each other on PCIe.
type cluster struct {
	boards []int
	nics   []string
	kind   topology.Kind
}

// numaNode is a NUMA node and what is attached to it.
type numaNode struct {
	cluster
	node int
	cpus string
}

// nvlinkGroup are boards that reach each other over NVLink, all equally well:
// two with a bridge between them, or any number on switches.
type nvlinkGroup struct {
	boards []int
	links  int // of each board
}

// end is a board or a network card.
type end struct {
	board int // -1 for a card
	nic   string
}

func (c cluster) has(e end) bool {
	if e.board >= 0 {
		return slices.Contains(c.boards, e.board)
	}
	return slices.Contains(c.nics, e.nic)
}

// pci is the connection of two ends without NVLink: the nearest that a switch
// or a NUMA node gives them.
func (w wiring) pci(a, b end) topology.Kind {
	kind := topology.System
	closer := func(c cluster) {
		if c.has(a) && c.has(b) && topology.Compare(topology.Link{Kind: c.kind}, topology.Link{Kind: kind}) > 0 {
			kind = c.kind
		}
	}
	for _, s := range w.switches {
		closer(s)
	}
	for _, n := range w.nodes {
		closer(n.cluster)
	}
	return kind
}

// nodeOf is the NUMA node that an end is attached to.
func (w wiring) nodeOf(e end) (numaNode, bool) {
	i := slices.IndexFunc(w.nodes, func(n numaNode) bool { return n.has(e) })
	if i < 0 {
		return numaNode{}, false
	}
	return w.nodes[i], true
}

// links is how many NVLinks a board has that lead somewhere.
func (w wiring) links(board int) int {
	n := 0
	for _, g := range w.nvlinks {
		if slices.Contains(g.boards, board) {
			n += g.links
		}
	}
	return n
}

// switched reports whether NVSwitches are behind a board's links.
func (w wiring) switched(board int) bool {
	return slices.ContainsFunc(w.nvlinks, func(g nvlinkGroup) bool {
		return len(g.boards) > 2 && slices.Contains(g.boards, board)
	})
}

// shifted is the wiring of the nth machine of a kind that are taken together
// as one: with boards and NUMA nodes of its own, and cards of other names.
func (w wiring) shifted(boards, nodes int, rename func(nic string) string) wiring {
	moved := func(from []int) []int {
		to := slices.Clone(from)
		for i := range to {
			to[i] += boards
		}
		return to
	}
	near := func(c cluster) cluster {
		c.boards = moved(c.boards)
		names := make([]string, 0, len(c.nics))
		for _, n := range c.nics {
			names = append(names, rename(n))
		}
		c.nics = names
		return c
	}
	var to wiring
	for _, n := range w.nodes {
		n.cluster = near(n.cluster)
		n.node += nodes
		to.nodes = append(to.nodes, n)
	}
	for _, s := range w.switches {
		to.switches = append(to.switches, near(s))
	}
	for _, g := range w.nvlinks {
		to.nvlinks = append(to.nvlinks, nvlinkGroup{moved(g.boards), g.links})
	}
	for _, n := range w.nics {
		n.Name = rename(n.Name)
		if n.NUMANode != nil {
			node := *n.NUMANode + nodes
			n.NUMANode = &node
		}
		to.nics = append(to.nics, n)
	}
	return to
}

func (w wiring) joined(more wiring) wiring {
	return wiring{
		nodes: slices.Concat(w.nodes, more.nodes), switches: slices.Concat(w.switches, more.switches),
		nvlinks: slices.Concat(w.nvlinks, more.nvlinks), nics: slices.Concat(w.nics, more.nics),
	}
}

// fill adds what a description leaves out: boards of one baseboard are
// connected, and the boards are spread over two sockets, or sit on one if
// there are at most two.
func (w wiring) fill(boards []board) wiring {
	if len(w.nvlinks) == 0 {
		w.nvlinks = baseboards(boards)
	}
	if len(w.nodes) > 0 || len(boards) == 0 {
		return w
	}
	all := make([]int, len(boards))
	for i := range all {
		all[i] = i
	}
	var nics []string
	first := 0
	w.nics = slices.Clone(w.nics)
	for i, n := range w.nics {
		nics = append(nics, n.Name)
		w.nics[i].NUMANode = &first
	}
	if len(boards) <= 2 {
		w.nodes = []numaNode{{cluster{all, nics, topology.HostBridge}, 0, "0-31"}}
		return w
	}
	half := (len(all) + 1) / 2
	w.nodes = []numaNode{
		{cluster{all[:half], nics, topology.SameNode}, 0, "0-31,64-95"},
		{cluster{all[half:], nil, topology.SameNode}, 1, "32-63,96-127"},
	}
	return w
}

// baseboards connects all boards of each model that comes on a baseboard.
func baseboards(boards []board) []nvlinkGroup {
	var groups []nvlinkGroup
	of := make(map[string]int)
	for i, b := range boards {
		if !b.baseboard || b.nvlinks == 0 {
			continue
		}
		at, ok := of[b.product]
		if !ok {
			at = len(groups)
			of[b.product] = at
			groups = append(groups, nvlinkGroup{links: int(b.nvlinks)})
		}
		groups[at].boards = append(groups[at].boards, i)
	}
	return slices.DeleteFunc(groups, func(g nvlinkGroup) bool { return len(g.boards) < 2 })
}
