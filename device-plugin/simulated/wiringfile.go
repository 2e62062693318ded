package simulated

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/internal/topology"
)

// Boards and network cards that share a PCIe switch:
//
//	switch {
//	  boards  = [0, 1]
//	  nics    = ["mlx5_0"]
//	  between = "PIX"  # or "PXB", the default: several bridges
//	}
type switchBlock struct {
	Boards  []int    `hcl:"boards,optional"`
	NICs    []string `hcl:"nics,optional"`
	Between string   `hcl:"between,optional"`
	Body    hcl.Body `hcl:",body"`
}

// Boards that reach each other over NVLink: two with a bridge, or any number
// on switches.
//
//	nvlink {
//	  boards = [0, 1, 2, 3]
//	  links  = 18          # of each board; default: all that the boards have
//	}
type nvlinkBlock struct {
	Boards []int    `hcl:"boards"`
	Links  *int     `hcl:"links,optional"`
	Body   hcl.Body `hcl:",body"`
}

// A NUMA node and what is attached to it:
//
//	numa "0" {
//	  cpus    = "0-23,48-71"
//	  boards  = [0, 1]
//	  nics    = ["mlx5_0"]
//	  between = "PHB"   # or "NODE", the default: several host bridges
//	}
type numaBlock struct {
	Node      string    `hcl:"node,label"`
	CPUs      string    `hcl:"cpus,optional"`
	Boards    []int     `hcl:"boards,optional"`
	NICs      []string  `hcl:"nics,optional"`
	Between   string    `hcl:"between,optional"`
	NodeRange hcl.Range `hcl:"node,label_range"`
	Body      hcl.Body  `hcl:",body"`
}

// A network card:
//
//	nic "mlx5_0" {
//	  netdev     = "ibp24s0"
//	  pci_bus_id = "0000:18:00.0"
//	  rdma       = true   # the default
//	}
type nicBlock struct {
	Name      string    `hcl:"name,label"`
	Netdev    string    `hcl:"netdev,optional"`
	PCIBusID  string    `hcl:"pci_bus_id,optional"`
	RDMA      *bool     `hcl:"rdma,optional"`
	NameRange hcl.Range `hcl:"name,label_range"`
}

// cpuList is how the kernel lists CPUs.
var cpuList = regexp.MustCompile(`^\d+(-\d+)?(,\d+(-\d+)?)*$`)

// maxNUMANode is the kernel's limit.
const maxNUMANode = 1023

// wiringReader reads the wiring blocks of a board file.
type wiringReader struct {
	boards []board
	nics   map[string]bool
	diags  hcl.Diagnostics
}

func (r *wiringReader) wrong(at hcl.Range, format string, args ...any) {
	r.diags = append(r.diags, problem(at, fmt.Sprintf(format, args...)))
}

func (f machineFile) wiring(boards []board) (wiring, hcl.Diagnostics) {
	r := wiringReader{boards: boards, nics: make(map[string]bool)}
	var w wiring
	for _, b := range f.NICs {
		if b.Name == "" || r.nics[b.Name] {
			r.wrong(b.NameRange, "a nic has a name of its own, not %q again", b.Name)
		}
		r.nics[b.Name] = true
		w.nics = append(w.nics, topology.NIC{Name: b.Name, Netdev: b.Netdev, PCIBusID: b.PCIBusID, RDMA: b.RDMA == nil || *b.RDMA})
	}
	for _, b := range f.Switches {
		start := b.Body.MissingItemRange()
		w.switches = append(w.switches, cluster{
			boards: r.members(b.Body, start, b.Boards), nics: r.cards(b.Body, start, b.NICs),
			kind: r.kind(b.Body, start, b.Between, topology.Bridges, topology.SameBoard),
		})
	}
	r.numa(f.NUMA, &w)
	for _, b := range f.NVLinks {
		if g, ok := r.nvlink(b); ok {
			r.overlap(b, w.nvlinks, g)
			w.nvlinks = append(w.nvlinks, g)
		}
	}
	return w, r.diags
}

// members checks board numbers.
func (r *wiringReader) members(body hcl.Body, start hcl.Range, numbers []int) []int {
	seen := make(map[int]bool)
	for _, n := range numbers {
		at := rangeOf(body, "boards", start)
		switch {
		case n < 0 || n >= len(r.boards):
			r.wrong(at, "there is no board %d; this machine has 0 to %d", n, len(r.boards)-1)
			return nil
		case seen[n]:
			r.wrong(at, "board %d is listed twice", n)
		}
		seen[n] = true
	}
	return numbers
}

