package inventory

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/devicematch"
	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// node is what a node has.
type node struct {
	id          queue.NodeID
	name        string
	unread      string // see Node.Unread
	class       *class
	eligible    bool
	cpuMHz      int64
	memoryMiB   int64
	cores       int
	maxAllocs   int      // 0: any number
	perCore     int64    // MHz
	devices     []string // IDs, group by group
	healthy     mask
	empty       *room // when nothing is held
	rack, block string
	inRack      int
	inBlock     int
	// halfCPU and halfMemory are half of a whole device's part of the node's CPU and
	// memory: with less, a device is of no use. 0: the node has no devices.
	halfCPU, halfMemory int64
}

// class is what nodes of the same make have in common, and what placement decides
// by, besides amounts.
type class struct {
	at               int // among the estate's classes
	pool, datacenter string
	drivers          []string
	groups           []group
	of               []int // the group of each device
	near             topology.Nearness
	devices          queue.Amount // all of them, in whole ones
	problems         []string
}

// group is a device group of a class.
type group struct {
	name     string // vendor/type/name
	match    devicematch.Group
	memory   int64 // MiB; 0: unknown
	flavor   queue.Flavor
	charge   queue.Amount
	from, to int  // its devices
	all      mask // likewise
	shared   bool // replicas
	kind     int  // among the estate's kinds
	sets     []nest
}

// nest is devices of a group that are one to whoever needs several: an NVLink
// island, or the slices or replicas of a board. whole has the devices of other
// groups there too.
type nest struct{ own, whole mask }

// newNode is n; classes that are alike are one.
func (e *estate) newNode(n *Node, flavors []Flavor, known map[string]*class) (node, error) {
	switch {
	case n.CPUMHz < 0 || n.CPUMHz > maxAmount:
		return node{}, fmt.Errorf("CPU of %d MHz is out of range", n.CPUMHz)
	case n.MemoryMiB < 0 || n.MemoryMiB > maxAmount:
		return node{}, fmt.Errorf("memory of %d MiB is out of range", n.MemoryMiB)
	case n.Cores < 0:
		return node{}, fmt.Errorf("%d cores", n.Cores)
	}
	r := node{
		id: n.ID, name: n.Name, eligible: n.Eligible, cpuMHz: n.CPUMHz, memoryMiB: n.MemoryMiB, cores: n.Cores, maxAllocs: n.MaxAllocs,
		unread: n.Unread, rack: named(n.Meta, "rack"), block: named(n.Meta, "block"),
	}
	if n.Cores > 0 {
		r.perCore = n.CPUMHz / int64(n.Cores)
	}
	for _, g := range n.Groups {
		for _, i := range g.Instances {
			r.devices = append(r.devices, i.ID)
		}
	}
	if len(r.devices) > MaxDevices {
		return node{}, fmt.Errorf("%d devices; a node has at most %d", len(r.devices), MaxDevices)
	}
	r.healthy = newMask(len(r.devices))
	at := 0
	for _, g := range n.Groups {
		for _, i := range g.Instances {
			if i.Healthy {
				r.healthy.set(at)
			}
			at++
		}
	}
	r.empty = r.newRoom()
	places := placesOf(n)
	var key signature
	key.node(n, places)
	c := known[string(key)]
	if c == nil {
		c = newClass(n, places, flavors)
		c.at = len(e.classes)
		e.classes = append(e.classes, c)
		for i := range c.groups {
			c.groups[i].kind = e.kind(&c.groups[i])
		}
		known[string(key)] = c
	}
	r.class = c
	if c.devices > 0 {
		r.halfCPU = n.CPUMHz * int64(queue.One) / int64(c.devices) / 2
		r.halfMemory = n.MemoryMiB * int64(queue.One) / int64(c.devices) / 2
	}
	return r, nil
}

// kind is the position of g's kind of device: of one name and price. Devices of a
// kind may differ in other ways; those are too many to tell apart.
func (e *estate) kind(g *group) int {
	k := kind{g.name, g.charge}
	at := slices.Index(e.kinds, k)
	if at < 0 {
		at = len(e.kinds)
		e.kinds = append(e.kinds, k)
	}
	return at
}

func named(meta map[string]string, level string) string {
	if name := meta["drover."+level]; name != "" {
		return name
	}
	return meta[level]
}

// newRoom is the room of the node when nothing is held.
func (n *node) newRoom() *room {
	r := &room{cpuMHz: n.cpuMHz, memoryMiB: n.memoryMiB, cores: n.cores, free: newMask(len(n.devices))}
	for i := range n.devices {
		r.free.set(i)
	}
	return r
}

// place is where a device is: its board by position in the wiring, and its island;
// -1: unknown, or in none. Boards from -2 down are shared ones that the wiring does
// not have.
type place struct{ board, island int }

// placesOf are the places of n's devices, in order.
func placesOf(n *Node) []place {
	boards, islands := map[string]int{}, map[string]int{}
	if w := n.Wiring; w != nil {
		for i, b := range w.Boards {
			boards[b.ID] = i
			if b.Island != nil {
				islands[b.ID] = *b.Island
			}
		}
		for _, s := range w.Slices {
			boards[s.ID] = s.Board
		}
	}
	var places []place
	for _, g := range n.Groups {
		for _, d := range g.Instances {
			p := place{-1, -1}
			hardware, _, shared := strings.Cut(d.ID, replicaMark)
			if b, ok := boards[hardware]; ok {
				p.board = b
			} else if shared {
				p.board = -2 - len(boards)
				boards[hardware] = p.board
			}
			if island, ok := islands[hardware]; ok {
				p.island = island
			}
			places = append(places, p)
		}
	}
	return places
}

