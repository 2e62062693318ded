package inventory

import (
	"cmp"
	"math"
	"slices"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// table is how many members of a need fit on each node. Like pages, neither it
// nor what it points to changes once it is in a fleet.
type table struct {
	need   *need
	pages  []*fits // nil: not yet
	total  int
	racks  []int // how many fit in each
	blocks []int
}

// fits is a page of a table.
type fits struct {
	of      *page // what it was computed from
	members [pageSize]int16
	costs   [pageSize]uint64 // of the first member; see node.cost
	most    int16            // of members
	least   uint64           // of costs where any fit; else the greatest number
}

// table is the one at a position, up to date.
func (f *Fleet) table(at int) *table {
	t := f.tables[at]
	if t.pages != nil && slices.EqualFunc(t.pages, f.pages, func(a *fits, b *page) bool { return a.of == b }) {
		return t
	}
	next := &table{need: t.need, total: t.total, pages: make([]*fits, len(f.pages)), racks: make([]int, len(f.racks)), blocks: make([]int, len(f.blocks))}
	copy(next.pages, t.pages)
	copy(next.racks, t.racks)
	copy(next.blocks, t.blocks)
	for i, p := range f.pages {
		if old := next.pages[i]; old == nil || old.of != p {
			next.pages[i] = f.newFits(next, old, i)
		}
	}
	f.tables[at] = next
	return next
}

// newFits computes page i of t for the nodes that changed since old.
func (f *Fleet) newFits(t *table, old *fits, i int) *fits {
	p := &fits{of: f.pages[i], least: math.MaxUint64}
	for k, r := range p.of.rooms {
		if r == nil {
			break // behind the last node
		}
		n := &f.nodes[i*pageSize+k]
		if old != nil && old.of.rooms[k] == r {
			p.members[k], p.costs[k] = old.members[k], old.costs[k]
		} else {
			members, cost := n.fit(r, t.need)
			change := members
			if old != nil {
				change -= int(old.members[k])
			}
			p.members[k], p.costs[k] = int16(members), cost
			t.total += change
			t.racks[n.inRack] += change
			t.blocks[n.inBlock] += change
		}
		if p.members[k] > 0 {
			p.most = max(p.most, p.members[k])
			p.least = min(p.least, p.costs[k])
		}
	}
	return p
}

// Find is as [queue.Places] says.
func (f *Fleet) Find(j *queue.Job, option, most int) (queue.Place, int) {
	at, ok := f.need(j, option)
	if !ok || most < 1 {
		return nil, 0
	}
	t := f.table(at)
	var chosen []share
	if most = min(most, t.total); most > 0 {
		chosen = f.domain(t, most)
	}
	place, found := make(queue.Place, 0, len(chosen)), 0
	for _, c := range chosen {
		n := &f.nodes[c.node]
		place = append(place, queue.Spot{Node: n.id, Members: c.members, Devices: n.give(f.room(c.node), t.need, c.members)})
		found += c.members
	}
	if found == 0 {
		return nil, 0
	}
	return place, found
}

// share is members on a node.
type share struct{ node, members int }

// domain picks where members go that fit in the fleet: the smallest domain with
// room for all, of those the one with least room. If a level is required and no
// domain up to it has, it is the one with room for most.
func (f *Fleet) domain(t *table, members int) []share {
	limit := Level("")
	if required := t.need.ask.Topology; required.Required {
		limit = required.Level
	}
	if n, ok := t.host(0, len(f.nodes), members); ok {
		return []share{{n, members}}
	}
	roomiest := t.roomiest(len(f.nodes))
	most := t.members(roomiest)
	largest := []share{{roomiest, most}}
	if limit == Island || limit == Host {
		return largest
	}
	for _, level := range []struct {
		Level
		domains []domain
		room    []int
	}{{Rack, f.racks, t.racks}, {Block, f.blocks, t.blocks}} {
		at, larger := -1, -1
		for i, d := range level.domains {
			switch room := level.room[i]; {
			case d.name == "":
			case room >= members && (at < 0 || room < level.room[at]):
				at = i
			case room > most:
				larger, most = i, room
			}
		}
		switch {
		case at >= 0:
			return f.fill(t, level.Level, level.domains[at], members)
		case limit == "":
			continue
		case larger >= 0:
			largest = f.fill(t, level.Level, level.domains[larger], most)
		}
		if limit == level.Level {
			return largest
		}
	}
	return f.fill(t, "", domain{to: len(f.nodes), racks: [2]int{0, len(f.blocks)}}, members)
}

// fill puts members, for which there is room, into as few domains of d as it can:
// the roomiest are filled, and the rest goes where it leaves least.
func (f *Fleet) fill(t *table, level Level, d domain, members int) (chosen []share) {
	if level == Rack {
		return t.hosts(d.from, d.to, members)
	}
	inner, domains, room := Rack, f.racks[d.racks[0]:d.racks[1]], t.racks[d.racks[0]:d.racks[1]]
	if level == "" {
		inner, domains, room = Block, f.blocks, t.blocks
	}
	used := make([]bool, len(domains))
	for members > 0 {
		at := -1
		for i, n := range room {
			switch {
			case used[i] || n == 0:
			case at < 0,
				n >= members && (room[at] < members || n < room[at]),
				n < members && n > room[at]:
				at = i
			}
		}
		used[at] = true
		n := min(members, room[at])
		chosen = append(chosen, f.fill(t, inner, domains[at], n)...)
		members -= n
	}
	return chosen
}

func (t *table) members(node int) int { return int(t.pages[node/pageSize].members[node%pageSize]) }
func (t *table) cost(node int) uint64 { return t.pages[node/pageSize].costs[node%pageSize] }

// host is the node of a row with room for all members, where they cost least;
// false: there is none.
func (t *table) host(from, to, members int) (best int, ok bool) {
	for at := from; at < to; {
		p := t.pages[at/pageSize]
		end := min(to, (at/pageSize+1)*pageSize)
		if int(p.most) < members || ok && members == 1 && p.least >= t.cost(best) {
			at = end
			continue
		}
		for ; at < end; at++ {
			if fit := t.members(at); fit >= members && (!ok || t.compareHosts(members, at, best) < 0) {
				best, ok = at, true
			}
		}
	}
	return best, ok
}

// compareHosts orders nodes with room for all members: by what the first costs
// and, for several, by the room that is left.
func (t *table) compareHosts(members, a, b int) int {
	if members == 1 {
		return cmp.Compare(t.cost(a), t.cost(b))
	}
	return cmp.Or(cmp.Compare(t.members(a), t.members(b)), cmp.Compare(t.cost(a), t.cost(b)))
}

// roomiest is the node with room for most members.
func (t *table) roomiest(nodes int) (best int) {
	for i, p := range t.pages {
		if int(p.most) <= t.members(best) {
			continue
		}
		for k := range min(pageSize, nodes-i*pageSize) {
			if at := i*pageSize + k; t.members(at) > t.members(best) {
				best = at
			}
		}
	}
	return best
}

// hosts puts members, for which there is room, on as few nodes of a row as it can:
// the roomiest ones, of equals where they cost least, and what is left over where
// it leaves least room.
func (t *table) hosts(from, to, members int) (chosen []share) {
	// Room is told in few different numbers: count the nodes of each.
	count := map[int]int{}
	for at := from; at < to; at++ {
		if fit := t.members(at); fit > 0 {
			count[fit]++
		}
	}
	sizes := slices.SortedFunc(func(yield func(int) bool) {
		for fit := range count {
			if !yield(fit) {
				return
			}
		}
	}, func(a, b int) int { return b - a })
	used := map[int]bool{}
	for _, fit := range sizes {
		n := min(count[fit], members/fit)
		for _, at := range t.cheapest(from, to, fit, n) {
			chosen = append(chosen, share{at, fit})
			used[at] = true
		}
		if members -= n * fit; n < count[fit] {
			break // what is left fits on one node
		}
	}
	if members == 0 {
		return chosen
	}
	last := -1
	for at := from; at < to; at++ {
		if !used[at] && t.members(at) >= members && (last < 0 || t.compareHosts(members, at, last) < 0) {
			last = at
		}
	}
	return append(chosen, share{last, members})
}

// cheapest are the n nodes of a row with room for just so many members where the
// first costs least.
func (t *table) cheapest(from, to, fit, n int) []int {
	var best []int // by cost
	if n == 0 {
		return nil
	}
	for at := from; at < to; at++ {
		if t.members(at) != fit || len(best) == n && t.cost(at) >= t.cost(best[n-1]) {
			continue
		}
		i, _ := slices.BinarySearchFunc(best, t.cost(at), func(b int, cost uint64) int {
			if t.cost(b) <= cost {
				return -1 // behind its equals
			}
			return 1
		})
		if best = slices.Insert(best, i, at); len(best) > n {
			best = best[:n]
		}
	}
	return best
}
