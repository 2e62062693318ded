package topology

import (
	"cmp"
	"math"
	"slices"
)

// Nearest are the NICs that a set of GPUs should use: for each GPU those that
// none is nearer to it than, together, in the order of the graph. NICs without
// a link are left out, and if any has RDMA, so are those that have not.
func (g Graph) Nearest(gpus []string) []NIC {
	nics := slices.DeleteFunc(slices.Clone(g.NICs), func(n NIC) bool { return n.Down })
	if slices.ContainsFunc(nics, func(n NIC) bool { return n.RDMA }) {
		nics = slices.DeleteFunc(nics, func(n NIC) bool { return !n.RDMA })
	}
	known := g.links()
	wanted := make(map[string]bool)
	for _, gpu := range gpus {
		nearest := 1 // a NIC of which nothing is known is not near
		for _, n := range nics {
			nearest = max(nearest, known.between(gpu, n.Name).rank())
		}
		for _, n := range nics {
			if known.between(gpu, n.Name).rank() == nearest {
				wanted[n.Name] = true
			}
		}
	}
	return slices.DeleteFunc(nics, func(n NIC) bool { return !wanted[n.Name] })
}

// CPUs are those nearest to any of the GPUs, as the kernel lists them; "" if
// that is not known of one of them.
func (g Graph) CPUs(gpus []string) string {
	var all []string
	for _, gpu := range g.find(gpus) {
		if gpu.CPUs == "" {
			return ""
		}
		all = append(all, gpu.CPUs)
	}
	return joinCPUs(all)
}

