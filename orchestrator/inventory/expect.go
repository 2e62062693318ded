package inventory

import (
	"cmp"
	"slices"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Expected is asks that are likely to come.
type Expected struct {
	Ask     Ask
	Members float64 // how many, beside the other asks
}

// Expect has f place with what is expected in mind: a member that several kinds
// of devices will do for takes the one that others need least. What those kinds
// are, and how short of them the fleet is, is weighed as in [placement.Pressure].
// It is of f and of clones made from then on; nil forgets what was expected.
func (f *Fleet) Expect(mix []Expected) {
	have := make([]float64, len(f.kinds))
	for i := range f.nodes {
		for _, g := range f.nodes[i].class.groups {
			have[g.kind] += float64(g.charge) * float64(g.to-g.from)
		}
	}
	var demands []placement.Demand
	for _, x := range mix {
		if d := f.demand(x); len(d.Kinds) > 0 {
			demands = append(demands, d)
		}
	}
	// Sums of floats depend on the order, and places must not.
	slices.SortFunc(demands, func(a, b placement.Demand) int {
		return cmp.Or(slices.Compare(a.Kinds, b.Kinds), cmp.Compare(a.Amount, b.Amount))
	})
	e := *f.estate
	e.pressure = nil
	if len(demands) > 0 {
		e.pressure = placement.Pressure(have, demands)
	}
	f.estate, f.needs, f.tables = &e, map[needKey]int{}, nil
}

// demand is x by the kinds of devices that will do, and what the least of them
// costs.
func (f *Fleet) demand(x Expected) (d placement.Demand) {
	least := queue.Amount(0)
	for _, c := range f.classes {
		if !c.accepts(&x.Ask) {
			continue
		}
		for k := range c.groups {
			g := &c.groups[k]
			for _, gpu := range x.Ask.gpus() {
				if slices.Contains(d.Kinds, g.kind) || !g.answers(&gpu, nil) {
					continue
				}
				d.Kinds = append(d.Kinds, g.kind)
				if cost := g.charge * queue.Amount(gpu.Count); least == 0 || cost < least {
					least = cost
				}
			}
		}
	}
	slices.Sort(d.Kinds)
	d.Amount = float64(least) * x.Members
	return d
}
