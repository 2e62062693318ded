package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// MaxDevices is how many devices a node can have: 64 boards of 48 replicas.
const MaxDevices = 64 * 48

// Fleet is nodes and what is free of them. It is not safe for concurrent use, but
// clones are independent.
type Fleet struct {
	*estate
	pages []*page
	// needs are the positions of tables; both grow as asks of new kinds come, and the
	// map is replaced then, so that clones can share it.
	needs  map[needKey]int
	tables []*table
}

// estate is what never changes, and is shared by clones.
type estate struct {
	nodes   []node // by block, rack and ID: a domain is a row of them
	index   map[queue.NodeID]int
	classes []*class
	blocks  []domain
	racks   []domain
	mhz     int64 // of the fastest core
	kinds   []kind
	// pressure on each kind is what is expected to be asked for of it, over what
	// there is; nil: nothing is expected.
	pressure []float64
}

// kind is devices of one name that are charged alike.
type kind struct {
	name   string
	charge queue.Amount
}

// domain is a rack or block. One without a name is of nodes that name none.
type domain struct {
	name     string
	from, to int // nodes; of a block also racks, see racks
	racks    [2]int
}

// pageSize is how many nodes are kept together.
const pageSize = 64

// page is what is free on some nodes in a row. Neither it nor what it points to
// changes: a change makes a new page.
type page struct{ rooms [pageSize]*room }

// New is a fleet on which nothing is held. Of several flavors that a device group
// matches the first counts; a group that matches none gets one of its own, after
// vendor and model. It refuses nodes and flavors that make no sense.
func New(nodes []Node, flavors []Flavor) (*Fleet, error) {
	for _, f := range flavors {
		if err := f.Check(); err != nil {
			return nil, err
		}
	}
	e := &estate{nodes: make([]node, len(nodes)), index: make(map[queue.NodeID]int, len(nodes))}
	known := map[string]*class{}
	for i := range nodes {
		n, err := e.newNode(&nodes[i], flavors, known)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", cmp.Or(nodes[i].Name, string(nodes[i].ID)), err)
		}
		e.nodes[i] = n
		if nodes[i].Cores > 0 {
			e.mhz = max(e.mhz, n.perCore)
		}
	}
	slices.SortFunc(e.nodes, func(a, b node) int {
		return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.rack, b.rack), cmp.Compare(a.id, b.id))
	})
	f := &Fleet{estate: e, needs: map[needKey]int{}}
	for i := range e.nodes {
		n := &e.nodes[i]
		if _, twice := e.index[n.id]; twice || n.id == "" {
			return nil, fmt.Errorf("node %q: IDs are not empty, and used once", n.id)
		}
		e.index[n.id] = i
		if i%pageSize == 0 {
			f.pages = append(f.pages, &page{})
		}
		f.pages[i/pageSize].rooms[i%pageSize] = n.empty
	}
	e.divide()
	return f, nil
}

// divide finds the domains of the sorted nodes.
func (e *estate) divide() {
	for i := range e.nodes {
		n := &e.nodes[i]
		newBlock := i == 0 || n.block != e.nodes[i-1].block
		if newBlock {
			e.blocks = append(e.blocks, domain{name: n.block, from: i, racks: [2]int{len(e.racks), 0}})
		}
		if newBlock || n.rack != e.nodes[i-1].rack {
			e.racks = append(e.racks, domain{name: n.rack, from: i})
		}
		e.racks[len(e.racks)-1].to = i + 1
		block := &e.blocks[len(e.blocks)-1]
		block.to, block.racks[1] = i+1, len(e.racks)
		n.inRack, n.inBlock = len(e.racks)-1, len(e.blocks)-1
	}
}

func (f *Fleet) room(i int) *room { return f.pages[i/pageSize].rooms[i%pageSize] }

// Clone is as [queue.Places] says. It costs a few microseconds for ten thousand
// nodes.
func (f *Fleet) Clone() queue.Places {
	return &Fleet{estate: f.estate, pages: slices.Clone(f.pages), needs: f.needs, tables: slices.Clone(f.tables)}
}

// Take is as [queue.Places] says: the devices that p names, and CPU and memory as
// j's shape says. What is not there is not taken.
func (f *Fleet) Take(j *queue.Job, option int, p queue.Place) { f.change(j, option, p, 1) }

// Release is as [queue.Places] says.
func (f *Fleet) Release(j *queue.Job, option int, p queue.Place) { f.change(j, option, p, -1) }

