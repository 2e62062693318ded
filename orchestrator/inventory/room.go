package inventory

import (
	"cmp"
	"math"
	"slices"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// room is what is free on a node.
type room struct {
	cpuMHz, memoryMiB int64 // negative: more is held than there is
	cores             int
	allocs            int   // that are there
	free              mask  // devices that nobody holds, healthy or not
	over              []int // devices with several holders, once for each further one
	word              [1]uint64
}

// clone is a copy, in one piece for a node of up to 64 devices.
func (r *room) clone() *room {
	c := *r
	c.free, c.over = append(c.word[:0], r.free...), slices.Clone(r.over)
	return &c
}

// hold takes (sign 1) or gives back (sign -1) what s has on n.
func (n *node) hold(r *room, a *Ask, s queue.Spot, sign int) {
	members := int64(sign) * int64(s.Members)
	r.cpuMHz -= members * (a.CPUMHz + int64(a.Cores)*n.perCore)
	r.cores -= int(members) * a.Cores
	r.memoryMiB -= members * a.MemoryMiB
	r.allocs += int(members)
	for _, id := range s.Devices {
		at := slices.Index(n.devices, id)
		if at < 0 {
			continue
		}
		further := slices.Index(r.over, at)
		switch {
		case sign > 0 && r.free.has(at):
			r.free.clear(at)
		case sign > 0:
			r.over = append(r.over, at)
		case further >= 0:
			r.over = slices.Delete(r.over, further, further+1)
		default:
			r.free.set(at)
		}
	}
}

// maxFit bounds how many members are said to fit on a node.
const maxFit = math.MaxInt16

// plainFit is how many members fit by CPU, cores, memory and number.
func (n *node) plainFit(r *room, a *Ask) int {
	fit := int64(maxFit)
	if mhz := a.CPUMHz + int64(a.Cores)*n.perCore; mhz > 0 {
		fit = min(fit, r.cpuMHz/mhz)
	}
	if a.Cores > 0 {
		fit = min(fit, int64(r.cores/a.Cores))
	}
	if a.MemoryMiB > 0 {
		fit = min(fit, r.memoryMiB/a.MemoryMiB)
	}
	if n.maxAllocs > 0 {
		fit = min(fit, int64(n.maxAllocs-r.allocs))
	}
	return int(max(0, fit))
}

// usable are the free devices that nd may have, appended to m.
func (n *node) usable(r *room, nd *need, m mask) mask {
	m = append(m, r.free...)
	m.keep(n.healthy)
	if nd.picky {
		m.keep(n.allowed(nd))
	}
	return m
}

// fit is how many members fit on n, and what the first one costs others; see
// cost.
func (n *node) fit(r *room, nd *need) (members int, cost uint64) {
	if !n.eligible || nd.avoids[n.id] || !nd.classes[n.class.at].accepted {
		return 0, 0
	}
	members = n.plainFit(r, &nd.ask)
	if members == 0 {
		return 0, 0
	}
	devices := n.freeDevices(r)
	if nd.flavor == "" {
		return members, n.cost(r, nd, pick{}, devices)
	}
	var scratch [4]uint64
	free := n.usable(r, nd, scratch[:0])
	places := 0
	for _, o := range nd.offersOn(n) {
		g := &n.class.groups[o.group]
		if !o.island && !nd.within {
			places += free.both(g.all) / o.count
			continue
		}
		for _, s := range g.sets {
			if fit := free.both(s.own) / o.count; nd.within {
				places = max(places, fit)
			} else {
				places += fit
			}
		}
	}
	if members = min(members, places); members == 0 {
		return 0, 0
	}
	p, _ := n.choose(free, nd)
	return members, n.cost(r, nd, p, devices)
}

// freeDevices is how much of whole devices is free.
func (n *node) freeDevices(r *room) (sum queue.Amount) {
	for i := range n.class.groups {
		g := &n.class.groups[i]
		sum += g.charge * queue.Amount(r.free.all(g.all, n.healthy))
	}
	return sum
}

// cost is what a member at p costs others, the most important first:
//
//   - that its devices are not of one island,
//   - devices that stay free with less than half of their part of CPU or memory, so
//     that nobody can use them,
//   - that others need devices of that kind more,
//   - for devices: what stays free of the island or board, since the smallest hole
//     is best filled; without: free devices that the node has, since those that need
//     them want the rest of it too,
//   - what stays free of the node, devices first.
func (n *node) cost(r *room, nd *need, p pick, free queue.Amount) uint64 {
	a := &nd.ask
	mhz := a.CPUMHz + int64(a.Cores)*n.perCore
	left := free - nd.amount
	lost := n.stranded(left, r.cpuMHz-mhz, r.memoryMiB-a.MemoryMiB) - n.stranded(free, r.cpuMHz, r.memoryMiB)
	broken := p.left
	if nd.flavor == "" {
		broken = free
	}
	var slack int64
	if n.cpuMHz > 0 {
		slack += max(0, r.cpuMHz-mhz) * 127 / n.cpuMHz
	}
	if n.memoryMiB > 0 {
		slack += max(0, r.memoryMiB-a.MemoryMiB) * 127 / n.memoryMiB
	}
	cost := uint64(0)
	if p.apart {
		cost = 1
	}
	cost = cost<<15 | field(lost/8, 15)
	cost = cost<<8 | field(p.pressure, 8)
	cost = cost<<16 | field(broken/8, 16)
	cost = cost<<16 | field(left/8, 16)
	return cost<<8 | uint64(slack)
}

// field is a, of at most so many bits.
func field(a queue.Amount, bits int) uint64 {
	return uint64(max(0, min(a, 1<<bits-1)))
}

// stranded is how much of free devices has too little CPU or memory beside it.
func (n *node) stranded(free queue.Amount, mhz, mib int64) queue.Amount {
	served := free
	if n.halfCPU > 0 {
		served = min(served, queue.Amount(max(0, mhz)*int64(queue.One)/n.halfCPU))
	}
	if n.halfMemory > 0 {
		served = min(served, queue.Amount(max(0, mib)*int64(queue.One)/n.halfMemory))
	}
	return free - served
}

// pick is a choice of devices for a member: of a nest of a group, or of all the
// group if set is -1.
type pick struct {
	offer
	set   int
	apart bool         // they are not of one nest
	left  queue.Amount // that stays free of the nest, or of the group
	// pressure on the kind of the devices, in sixteenths of the mean.
	pressure queue.Amount
}

// choose picks where the devices of a member come from; false: there are not as
// many.
func (n *node) choose(free mask, nd *need) (best pick, ok bool) {
	better := func(p pick) {
		if !ok || comparePicks(p, best) < 0 {
			best, ok = p, true
		}
	}
	for _, o := range nd.offersOn(n) {
		g := &n.class.groups[o.group]
		if free.both(g.all) < o.count {
			continue
		}
		pressure := queue.Amount(0)
		if nd.pressure != nil {
			pressure = queue.Amount(nd.pressure[g.kind] * 16)
		}
		nested := o.island || nd.within
		whole := o.count == 1 || !g.shared || nested
		for k := range g.sets {
			if !whole || free.both(g.sets[k].own) < o.count {
				continue
			}
			better(pick{offer: o, set: k, pressure: pressure, left: n.worth(free, g.sets[k].whole) - nd.amount})
		}
		if !nested {
			better(pick{offer: o, set: -1, pressure: pressure, apart: !g.shared, left: n.worth(free, g.all) - nd.amount})
		}
	}
	return best, ok
}

// comparePicks orders picks on one node by what they cost others.
func comparePicks(p, q pick) int {
	switch {
	case p.apart != q.apart && q.apart:
		return -1
	case p.apart != q.apart:
		return 1
	}
	return cmp.Or(cmp.Compare(p.pressure, q.pressure), cmp.Compare(p.left, q.left))
}

// worth is the devices of free that are in whole, in whole ones.
func (n *node) worth(free, whole mask) (sum queue.Amount) {
	groups := n.class.groups
	if len(groups) == 1 {
		return groups[0].charge * queue.Amount(free.both(whole))
	}
	free.each(whole, func(i int) { sum += groups[n.class.of[i]].charge })
	return sum
}

// give picks the devices of so many members, one member after the other, as IDs.
// There must be room for them.
func (n *node) give(r *room, nd *need, members int) []string {
	if nd.flavor == "" {
		return nil
	}
	free := n.usable(r, nd, nil)
	if members > 1 {
		n.gather(free, nd, members)
	}
	var ids []string
	for range members {
		p, ok := n.choose(free, nd)
		if !ok {
			panic("inventory: devices that were counted are not there")
		}
		for _, at := range n.nearest(free, p) {
			free.clear(at)
			ids = append(ids, n.devices[at])
		}
	}
	return ids
}

// gather leaves of free only the nest that has room for all members and, of
// several, least beside them. If none has, it leaves all.
func (n *node) gather(free mask, nd *need, members int) {
	var best mask
	least := queue.Amount(0)
	for _, o := range nd.offersOn(n) {
		for _, s := range n.class.groups[o.group].sets {
			if free.both(s.own)/o.count < members {
				continue
			}
			if left := n.worth(free, s.whole); best == nil || left < least {
				best, least = s.own, left
			}
		}
	}
	if best != nil {
		free.keep(best)
	}
}

// nearest are the devices of p: those that are nearest to each other, but replicas
// of different devices, since two of one are no more than one.
func (n *node) nearest(free mask, p pick) []int {
	g := &n.class.groups[p.group]
	from := g.all
	if p.set >= 0 {
		from = g.sets[p.set].own
	}
	var all []int
	free.each(from, func(i int) { all = append(all, i) })
	switch {
	case p.count == len(all):
		return all
	case g.shared && p.set < 0:
		return n.spread(free, g, p.count)
	case n.class.near == nil:
		return all[:p.count]
	default:
		return n.class.near.Best(p.count, all)
	}
}

// spread takes replicas of as many devices as there are, fullest devices first.
func (n *node) spread(free mask, g *group, count int) []int {
	var chosen []int
	for round := 0; len(chosen) < count; round++ {
		type left struct{ at, free int }
		var next []left
		for k := range g.sets {
			nth := 0
			free.each(g.sets[k].own, func(i int) {
				if nth == round {
					next = append(next, left{i, free.both(g.sets[k].own)})
				}
				nth++
			})
		}
		slices.SortStableFunc(next, func(a, b left) int { return a.free - b.free })
		for _, l := range next[:min(len(next), count-len(chosen))] {
			chosen = append(chosen, l.at)
		}
	}
	slices.Sort(chosen)
	return chosen
}

// hasRoom reports whether s can be taken by a job that starts.
func (n *node) hasRoom(r *room, nd *need, s queue.Spot) bool {
	if nd.flavor == "" || len(s.Devices) == 0 {
		fit, _ := n.fit(r, nd)
		return fit >= s.Members
	}
	if !n.eligible || nd.avoids[n.id] || n.plainFit(r, &nd.ask) < s.Members {
		return false
	}
	free := n.usable(r, nd, nil)
	for _, id := range s.Devices {
		at := slices.Index(n.devices, id)
		if at < 0 || !free.has(at) {
			return false
		}
		free.clear(at)
	}
	return true
}
