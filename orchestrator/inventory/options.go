package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// ErrImpossible is wrapped by errors about asks that no node could ever satisfy.
var ErrImpossible = errors.New("no node could ever run it")

// Options are what one member of a is charged: one for each flavor, and each size
// of slices, that could do, by a's order of preference, then the least device that
// will do. Nodes count as if nothing were held, and as if they and all their
// devices took new work. If none could satisfy a, the error wraps [ErrImpossible]
// and says why.
func (f *Fleet) Options(a Ask) (first queue.Resources, or []queue.Resources, err error) {
	if err := a.Check(); err != nil {
		return nil, nil, err
	}
	var all []queue.Resources
	for _, o := range f.optionsOf(a) {
		each := a.plain(f.mhz)
		if o.flavor != "" {
			each[o.flavor] = o.amount
		}
		all = append(all, each)
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrImpossible, f.why(a, true))
	}
	return all[0], all[1:], nil
}

// plain is what a member of a is charged of CPU and memory. mhz is of a core.
func (a Ask) plain(mhz int64) queue.Resources {
	each := queue.Resources{}
	if n := a.CPUMHz + int64(a.Cores)*mhz; n > 0 {
		each[CPU] = mhzAmount(n)
	}
	if a.MemoryMiB > 0 {
		each[Memory] = mibAmount(a.MemoryMiB)
	}
	return each
}

// optionsOf are the needs, by preference, of which a member fits on some node.
func (f *Fleet) optionsOf(a Ask) []needKey {
	if a.GPU == nil {
		key := needKey{}
		if f.everFits(a, key) {
			return []needKey{key}
		}
		return nil
	}
	var found []needKey
	for _, gpu := range a.gpus() {
		type size struct {
			needKey
			memory int64
		}
		var sizes []size
		for _, c := range f.classes {
			for i := range c.groups {
				g := &c.groups[i]
				s := size{needKey{flavor: g.flavor, amount: g.charge * queue.Amount(gpu.Count)}, g.memory}
				if g.match.Named(gpu.Device) && !slices.ContainsFunc(sizes, func(o size) bool { return o.needKey == s.needKey }) {
					sizes = append(sizes, s)
				}
			}
		}
		slices.SortFunc(sizes, func(a, b size) int {
			return cmp.Or(cmp.Compare(a.amount, b.amount), cmp.Compare(a.memory, b.memory), cmp.Compare(a.flavor, b.flavor))
		})
		alone := a
		alone.GPU, alone.Or = &gpu, nil
		for _, s := range sizes {
			if !slices.Contains(found, s.needKey) && f.everFits(alone, s.needKey) {
				found = append(found, s.needKey)
			}
		}
	}
	return found
}

// everFits reports whether a member could fit on some node if nothing were held.
func (f *Fleet) everFits(a Ask, key needKey) bool {
	nd := f.newNeed(a, key)
	for i := range f.nodes {
		if f.nodes[i].atBest(nd) > 0 {
			return true
		}
	}
	return false
}

// best is the node as it is when all is well.
func (n *node) best() *node {
	b := *n
	b.eligible, b.healthy = true, n.empty.free
	return &b
}

// atBest is how many members fit on n when nothing is held and all is well.
func (n *node) atBest(nd *need) int {
	if c := &nd.classes[n.class.at]; !c.accepted || nd.flavor != "" && len(nd.offersOn(n)) == 0 {
		return 0
	}
	fit, _ := n.best().fit(n.empty, nd)
	return fit
}

// Most is how many members of a could ever run at once, in a place as a's topology
// wants it, if nothing were held and all were well.
func (f *Fleet) Most(a Ask) int {
	most := 0
	for _, key := range f.optionsOf(a) {
		nd := f.newNeed(a, key)
		host, total := 0, 0
		racks, blocks := make([]int, len(f.racks)), make([]int, len(f.blocks))
		for i := range f.nodes {
			n := &f.nodes[i]
			fit := n.atBest(nd)
			host, total = max(host, fit), total+fit
			racks[n.inRack] += fit
			blocks[n.inBlock] += fit
		}
		if !a.Topology.Required {
			most = max(most, total)
			continue
		}
		most = max(most, host)
		if a.Topology.Level == Rack || a.Topology.Level == Block {
			most = max(most, largest(f.racks, racks))
		}
		if a.Topology.Level == Block {
			most = max(most, largest(f.blocks, blocks))
		}
	}
	return most
}

// largest is the most room of a domain with a name.
func largest(domains []domain, room []int) (most int) {
	for i, d := range domains {
		if d.name != "" {
			most = max(most, room[i])
		}
	}
	return most
}

// Why says, for people, what becomes of a member of a on each node now, as in "12
// nodes: 8 without nvidia/gpu, 4 with too few free devices; most are free on gpu-03:
// 6".
func (f *Fleet) Why(a Ask) string {
	text := f.why(a, false)
	if a.GPU == nil {
		return text
	}
	best, most := "", 0
	for i := range f.nodes {
		n := &f.nodes[i]
		if n.class.refuses(&a) != "" || !n.eligible || slices.Contains(a.Avoid.Nodes, n.id) {
			continue
		}
		for _, gpu := range a.gpus() {
			for k := range n.class.groups {
				g := &n.class.groups[k]
				if free := f.room(i).free.all(g.all, n.healthy); free > most && g.answers(&gpu, n.devices) {
					best, most = cmp.Or(n.name, string(n.id)), free
				}
			}
		}
	}
	if most > 0 {
		text += fmt.Sprintf("; most are free on %s: %d", best, most)
	}
	return text
}

