package placement

import (
	"cmp"
	"math"
	"slices"
)

// prices is what free parts of a GPU are worth to the mix: prices[f] is how
// much of a GPU the best filling of f thousandths would otherwise need.
//
// They are the dual prices of cutting whole GPUs into the expected shares
// (Gilmore and Gomory's cutting-stock problem): a share costs what it keeps
// others from. With many tasks of 810 thousandths and few of 160, for example,
// 160 costs nothing, since it fits where 810 left 190, and 810 costs a GPU.
type prices [WholeGPU + 1]float64

// Of the solver: rounds, and how fast weights follow.
const (
	priceRounds = 400
	priceStep   = 0.05
)

// newPrices solves the dual by multiplicative weights: again and again cut a
// GPU into what is worth most, and make the shares that it has worth less, the
// more so the less they are asked for.
func newPrices(shapes []expected) *prices {
	demand := map[int]float64{}
	for _, e := range shapes {
		if e.gpus > 0 {
			demand[e.share] += e.part * float64(e.gpus)
		}
	}
	type part struct {
		share          int
		demand, weight float64
	}
	var parts []part
	for share, d := range demand {
		parts = append(parts, part{share: share, demand: d, weight: float64(share) / WholeGPU})
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.share, b.share) })
	sum, last := new(prices), new(prices)
	var chosen [WholeGPU + 1]int
	for round := range priceRounds {
		for f := 1; f <= WholeGPU; f++ {
			last[f], chosen[f] = last[f-1], -1
			for i, p := range parts {
				if p.share > f {
					break
				}
				if v := last[f-p.share] + p.weight; v > last[f] {
					last[f], chosen[f] = v, i
				}
			}
		}
		if last[WholeGPU] == 0 {
			return sum // nothing asks for GPUs
		}
		scale := 1 / last[WholeGPU]
		if round >= priceRounds/2 {
			for f := range sum {
				sum[f] += last[f] * scale * 2 / priceRounds
			}
		}
		least := math.Inf(1)
		cut := make([]float64, len(parts))
		for f := WholeGPU; f > 0; {
			if i := chosen[f]; i >= 0 {
				cut[i]++
				f -= parts[i].share
			} else {
				f--
			}
		}
		for i, c := range cut {
			if c > 0 {
				least = min(least, parts[i].demand/c)
			}
		}
		for i := range parts {
			parts[i].weight *= scale * math.Exp(-priceStep*cut[i]*least/parts[i].demand)
		}
	}
	return sum
}

// Demand is so much that is asked for of devices of some kinds, whichever of them.
type Demand struct {
	Kinds  []int
	Amount float64
}

// Pressure is, of each kind of device, how much of it is asked for over what there
// is, where 1 is the mean over all kinds that there are. A demand that several
// kinds will do for is spread over them by what there is of each; one that no kind
// will do for is left out.
func Pressure(have []float64, demands []Demand) []float64 {
	want := make([]float64, len(have))
	total, asked := 0.0, 0.0
	for _, h := range have {
		total += h
	}
	for _, d := range demands {
		accepted := 0.0
		for _, k := range d.Kinds {
			accepted += have[k]
		}
		if accepted == 0 {
			continue
		}
		asked += d.Amount
		for _, k := range d.Kinds {
			want[k] += d.Amount * have[k] / accepted
		}
	}
	p := make([]float64, len(have))
	for k, h := range have {
		if h > 0 && asked > 0 {
			p[k] = want[k] / asked / (h / total)
		}
	}
	return p
}

// newPressure is that on models, by their numbers.
func newPressure(shapes []expected, nodes []node, models int) []float64 {
	have := make([]float64, models)
	for i := range nodes {
		if n := &nodes[i]; !n.gone {
			have[n.model] += float64(n.GPUs)
		}
	}
	var demands []Demand
	for _, e := range shapes {
		if e.gpus == 0 {
			continue
		}
		d := Demand{Amount: e.part * float64(e.gpus*e.share)}
		for m := range models {
			if e.models.has(m) {
				d.Kinds = append(d.Kinds, m)
			}
		}
		demands = append(demands, d)
	}
	return Pressure(have, demands)
}

// What weighs how much beside one GPU of fragmentation: a GPU's worth in
// prices, a GPU of a model under mean pressure, and what the node has left, as
// best-fit has it. They were chosen on a few draws of the openb workloads: see
// docs/benchmarks.md.
const (
	priceWeight    = 5
	pressureWeight = 0.4
	leftWeight     = 0.05
)

// drover takes the place that costs least: in fragmentation, as with fgd, but
// by the exact figure; in what the parts of GPUs that it uses are worth to
// other shares; in GPUs of models that others must have; and, where that is
// nearly the same, in the room of nodes that could stay emptier.
func drover(c *Cluster, n *node, s *shape) score {
	best := c.descent(n, s, func(free int32) float64 {
		return priceWeight * (c.mix.prices[free] - c.mix.prices[free-int32(s.share)])
	})
	if s.gpus > 0 {
		best.value -= pressureWeight * c.mix.pressure[n.model] * float64(s.milli()) / WholeGPU
	}
	left := float64(n.cpu-s.cpu)/largeCPUMilli + float64(n.freeMilli()-s.milli())/largeGPUMilli
	best.value -= leftWeight * left / 2
	return best
}
