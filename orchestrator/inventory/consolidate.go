package inventory

import (
	"cmp"
	"slices"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Consolidation is moves that let a job start.
type Consolidation struct {
	Place queue.Place  // of the job
	Moves []queue.Move // each has room once all have left, and the job has come
	Lost  float64
}

// Bounds of the search.
const (
	fewMovable = 12  // up to so many, all ways are tried
	fewTenants = 6   // likewise, of those on one node
	maxTries   = 256 // of whole plans
)

// Consolidate finds moves of movable jobs that let so many members of j start
// now, losing the least work. ok is false if it finds none; then, and if j has
// room anyway, there are no moves. f is not changed.
//
// Up to a dozen movable jobs it tries all sets of them. Of more it tries those
// that free a node, cheapest first, and those that two greedy searches find in the
// fleet, and in the racks and blocks that have most room now; of each without the
// jobs that turn out not to be needed. Jobs that move find their places one after
// the other, the largest first.
func Consolidate(f *Fleet, movable []queue.Movable, j *queue.Job, option, members int) (best Consolidation, ok bool) {
	s := &consolidation{fleet: f.Clone().(*Fleet), movable: movable, job: j, option: option, members: members}
	if c, ok := s.try(nil); ok {
		return c, true
	}
	if len(movable) <= fewMovable {
		return s.all()
	}
	sets := s.nodeSets()
	sets = append(sets, s.greedySets()...)
	slices.SortStableFunc(sets, func(a, b []int) int { return cmp.Compare(s.lost(a), s.lost(b)) })
	for _, set := range sets[:min(len(sets), maxTries)] {
		if ok && s.lost(set) >= best.Lost {
			break
		}
		if c, done := s.try(set); done {
			c = s.spare(set, c)
			if !ok || c.Lost < best.Lost {
				best, ok = c, true
			}
		}
	}
	return best, ok
}

// Moves is [Consolidate], as [queue.Mover] says.
func (f *Fleet) Moves(movable []queue.Movable, j *queue.Job, option, members int) (queue.Place, []queue.Move, bool) {
	c, ok := Consolidate(f, movable, j, option, members)
	return c.Place, c.Moves, ok
}

// consolidation is a search for moves. Sets are positions in movable.
type consolidation struct {
	fleet   *Fleet
	movable []queue.Movable
	job     *queue.Job
	option  int
	members int
}

func (s *consolidation) lost(set []int) (sum float64) {
	for _, i := range set {
		sum += s.movable[i].Lost
	}
	return sum
}

// try is the plan in which just set moves; false: there is no room for all.
func (s *consolidation) try(set []int) (c Consolidation, ok bool) {
	f := s.fleet.Clone().(*Fleet)
	for _, i := range set {
		m := &s.movable[i]
		f.Release(&m.Job, m.Run.Option, m.Run.Place)
	}
	place, n := f.Find(s.job, s.option, s.members)
	if n < s.members {
		s.learn(f)
		return c, false
	}
	f.Take(s.job, s.option, place)
	c = Consolidation{Place: place, Lost: s.lost(set)}
	for _, i := range slices.SortedStableFunc(slices.Values(set), func(a, b int) int { return s.size(b) - s.size(a) }) {
		m := &s.movable[i]
		to, n := f.Find(&m.Job, m.Run.Option, m.Run.Members)
		if n < m.Run.Members {
			s.learn(f)
			return Consolidation{}, false
		}
		f.Take(&m.Job, m.Run.Option, to)
		c.Moves = append(c.Moves, queue.Move{Job: m.ID, To: to})
	}
	return c, true
}

// learn keeps the tables of a clone, so that the next one need not make them.
func (s *consolidation) learn(f *Fleet) { s.fleet.needs, s.fleet.tables = f.needs, f.tables }

// size is how many devices a job has on its fullest node, then how many in all.
func (s *consolidation) size(i int) int {
	most, all := 0, 0
	for _, spot := range s.movable[i].Run.Place {
		most = max(most, len(spot.Devices)/max(1, spot.Members))
		all += len(spot.Devices)
	}
	return most<<16 + min(all, 1<<16-1)
}

// all tries all sets.
func (s *consolidation) all() (best Consolidation, ok bool) {
	var sets [][]int
	for bits := 1; bits < 1<<len(s.movable); bits++ {
		var set []int
		for i := range s.movable {
			if bits>>i&1 != 0 {
				set = append(set, i)
			}
		}
		sets = append(sets, set)
	}
	slices.SortStableFunc(sets, func(a, b []int) int {
		return cmp.Or(cmp.Compare(s.lost(a), s.lost(b)), len(a)-len(b))
	})
	for _, set := range sets {
		if c, ok := s.try(set); ok {
			return c, true
		}
	}
	return best, false
}

// spare leaves out of a set that serves the jobs that need not move, the dearest
// first.
func (s *consolidation) spare(set []int, c Consolidation) Consolidation {
	set = slices.SortedStableFunc(slices.Values(set), func(a, b int) int {
		return cmp.Compare(s.movable[b].Lost, s.movable[a].Lost)
	})
	for i := 0; i < len(set); {
		without := slices.Delete(slices.Clone(set), i, i+1)
		if fewer, ok := s.try(without); ok {
			set, c = without, fewer
		} else {
			i++
		}
	}
	return c
}

// nodeSets are the sets that make room for a member on one node, for each node the
// cheapest. They are of use to jobs of one member.
func (s *consolidation) nodeSets() (sets [][]int) {
	at, ok := s.fleet.need(s.job, s.option)
	if !ok || s.members > 1 {
		return nil
	}
	nd := s.fleet.needOf(at)
	tenants := map[int][]int{} // by node
	for i := range s.movable {
		for _, spot := range s.movable[i].Run.Place {
			if node, ok := s.fleet.index[spot.Node]; ok {
				tenants[node] = append(tenants[node], i)
			}
		}
	}
	for node, on := range tenants {
		if set := s.cheapest(node, nd, on); set != nil {
			sets = append(sets, set)
		}
	}
	slices.SortFunc(sets, slices.Compare)
	return sets
}

// cheapest is the set of tenants of a node, without which a member fits there, that
// loses least; nil: there is none. Of many tenants it is one without those that
// are not needed.
func (s *consolidation) cheapest(node int, nd *need, on []int) (best []int) {
	n := &s.fleet.nodes[node]
	fits := func(set []int) bool {
		r := s.fleet.room(node).clone()
		for _, i := range set {
			m := &s.movable[i]
			at, _ := s.fleet.need(&m.Job, m.Run.Option)
			for _, spot := range m.Run.Place {
				if spot.Node == n.id {
					n.hold(r, &s.fleet.needOf(at).ask, spot, -1)
				}
			}
		}
		fit, _ := n.fit(r, nd)
		return fit > 0
	}
	if !fits(on) {
		return nil
	}
	if len(on) > fewTenants {
		best = slices.SortedStableFunc(slices.Values(on), func(a, b int) int {
			return cmp.Compare(s.movable[b].Lost, s.movable[a].Lost)
		})
		for i := 0; i < len(best); {
			if without := slices.Delete(slices.Clone(best), i, i+1); fits(without) {
				best = without
			} else {
				i++
			}
		}
		return best
	}
	for bits := 1; bits < 1<<len(on); bits++ {
		var set []int
		for i := range on {
			if bits>>i&1 != 0 {
				set = append(set, on[i])
			}
		}
		if (best == nil || s.lost(set) < s.lost(best)) && fits(set) {
			best = set
		}
	}
	return best
}

// greedySets are sets that make room for all members: the cheapest jobs, or the
// cheapest for what they hold, until there is enough; of the whole fleet, and of
// each rack and block.
func (s *consolidation) greedySets() (sets [][]int) {
	all := make([]int, len(s.movable))
	for i := range all {
		all[i] = i
	}
	within := [][]int{all}
	for _, d := range s.domains() {
		part := slices.DeleteFunc(slices.Clone(all), func(i int) bool {
			return !slices.ContainsFunc(s.movable[i].Run.Place, func(spot queue.Spot) bool {
				node, ok := s.fleet.index[spot.Node]
				return ok && node >= d.from && node < d.to
			})
		})
		if len(part) > 0 && len(part) < len(all) {
			within = append(within, part)
		}
	}
	for _, part := range within {
		dense := func(i int) float64 { return s.movable[i].Lost / float64(1+s.size(i)&(1<<16-1)) }
		for _, cost := range []func(int) float64{func(i int) float64 { return s.movable[i].Lost }, dense} {
			if set := s.cover(part, cost); set != nil {
				sets = append(sets, set)
			}
		}
	}
	return sets
}

// domains are racks and blocks, those first that have most room for the job now,
// and not too many.
func (s *consolidation) domains() (named []domain) {
	at, ok := s.fleet.need(s.job, s.option)
	if !ok {
		return nil
	}
	t := s.fleet.table(at)
	room := map[domain]int{}
	for i, d := range s.fleet.racks {
		room[d] = t.racks[i]
	}
	for i, d := range s.fleet.blocks {
		room[d] = t.blocks[i]
	}
	for _, d := range slices.Concat(s.fleet.racks, s.fleet.blocks) {
		if d.name != "" {
			named = append(named, d)
		}
	}
	slices.SortStableFunc(named, func(a, b domain) int { return room[b] - room[a] })
	return named[:min(len(named), maxTries/4)]
}

// cover is the jobs of part in ascending order of cost, up to where there is room
// for the job; nil: there never is.
func (s *consolidation) cover(part []int, cost func(int) float64) []int {
	part = slices.SortedStableFunc(slices.Values(part), func(a, b int) int { return cmp.Compare(cost(a), cost(b)) })
	f := s.fleet.Clone().(*Fleet)
	for k, i := range part {
		m := &s.movable[i]
		f.Release(&m.Job, m.Run.Option, m.Run.Place)
		if _, n := f.Find(s.job, s.option, s.members); n >= s.members {
			s.learn(f)
			return part[:k+1]
		}
	}
	return nil
}
