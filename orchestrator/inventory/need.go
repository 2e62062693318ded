package inventory

import (
	"maps"
	"slices"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// needKey tells needs apart: what a job's shape says, and what it is charged of
// devices by the option that is meant.
type needKey struct {
	shape  string
	flavor queue.Flavor // "": no devices
	amount queue.Amount
}

// need is an ask with the devices that cost just what one option is charged, as
// the estate has them.
type need struct {
	ask      Ask
	flavor   queue.Flavor
	amount   queue.Amount
	within   bool // all members must be in one nest
	avoids   map[queue.NodeID]bool
	classes  []answer  // by class
	pressure []float64 // see estate
	// picky: not all devices of a class are the same to it.
	picky   bool
	byID    bool // its constraints name devices
	without map[string]bool
}

// answer is what a class of nodes has for a need.
type answer struct {
	accepted bool
	offers   []offer
}

// offer is so many devices of a group.
type offer struct {
	group, count int
	island       bool // they must be of one nest
}

// maxNeeds is how many needs a fleet keeps; then it forgets all.
const maxNeeds = 1024

// need is the position of j's need by an option; false: the ask makes no sense,
// and there is room for it nowhere.
func (f *Fleet) need(j *queue.Job, option int) (at int, ok bool) {
	key := needKey{shape: j.Shape}
	for flavor, amount := range j.Option(option) {
		if flavor != CPU && flavor != Memory && amount > 0 {
			if key.flavor != "" { // what somebody else runs; no ask is for two
				flavor, amount = several, 0
			}
			key.flavor, key.amount = flavor, amount
			if flavor == several {
				break
			}
		}
	}
	if at, ok := f.needs[key]; ok {
		return at, true
	}
	ask, err := ParseShape(j.Shape)
	if err != nil {
		return -1, false
	}
	if len(f.tables) >= maxNeeds {
		f.needs, f.tables = nil, nil
	}
	needs := maps.Clone(f.needs)
	if needs == nil {
		needs = map[needKey]int{}
	}
	at = len(f.tables)
	needs[key] = at
	f.needs = needs
	f.tables = append(f.tables[:at:at], &table{need: f.newNeed(ask, key)})
	return at, true
}

// several is devices of more than one flavor, of which no node has any to offer.
const several queue.Flavor = "(several)"

// nothing is the need of whatever makes no sense: it takes devices only.
var nothing = &need{}

func (f *Fleet) needOf(at int) *need {
	if at < 0 {
		return nothing
	}
	return f.tables[at].need
}

func (e *estate) newNeed(a Ask, key needKey) *need {
	nd := &need{
		ask: a, flavor: key.flavor, amount: key.amount,
		within:  a.Topology == Topology{Island, true},
		classes: make([]answer, len(e.classes)), pressure: e.pressure,
		avoids: map[queue.NodeID]bool{}, without: map[string]bool{},
	}
	for _, id := range a.Avoid.Nodes {
		nd.avoids[id] = true
	}
	for _, id := range a.Avoid.Devices {
		nd.without[id] = true
	}
	for _, g := range a.gpus() {
		for _, c := range g.Constraints {
			nd.byID = nd.byID || c.Attribute == idsTarget || c.Value == idsTarget
		}
	}
	nd.picky = nd.byID || len(nd.without) > 0
	for i, c := range e.classes {
		nd.classes[i].accepted = c.accepts(&a)
		if nd.classes[i].accepted && !nd.byID {
			nd.classes[i].offers = c.offers(a.gpus(), key.flavor, key.amount, nil)
		}
	}
	return nd
}

const idsTarget = "${device.ids}"

// accepts reports whether nodes of the class may run a at all, devices aside.
func (c *class) accepts(a *Ask) bool { return c.refuses(a) == "" }

// refuses says why nodes of the class may not run a; "": they may.
func (c *class) refuses(a *Ask) string {
	switch {
	case len(a.Pools) > 0 && !slices.Contains(a.Pools, c.pool):
		return "in another node pool"
	case len(a.Datacenters) > 0 && !slices.ContainsFunc(a.Datacenters, func(p string) bool { return wildcard(p, c.datacenter) }):
		return "in another datacenter"
	case a.Driver != "" && !slices.Contains(c.drivers, a.Driver):
		return "without the driver " + a.Driver
	}
	return ""
}

// offers are the groups of the class that answer one of the alternatives with
// devices that cost so much of a flavor. ids are the node's devices, if
// constraints name them.
func (c *class) offers(gpus []pipeline.GPU, flavor queue.Flavor, amount queue.Amount, ids []string) (offers []offer) {
	for k := range c.groups {
		g := &c.groups[k]
		if g.flavor != flavor {
			continue
		}
		for i := range gpus {
			if g.charge*queue.Amount(gpus[i].Count) == amount && g.answers(&gpus[i], ids) {
				offers = append(offers, offer{k, gpus[i].Count, onIsland(&gpus[i])})
				break
			}
		}
	}
	return offers
}

// answers reports whether devices of the group are what gpu asks for.
func (g *group) answers(gpu *pipeline.GPU, ids []string) bool {
	m := g.match
	if ids != nil {
		m.IDs = ids[g.from:g.to]
	}
	return m.Named(gpu.Device) && !slices.ContainsFunc(conditions(gpu), func(c pipeline.Constraint) bool { return !m.Meets(condition(c)) })
}

// onIsland reports whether gpu demands devices of one island.
func onIsland(gpu *pipeline.GPU) bool {
	return gpu.Topology != nil && gpu.Topology.Required && gpu.Topology.Level == pipeline.Island
}

// conditions are the constraints of gpu, that on memory among them.
func conditions(gpu *pipeline.GPU) []pipeline.Constraint {
	if gpu.MemoryMin == "" {
		return gpu.Constraints
	}
	return append([]pipeline.Constraint{{Attribute: "${device.attr.memory}", Operator: ">=", Value: gpu.MemoryMin}}, gpu.Constraints...)
}

// offersOn are the offers of a node.
func (nd *need) offersOn(n *node) []offer {
	if nd.byID {
		return n.class.offers(nd.ask.gpus(), nd.flavor, nd.amount, n.devices)
	}
	return nd.classes[n.class.at].offers
}

// allowed are the devices of n that the avoid list and constraints on IDs leave.
func (n *node) allowed(nd *need) mask {
	m := newMask(len(n.devices))
	gpus := nd.ask.gpus()
	for i, id := range n.devices {
		g := &n.class.groups[n.class.of[i]]
		ok := !nd.without[id] && (!nd.byID || slices.ContainsFunc(gpus, func(gpu pipeline.GPU) bool {
			return g.match.Named(gpu.Device) && !slices.ContainsFunc(gpu.Constraints, func(c pipeline.Constraint) bool {
				return !g.match.Allows(condition(c), id)
			})
		}))
		if ok {
			m.set(i)
		}
	}
	return m
}