// why is Why; ever counts nodes as if nothing were held and all were well.
func (f *Fleet) why(a Ask, ever bool) string {
	count := map[string]int{}
	for i := range f.nodes {
		n, r := &f.nodes[i], f.room(i)
		if ever {
			n, r = n.best(), n.empty
		}
		count[f.verdict(n, r, a)]++
	}
	nodes := "nodes"
	if len(f.nodes) == 1 {
		nodes = "node"
	}
	if len(f.nodes) == 0 {
		return "there are no nodes"
	}
	var parts []string
	for text := range count {
		parts = append(parts, text)
	}
	slices.SortFunc(parts, func(a, b string) int { return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b)) })
	for i, text := range parts {
		parts[i] = fmt.Sprintf("%d %s", count[text], text)
	}
	return fmt.Sprintf("%d %s: %s", len(f.nodes), nodes, strings.Join(parts, ", "))
}

// verdict is what stands in the way of a member of a on n, the most lasting first.
func (f *Fleet) verdict(n *node, r *room, a Ask) string {
	if text := n.class.refuses(&a); text != "" {
		return text
	}
	if slices.Contains(a.Avoid.Nodes, n.id) {
		return "to be avoided"
	}
	if a.GPU != nil {
		if text := n.lacks(a); text != "" {
			return text
		}
	}
	if text := n.short(n.empty, &a, "with too little"); text != "" {
		return text
	}
	if !n.eligible {
		return "taking no new work"
	}
	if text := n.short(r, &a, "with too little free"); text != "" {
		return text
	}
	if a.GPU == nil {
		return "with room"
	}
	return n.devicesNow(r, a)
}

// short says which of CPU, cores and memory does not suffice.
func (n *node) short(r *room, a *Ask, how string) string {
	only := func(part Ask) bool { return n.plainFit(r, &part) > 0 }
	switch {
	case !only(Ask{}):
		return "with as many allocations as may be"
	case !only(Ask{CPUMHz: a.CPUMHz}):
		return how + " CPU"
	case !only(Ask{Cores: a.Cores}):
		return how + " cores"
	case !only(Ask{MemoryMiB: a.MemoryMiB}):
		return how + " memory"
	}
	return ""
}

// lacks says why the devices of n can never answer a; "": they can.
func (n *node) lacks(a Ask) string {
	worst := ""
	for _, gpu := range a.gpus() {
		named, unmet, most := false, "", 0
		for i := range n.class.groups {
			g := &n.class.groups[i]
			if !g.match.Named(gpu.Device) {
				continue
			}
			named = true
			if g.answers(&gpu, n.devices) {
				most = max(most, g.to-g.from)
				continue
			}
			m := g.match
			m.IDs = n.devices[g.from:g.to]
			for _, c := range conditions(&gpu) {
				if !m.Meets(condition(c)) {
					unmet = strings.TrimSpace(c.Attribute + " " + cmp.Or(c.Operator, "=") + " " + c.Value)
				}
			}
		}
		switch {
		case most >= gpu.Count:
			return ""
		case worst != "":
		case !named:
			worst = "without " + gpu.Device
		case most > 0:
			worst = fmt.Sprintf("with fewer than %d of %s", gpu.Count, gpu.Device)
		default:
			worst = fmt.Sprintf("whose %s does not meet %s", gpu.Device, unmet)
		}
	}
	return worst
}

// devicesNow says whether devices of n that answer a are free.
func (n *node) devicesNow(r *room, a Ask) string {
	blocked := "with too few free devices"
	without := map[string]bool{}
	for _, id := range a.Avoid.Devices {
		without[id] = true
	}
	for _, gpu := range a.gpus() {
		for i := range n.class.groups {
			g := &n.class.groups[i]
			if !g.answers(&gpu, n.devices) {
				continue
			}
			free, sound, together := 0, 0, false
			for k := range g.sets {
				inSet := 0
				r.free.each(g.sets[k].own, func(at int) {
					free++
					if n.healthy.has(at) && !without[n.devices[at]] && allows(g, &gpu, n.devices[at]) {
						inSet++
					}
				})
				sound += inSet
				together = together || inSet >= gpu.Count
			}
			switch {
			case sound >= gpu.Count && (together || !onIsland(&gpu) && a.Topology != Topology{Island, true}):
				return "with room"
			case sound >= gpu.Count:
				blocked = "with too few free devices on one island"
			case free >= gpu.Count:
				blocked = "with too few devices that are healthy and not to be avoided"
			}
		}
	}
	return blocked
}

func allows(g *group, gpu *pipeline.GPU, id string) bool {
	return !slices.ContainsFunc(gpu.Constraints, func(c pipeline.Constraint) bool { return !g.match.Allows(condition(c), id) })
}
