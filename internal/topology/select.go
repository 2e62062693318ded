package topology

import (
	"cmp"
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
// of the graph; nil if there are not as many. Of all choices it is the one
//
//   - whose farthest two GPUs are nearest to each other,
//   - then the one with the nearest connections in sum,
//   - then the one that leaves the best connected rest,
//   - then the first.
//
// Every choice is looked at if there are at most maxChoices of them, as for any
// n of 16 GPUs. Beyond that a choice grows from each GPU by its nearest, and
// the best of those is taken.
func (g Graph) Best(n int, free []string) []string {
	var ids []string
	for _, gpu := range g.find(free) {
		ids = append(ids, gpu.ID)
	}
	if n < 1 || n > len(ids) {
		return nil
	}
	s := newSelection(g.links(), ids)
	if choices(len(ids), n) <= maxChoices {
		s.tryAll(n)
	} else {
		s.grow(n)
	}
	best := make([]string, n)
	for i, index := range s.best {
		best[i] = ids[index]
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

// selection is the search for the best choice of some GPUs, by their positions.
type selection struct {
	ranks [][]int // of the connection between two
	best  []int   // positions, ascending; nil before the first choice
	score score
}

// score tells how good a choice is, the most important first.
type score struct{ farthest, sum, rest int }

func (s score) compare(t score) int {
	return cmp.Or(cmp.Compare(s.farthest, t.farthest), cmp.Compare(s.sum, t.sum), cmp.Compare(s.rest, t.rest))
}

func newSelection(known links, ids []string) *selection {
	s := &selection{ranks: make([][]int, len(ids))}
	for i, a := range ids {
		s.ranks[i] = make([]int, len(ids))
		for j, b := range ids {
			if i != j {
				s.ranks[i][j] = known.between(a, b).rank()
			}
		}
	}
	return s
}

// consider takes a choice if it is better than the best so far.
func (s *selection) consider(chosen []int) {
	in := make([]bool, len(s.ranks))
	for _, i := range chosen {
		in[i] = true
	}
	c := score{farthest: maxNVLinks + len(pcieRanks) + 1}
	for i := range s.ranks {
		for j := range i {
			switch rank := s.ranks[i][j]; {
			case in[i] && in[j]:
				c.farthest = min(c.farthest, rank)
				c.sum += rank
			case !in[i] && !in[j]:
				c.rest += rank
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
		for i >= 0 && chosen[i] == len(s.ranks)-n+i {
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

// grow considers a choice of n from each GPU on: its nearest, then what is
// nearest to those two, and so on.
func (s *selection) grow(n int) {
	for first := range s.ranks {
		chosen := []int{first}
		for len(chosen) < n {
			next, nearest := -1, score{}
			for i := range s.ranks {
				if slices.Contains(chosen, i) {
					continue
				}
				c := score{farthest: maxNVLinks + len(pcieRanks) + 1}
				for _, j := range chosen {
					c.farthest = min(c.farthest, s.ranks[i][j])
					c.sum += s.ranks[i][j]
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