func (f *Fleet) change(j *queue.Job, option int, p queue.Place, sign int) {
	at, _ := f.need(j, option)
	ask := &f.needOf(at).ask
	var fresh *page // made here, and seen by nobody yet
	for _, s := range p {
		i, ok := f.index[s.Node]
		if !ok {
			continue
		}
		if old := f.pages[i/pageSize]; old != fresh {
			fresh = &page{old.rooms}
			f.pages[i/pageSize] = fresh
		}
		r := f.room(i).clone()
		f.nodes[i].hold(r, ask, s, sign)
		fresh.rooms[i%pageSize] = r
	}
}

// Free is as [queue.Places] says.
func (f *Fleet) Free(j *queue.Job, option int, p queue.Place) bool {
	at, ok := f.need(j, option)
	if !ok {
		return false
	}
	nd := f.needOf(at)
	for _, s := range p {
		i, ok := f.index[s.Node]
		if !ok || !f.nodes[i].hasRoom(f.room(i), nd, s) {
			return false
		}
	}
	return true
}

// Flavors are those of the devices of the fleet, cpu and memory, sorted, with how
// much there is of each when nothing is held, on nodes that take new work or not.
func (f *Fleet) Flavors() queue.Resources {
	sum := queue.Resources{CPU: 0, Memory: 0}
	for i := range f.nodes {
		n := &f.nodes[i]
		sum[CPU] += mhzAmount(n.cpuMHz)
		sum[Memory] += mibAmount(n.memoryMiB)
		for _, g := range n.class.groups {
			sum[g.flavor] += g.charge * queue.Amount(g.to-g.from)
		}
	}
	return sum
}

// Problems are what nodes tell that could not be understood, and what was taken
// for it instead.
func (f *Fleet) Problems() []string {
	var all []string
	for i := range f.nodes {
		n := &f.nodes[i]
		for _, p := range n.class.problems {
			all = append(all, fmt.Sprintf("node %s: %s", cmp.Or(n.name, string(n.id)), p))
		}
		if n.unread != "" {
			all = append(all, fmt.Sprintf("node %s: GPUs are placed without regard to how they are connected: %s", cmp.Or(n.name, string(n.id)), n.unread))
		}
	}
	return all
}

func mhzAmount(mhz int64) queue.Amount { return queue.Amount(mhz) } // one is 1000 MHz
func mibAmount(mib int64) queue.Amount { return partOf(queue.Amount(mib)*queue.One, 1024) }

// GroupOf is the group of a device, vendor/type/name; false: the node has no such
// device.
func (f *Fleet) GroupOf(node queue.NodeID, device string) (string, bool) {
	i, ok := f.index[node]
	if !ok {
		return "", false
	}
	n := &f.nodes[i]
	at := slices.Index(n.devices, device)
	if at < 0 {
		return "", false
	}
	g := n.class.groups[n.class.of[at]]
	return g.name, true
}

// Foreign is an allocation that Drover did not submit, as a running job that holds
// exactly what the allocation does. Queue and times are left to the caller.
func (f *Fleet) Foreign(a Alloc) queue.Running {
	ask := Ask{CPUMHz: min(a.CPUMHz, maxAmount), MemoryMiB: min(a.MemoryMiB, maxAmount)}
	each := ask.plain(0)
	spot := queue.Spot{Node: a.NodeID, Members: 1}
	i, known := f.index[a.NodeID]
	if known && a.Cores > 0 { // their part of the CPU is in CPUMHz
		ask.Cores = min(a.Cores, maxCores)
		ask.CPUMHz = max(0, ask.CPUMHz-int64(ask.Cores)*f.nodes[i].perCore)
	}
	for _, d := range a.Devices {
		spot.Devices = append(spot.Devices, d.IDs...)
		if !known {
			continue
		}
		for _, g := range f.nodes[i].class.groups {
			if g.name == d.Vendor+"/"+d.Type+"/"+d.Name {
				each[g.flavor] += g.charge * queue.Amount(len(d.IDs))
			}
		}
	}
	maps.DeleteFunc(each, func(_ queue.Flavor, amount queue.Amount) bool { return amount == 0 })
	return queue.Running{
		Job: queue.Job{ID: queue.JobID(a.ID), Foreign: true, Each: each, Min: 1, Max: 1, Shape: ask.Shape()},
		Run: queue.Run{Members: 1, Place: queue.Place{spot}},
	}
}