// signature collects what tells classes apart. Texts are led by their length, so
// that no two lists of them are the same.
type signature []byte

func (s *signature) text(t string) {
	s.number(int64(len(t)))
	*s = append(*s, t...)
}

func (s *signature) number(n int64) { *s = binary.AppendVarint(*s, n) }

// attribute writes a value by its kind, so that 1 and "1" are two.
func (s *signature) attribute(a *api.Attribute) {
	switch {
	case a == nil:
		s.text("none")
		return
	case a.IntVal != nil:
		s.text("int")
		s.number(*a.IntVal)
	case a.FloatVal != nil:
		s.text("float")
		s.number(int64(math.Float64bits(*a.FloatVal)))
	case a.BoolVal != nil && *a.BoolVal:
		s.text("true")
	case a.BoolVal != nil:
		s.text("false")
	case a.StringVal != nil:
		s.text("string")
		s.text(*a.StringVal)
	default:
		s.text("empty")
	}
	s.text(a.Unit)
}

// node writes what placement goes by of n. Of the wiring that is not the text,
// which is different on every node.
func (s *signature) node(n *Node, places []place) {
	s.text(n.Pool)
	s.text(n.Datacenter)
	s.number(int64(len(n.Drivers)))
	for _, d := range n.Drivers {
		s.text(d)
	}
	for _, p := range places {
		s.number(int64(p.board))
		s.number(int64(p.island))
	}
	s.number(int64(len(n.Groups)))
	for i := range n.Groups {
		g := &n.Groups[i]
		s.text(g.Vendor)
		s.text(g.Type)
		s.text(g.Name)
		s.number(int64(len(g.Instances)))
		s.number(int64(g.replicas()))
		s.number(int64(len(g.Attributes)))
		for _, k := range slices.Sorted(maps.Keys(g.Attributes)) {
			s.text(k)
			if k != topologyAttribute {
				s.attribute(g.Attributes[k])
			}
		}
	}
	if n.Wiring == nil {
		return
	}
	for _, row := range n.Wiring.Links {
		s.text(row)
	}
	for _, board := range n.Wiring.Boards {
		numa := -1
		if board.NUMANode != nil {
			numa = *board.NUMANode
		}
		s.number(int64(numa))
	}
}

func newClass(n *Node, places []place, flavors []Flavor) *class {
	c := &class{pool: n.Pool, datacenter: n.Datacenter, drivers: n.Drivers}
	wholes := map[place]mask{} // devices of a board, or of an island
	at := 0
	for i := range n.Groups {
		g := &n.Groups[i]
		amount, err := charge(g)
		if err != nil {
			c.problems = append(c.problems, fmt.Sprintf("device group %s is charged as whole devices: %v", g.ID(), err))
		}
		made := group{
			name: g.ID(), match: g.described(), flavor: flavorOf(g, flavors), charge: amount,
			from: at, to: at + len(g.Instances), all: newMask(len(places)), shared: g.replicas() > 1,
		}
		made.match.IDs = nil // they are of the node, not of the class
		made.memory, _ = g.memoryMiB()
		_, profile := product(g.Name)
		nests := map[place]int{}
		for ; at < made.to; at++ {
			made.all.set(at)
			c.of = append(c.of, i)
			p := places[at]
			switch {
			case made.shared || profile != "":
				p.island = -1 // a board's own
			case p.island >= 0:
				p.board = -1 // an island's own
			}
			if p == (place{-1, -1}) {
				p.board = math.MinInt + at // nobody is known to be near
			}
			if wholes[p] == nil {
				wholes[p] = newMask(len(places))
			}
			wholes[p].set(at)
			k, ok := nests[p]
			if !ok {
				k = len(made.sets)
				nests[p] = k
				made.sets = append(made.sets, nest{newMask(len(places)), wholes[p]})
			}
			made.sets[k].own.set(at)
		}
		c.devices += made.charge * queue.Amount(made.to-made.from)
		c.groups = append(c.groups, made)
	}
	c.near = nearness(n.Wiring, places)
	return c
}

func flavorOf(g *Group, flavors []Flavor) queue.Flavor {
	for _, f := range flavors {
		if f.matches(g) {
			return f.Name
		}
	}
	return defaultFlavor(g)
}

// nearness is that of devices, which is their boards'. It is nil if nothing is
// known.
func nearness(w *topology.Published, places []place) topology.Nearness {
	if w == nil {
		return nil
	}
	g := w.Graph()
	var ids []string
	for _, b := range w.Boards {
		ids = append(ids, b.ID)
	}
	boards := g.Nearness(ids)
	near := make(topology.Nearness, len(places))
	for i, p := range places {
		near[i] = make([]int, len(places))
		for j, q := range places {
			switch {
			case p.board < 0 || q.board < 0 || i == j:
			case p.board == q.board:
				near[i][j] = math.MaxInt32 // the same board
			default:
				near[i][j] = boards[p.board][q.board]
			}
		}
	}
	return near
}
