package placement

import (
	"cmp"
	"slices"
)

// mix is the shapes of task that are expected.
type mix struct {
	shapes   []expected
	prices   *prices
	pressure []float64 // on each model
}

// expected is a shape and its share of all tasks, 0 to 1.
type expected struct {
	cpu         int64
	gpus, share int
	models      modelSet
	part        float64
}

// commonPart is the part of all expected tasks that the mix keeps, of the
// commonest shapes, as in the published experiment.
const commonPart = 0.95

// newMix counts the shapes of tasks and keeps the commonest. Prices are solved for
// unless they are known: they depend on tasks alone.
func (c *Cluster) newMix(tasks []Task, known *prices) *mix {
	count := map[expected]int{}
	for _, t := range tasks {
		count[expected{cpu: t.CPUMilli, gpus: t.GPUs, share: t.ShareMilli, models: c.accepted(t)}]++
	}
	var all []expected
	for e, n := range count {
		e.part = float64(n)
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b expected) int {
		return cmp.Or(cmp.Compare(b.part, a.part), cmp.Compare(b.cpu, a.cpu), cmp.Compare(b.share, a.share),
			cmp.Compare(b.gpus, a.gpus), b.models.compare(a.models))
	})
	sum, kept := 0.0, 0
	for ; kept < len(all) && sum < commonPart*float64(len(tasks)); kept++ {
		sum += all[kept].part
	}
	m := &mix{shapes: all[:kept]}
	for i := range m.shapes {
		m.shapes[i].part /= sum
	}
	if m.prices = known; known == nil {
		m.prices = newPrices(m.shapes)
	}
	m.pressure = newPressure(m.shapes, c.nodes, len(c.models))
	return m
}

// fragmented is how much of a node's free GPUs, in thousandths of a GPU, a
// task of the mix cannot use, in the mean over the mix: all that is free if
// the task does not fit on the node, else what is free of GPUs that have too
// little for it. A task that asks for no GPU can use none.
func (m *mix) fragmented(cpu int64, model int, free []int32) float64 {
	var total int64
	for _, f := range free {
		total += int64(f)
	}
	if total == 0 {
		return 0
	}
	sum := 0.0
	for i := range m.shapes {
		e := &m.shapes[i]
		if e.gpus == 0 || !e.models.has(model) || cpu < e.cpu {
			sum += e.part * float64(total)
			continue
		}
		lost, room := int64(0), 0
		for _, f := range free {
			if int(f) >= e.share {
				room++
			} else {
				lost += int64(f)
			}
		}
		if room < e.gpus {
			lost = total
		}
		sum += e.part * float64(lost)
	}
	return sum
}

// FragmentedMilli is how much of the cluster's free GPUs, in thousandths of a
// GPU, an expected task cannot use, in the mean over the mix.
func (c *Cluster) FragmentedMilli() float64 {
	sum := 0.0
	for i := range c.nodes {
		sum += c.FragmentedOn(i)
	}
	return sum
}

// FragmentedOn is a node's part of FragmentedMilli.
func (c *Cluster) FragmentedOn(node int) float64 {
	n := &c.nodes[node]
	if n.gone {
		return 0
	}
	return c.mix.fragmented(n.cpu, n.model, n.free)
}

// descent is the place on n where s lessens fragmentation most, and by how
// many GPUs, less what a GPU with so much free costs, if cost is not nil.
func (c *Cluster) descent(n *node, s *shape, cost func(free int32) float64) score {
	before := c.mix.fragmented(n.cpu, n.model, n.free)
	var scratch [MaxGPUs]int32
	free := scratch[:copy(scratch[:], n.free)]
	value := func(gpus uint64) float64 {
		spent := 0.0
		for g := range free {
			if gpus&(1<<g) != 0 {
				if cost != nil {
					spent += cost(free[g])
				}
				free[g] -= int32(s.share)
			}
		}
		left := c.mix.fragmented(n.cpu-s.cpu, n.model, free)
		copy(free, n.free)
		return (before-left)/WholeGPU - spent
	}
	if s.gpus != 1 || s.share == WholeGPU {
		gpus := tightest(n, s.gpus, s.share)
		return score{value: value(gpus), gpus: gpus}
	}
	best := noFit
	for g, f := range n.free {
		if int(f) < s.share || slices.Contains(n.free[:g], f) {
			continue // GPUs with the same free are the same
		}
		if v := value(1 << g); v > best.value {
			best = score{value: v, gpus: 1 << g}
		}
	}
	return best
}
