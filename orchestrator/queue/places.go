package queue

import (
	"cmp"
	"maps"
	"slices"
)

// NodeID names a node of the cluster.
type NodeID string

// Place is where the members of a job are.
type Place []Spot

// Spot is members on a node.
type Spot struct {
	Node    NodeID
	Members int
	// Devices are the IDs of the devices that the members got, one member after the
	// other. Only Places reads them.
	Devices []string
}

// Places says where jobs find room. Its answers depend on nothing but what it was
// given and what was taken and released since, in whatever order.
type Places interface {
	// Find is a place for as many members of j as there is room for, at most most,
	// and how many they are. It takes nothing. Option is as [Job.Option] counts.
	Find(j *Job, option, most int) (Place, int)
	// Free reports whether p has room for j.
	Free(j *Job, option int, p Place) bool
	// Take and Release are each other's opposite. They never refuse: what holds a
	// place holds it, though its node be gone or overfull.
	Take(j *Job, option int, p Place)
	Release(j *Job, option int, p Place)
	// Clone is a copy that goes its own way.
	Clone() Places
}

// Anywhere is room without end: quotas alone decide.
type Anywhere struct{}

// Find says yes.
func (Anywhere) Find(_ *Job, _, most int) (Place, int) { return nil, most }

// Free says yes.
func (Anywhere) Free(*Job, int, Place) bool { return true }

// Take does nothing.
func (Anywhere) Take(*Job, int, Place) {}

// Release does nothing.
func (Anywhere) Release(*Job, int, Place) {}

// Clone is the same.
func (a Anywhere) Clone() Places { return a }

// Counting gives room by counting: a member needs its amount of one flavor on one
// node, and goes to the fullest node that has it. Flavors that no node has are not
// counted; jobs that need two that nodes have find no room.
type Counting struct{ pools map[Flavor]*pool }

// pool is the nodes of a flavor, by what they have free.
type pool struct {
	ids     []NodeID       // sorted, shared between clones
	index   map[NodeID]int // shared between clones
	free    []Amount
	classes []class // by free, ascending
}

type class struct {
	free  Amount
	nodes []int32 // ascending, so that the choice does not depend on the past
}

// NewCounting has nodes with what is free on each while no job runs.
func NewCounting(nodes map[NodeID]Resources) *Counting {
	c := &Counting{pools: map[Flavor]*pool{}}
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		for f, a := range nodes[id] {
			p := c.pools[f]
			if p == nil {
				p = &pool{index: map[NodeID]int{}}
				c.pools[f] = p
			}
			p.index[id] = len(p.ids)
			p.ids = append(p.ids, id)
			p.free = append(p.free, a)
		}
	}
	for _, p := range c.pools {
		for i, a := range p.free {
			p.enter(int32(i), a)
		}
	}
	return c
}

// Find is as [Places] says.
func (c *Counting) Find(j *Job, option, most int) (Place, int) {
	p, each := c.poolOf(j, option)
	if p == nil {
		if each < 0 {
			return nil, 0
		}
		return nil, most
	}
	i, _ := slices.BinarySearchFunc(p.classes, each, func(c class, a Amount) int { return cmp.Compare(c.free, a) })
	var place Place
	found := 0
	for ; i < len(p.classes) && found < most; i++ {
		per := int(p.classes[i].free / each)
		for _, n := range p.classes[i].nodes {
			m := min(per, most-found)
			place = append(place, Spot{Node: p.ids[n], Members: m})
			if found += m; found == most {
				break
			}
		}
	}
	return place, found
}

// poolOf is the pool that j needs, and how much a member does. Nil: none, and -1
// if there would be two.
func (c *Counting) poolOf(j *Job, option int) (*pool, Amount) {
	var found *pool
	var each Amount
	for f, a := range j.Option(option) {
		if p := c.pools[f]; p != nil && a > 0 {
			if found != nil {
				return nil, -1
			}
			found, each = p, a
		}
	}
	return found, each
}

// Free is as [Places] says.
func (c *Counting) Free(j *Job, option int, place Place) bool {
	p, each := c.poolOf(j, option)
	if p == nil {
		return true
	}
	for _, s := range place {
		if i, ok := p.index[s.Node]; !ok || p.free[i] < each*Amount(s.Members) {
			return false
		}
	}
	return true
}

// Take is as [Places] says.
func (c *Counting) Take(j *Job, option int, place Place) { c.change(j, option, place, -1) }

// Release is as [Places] says.
func (c *Counting) Release(j *Job, option int, place Place) { c.change(j, option, place, 1) }

func (c *Counting) change(j *Job, option int, place Place, sign Amount) {
	p, each := c.poolOf(j, option)
	if p == nil {
		return
	}
	for _, s := range place {
		if i, ok := p.index[s.Node]; ok {
			p.leave(int32(i), p.free[i])
			p.free[i] += sign * each * Amount(s.Members)
			p.enter(int32(i), p.free[i])
		}
	}
}

func (p *pool) class(a Amount) (int, bool) {
	return slices.BinarySearchFunc(p.classes, a, func(c class, a Amount) int { return cmp.Compare(c.free, a) })
}

func (p *pool) enter(n int32, a Amount) {
	i, ok := p.class(a)
	if !ok {
		p.classes = slices.Insert(p.classes, i, class{free: a})
	}
	at, _ := slices.BinarySearch(p.classes[i].nodes, n)
	p.classes[i].nodes = slices.Insert(p.classes[i].nodes, at, n)
}

func (p *pool) leave(n int32, a Amount) {
	i, _ := p.class(a)
	at, _ := slices.BinarySearch(p.classes[i].nodes, n)
	p.classes[i].nodes = slices.Delete(p.classes[i].nodes, at, at+1)
	if len(p.classes[i].nodes) == 0 {
		p.classes = slices.Delete(p.classes, i, i+1)
	}
}

// Clone is as [Places] says.
func (c *Counting) Clone() Places {
	d := &Counting{pools: make(map[Flavor]*pool, len(c.pools))}
	for f, p := range c.pools {
		q := &pool{ids: p.ids, index: p.index, free: slices.Clone(p.free), classes: slices.Clone(p.classes)}
		for i := range q.classes {
			q.classes[i].nodes = slices.Clone(q.classes[i].nodes)
		}
		d.pools[f] = q
	}
	return d
}