// NUMANodes are the nodes of the GPUs, each once, in order. GPUs of which it is
// not known add none.
func (g Graph) NUMANodes(gpus []string) []int {
	var nodes []int
	for _, gpu := range g.find(gpus) {
		if gpu.NUMANode != nil {
			nodes = append(nodes, *gpu.NUMANode)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// find are the GPUs of the given IDs, in the order of the graph.
func (g Graph) find(ids []string) []GPU {
	var found []GPU
	for _, gpu := range g.GPUs {
		if slices.Contains(ids, gpu.ID) {
			found = append(found, gpu)
		}
	}
	return found
}

// Best picks n of the free GPUs for a job that uses them together, in the order
// of the graph; nil if there are not as many. [Nearness.Best] says which.
func (g Graph) Best(n int, free []string) []string {
	var ids []string
	for _, gpu := range g.find(free) {
		ids = append(ids, gpu.ID)
	}
	var best []string
	for _, i := range g.Nearness(ids).Best(n, nil) {
		best = append(best, ids[i])
	}
	return best
}

// Nearness is how near boards are to each other, by their positions: the larger
// the nearer, 0 if nothing is known. The last bit is apart from the rest: it is set
// for two that are behind the same PCIe switches with a network card.
type Nearness [][]int

// numaStep is how much a kind of connection counts for beside the same NUMA node:
// more than there are pairs of boards. Both leave the last bit alone.
const (
	sameNUMA = 2
	numaStep = sameNUMA * maxBoards * maxBoards
	sameCard = 1
)

// Nearness is that of the GPUs of the given IDs: how they are connected and, of
// equal connections, whether they are at the same NUMA node.
func (g Graph) Nearness(ids []string) Nearness {
	known := g.links()
	numa := make(map[string]int)
	for _, gpu := range g.GPUs {
		if gpu.NUMANode != nil {
			numa[gpu.ID] = *gpu.NUMANode
		}
	}
	cards := make([][]NIC, len(ids))
	for i, id := range ids {
		cards[i] = slices.DeleteFunc(g.Nearest([]string{id}), func(n NIC) bool {
			return known.between(id, n.Name).rank() < pcieRanks[Bridges]
		})
	}
	near := make(Nearness, len(ids))
	for i, a := range ids {
		near[i] = make([]int, len(ids))
		for j, b := range ids {
			if i == j {
				continue
			}
			near[i][j] = known.between(a, b).rank() * numaStep
			m, mok := numa[a]
			n, nok := numa[b]
			if mok && nok && m == n {
				near[i][j] += sameNUMA
			}
			if slices.ContainsFunc(cards[i], func(n NIC) bool {
				return slices.ContainsFunc(cards[j], func(m NIC) bool { return m.Name == n.Name })
			}) {
				near[i][j] += sameCard
			}
		}
	}
	return near
}

// Best picks n of the free boards, in order; nil if there are not as many. A nil
// free is all. Of all choices it is the one
//
//   - whose farthest two boards are nearest to each other,
//   - then the one with the nearest connections in sum,
//   - then the one that leaves the best connected rest,
//   - then the one with most pairs that share a network card,
//   - then the one that leaves most of such pairs,
//   - then the first.
//
// Every choice is looked at if there are at most maxChoices of them, as for any
// n of 16 boards. Beyond that a choice grows from each board by its nearest, and
// the best of those is taken.
func (near Nearness) Best(n int, free []int) []int {
	if free == nil {
		free = make([]int, len(near))
		for i := range free {
			free[i] = i
		}
	}
	if n < 1 || n > len(free) {
		return nil
	}
	s := &selection{near: near, free: free}
	if choices(len(free), n) <= maxChoices {
		s.tryAll(n)
	} else {
		s.grow(n)
	}
	best := make([]int, n)
	for i, at := range s.best {
		best[i] = free[at]
	}
	return best
}

// maxChoices is the number of choices of 8 out of 16.
const maxChoices = 12870

// choices is n over k, or a number above maxChoices if that is larger.
func choices(n, k int) int {
	c := 1
	for i := range min(k, n-k) {
		c = c * (n - i) / (i + 1)
		if c > maxChoices {
			return c
		}
	}
	return c
}

// selection is the search for the best choice of some free boards, by their
// positions in free.
type selection struct {
	near  Nearness
	free  []int
	in    []bool // scratch
	best  []int  // ascending; nil before the first choice
	score score
}

// score tells how good a choice is, the most important first.
type score struct{ farthest, sum, rest, cards, restCards int }

func (s score) compare(t score) int {
	return cmp.Or(cmp.Compare(s.farthest, t.farthest), cmp.Compare(s.sum, t.sum), cmp.Compare(s.rest, t.rest),
		cmp.Compare(s.cards, t.cards), cmp.Compare(s.restCards, t.restCards))
}

// between is the nearness of two, and whether they share a network card.
func (s *selection) between(i, j int) (near, card int) {
	n := s.near[s.free[i]][s.free[j]]
	return n &^ sameCard, n & sameCard
}

// consider takes a choice if it is better than the best so far.
func (s *selection) consider(chosen []int) {
	if s.in == nil {
		s.in = make([]bool, len(s.free))
	}
	clear(s.in)
	for _, i := range chosen {
		s.in[i] = true
	}
	c := score{farthest: math.MaxInt}
	for i := range s.free {
		for j := range i {
			if s.in[i] != s.in[j] {
				continue
			}
			near, card := s.between(i, j)
			if s.in[i] {
				c.farthest = min(c.farthest, near)
				c.sum += near
				c.cards += card
			} else {
				c.rest += near
				c.restCards += card
			}
		}
	}
	if s.best == nil || c.compare(s.score) > 0 {
		s.best, s.score = slices.Clone(chosen), c
	}
}

// tryAll considers every choice of n, in order.
func (s *selection) tryAll(n int) {
	chosen := make([]int, n)
	for i := range chosen {
		chosen[i] = i
	}
	for {
		s.consider(chosen)
		i := n - 1
		for i >= 0 && chosen[i] == len(s.free)-n+i {
			i--
		}
		if i < 0 {
			return
		}
		chosen[i]++
		for j := i + 1; j < n; j++ {
			chosen[j] = chosen[j-1] + 1
		}
	}
}

// grow considers a choice of n from each board on: its nearest, then what is
// nearest to those two, and so on.
func (s *selection) grow(n int) {
	for first := range s.free {
		chosen := []int{first}
		for len(chosen) < n {
			next, nearest := -1, score{}
			for i := range s.free {
				if slices.Contains(chosen, i) {
					continue
				}
				c := score{farthest: math.MaxInt}
				for _, j := range chosen {
					near, card := s.between(i, j)
					c.farthest = min(c.farthest, near)
					c.sum += near
					c.cards += card
				}
				if next < 0 || c.compare(nearest) > 0 {
					next, nearest = i, c
				}
			}
			chosen = append(chosen, next)
		}
		slices.Sort(chosen)
		s.consider(chosen)
	}
}