func (r *wiringReader) cards(body hcl.Body, start hcl.Range, names []string) []string {
	for _, n := range names {
		if !r.nics[n] {
			r.wrong(rangeOf(body, "nics", start), "there is no nic block %q", n)
		}
	}
	return names
}

// kind is how near the members of a block are; the first is the default.
func (r *wiringReader) kind(body hcl.Body, start hcl.Range, text string, kinds ...topology.Kind) topology.Kind {
	if text == "" {
		return kinds[0]
	}
	if !slices.Contains(kinds, topology.Kind(text)) {
		r.wrong(rangeOf(body, "between", start), "between is %q; it can be %s (the default) or %s", text, kinds[0], kinds[1])
	}
	return topology.Kind(text)
}

func (r *wiringReader) numa(blocks []numaBlock, w *wiring) {
	boardAt, nicAt := make(map[int]string), make(map[string]string)
	for _, b := range blocks {
		node, err := strconv.Atoi(b.Node)
		if err != nil || node < 0 || node > maxNUMANode {
			r.wrong(b.NodeRange, "a NUMA node is a number from 0 to %d, not %q", maxNUMANode, b.Node)
		}
		if slices.ContainsFunc(w.nodes, func(n numaNode) bool { return n.node == node }) {
			r.wrong(b.NodeRange, "NUMA node %d is given twice", node)
		}
		if b.CPUs != "" && !cpuList.MatchString(b.CPUs) {
			r.wrong(rangeOf(b.Body, "cpus", b.NodeRange), "cpus is %q; it is a list such as \"0-23,48-71\"", b.CPUs)
		}
		c := cluster{
			boards: r.members(b.Body, b.NodeRange, b.Boards), nics: r.cards(b.Body, b.NodeRange, b.NICs),
			kind: r.kind(b.Body, b.NodeRange, b.Between, topology.SameNode, topology.HostBridge),
		}
		for _, n := range c.boards {
			if other, ok := boardAt[n]; ok && other != b.Node {
				r.wrong(rangeOf(b.Body, "boards", b.NodeRange), "board %d is in NUMA node %s already", n, other)
			}
			boardAt[n] = b.Node
		}
		for _, n := range c.nics {
			if other, ok := nicAt[n]; ok && other != b.Node {
				r.wrong(rangeOf(b.Body, "nics", b.NodeRange), "nic %s is in NUMA node %s already", n, other)
			}
			nicAt[n] = b.Node
			for i := range w.nics {
				if w.nics[i].Name == n {
					w.nics[i].NUMANode = &node
				}
			}
		}
		w.nodes = append(w.nodes, numaNode{cluster: c, node: node, cpus: b.CPUs})
	}
}

func (r *wiringReader) nvlink(b nvlinkBlock) (nvlinkGroup, bool) {
	before := len(r.diags)
	start := b.Body.MissingItemRange()
	boards := r.members(b.Body, start, b.Boards)
	if len(r.diags) == before && len(boards) < 2 {
		r.wrong(rangeOf(b.Body, "boards", start), "NVLink connects at least two boards")
	}
	links := 0
	for _, n := range boards {
		has := int(r.boards[n].nvlinks)
		switch {
		case has == 0:
			r.wrong(rangeOf(b.Body, "boards", start), "board %d (%s) has no NVLink; set nvlinks and nvlink_mbps in its block", n, r.boards[n].product)
			return nvlinkGroup{}, false
		case links == 0 || has < links:
			links = has
		}
	}
	if b.Links != nil {
		if *b.Links < 1 || *b.Links > links {
			r.wrong(rangeOf(b.Body, "links", start), "links is %d; these boards have 1 to %d each", *b.Links, links)
		}
		links = *b.Links
	}
	return nvlinkGroup{boards, links}, len(r.diags) == before
}

// overlap refuses a group that gives a board more links than it has.
func (r *wiringReader) overlap(b nvlinkBlock, groups []nvlinkGroup, g nvlinkGroup) {
	with := wiring{nvlinks: append(slices.Clone(groups), g)}
	var over []string
	for _, n := range g.boards {
		if with.links(n) > int(r.boards[n].nvlinks) {
			over = append(over, strconv.Itoa(n))
		}
	}
	if len(over) > 0 {
		r.wrong(rangeOf(b.Body, "boards", b.Body.MissingItemRange()), "board %s would have more NVLinks than the %d it has; set links", strings.Join(over, ", "), r.boards[g.boards[0]].nvlinks)
	}
}
