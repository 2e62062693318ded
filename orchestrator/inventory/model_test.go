package inventory_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// naive is the account of a fleet that a child would keep: lists of what is
// held, and all ways tried.
type naive struct {
	nodes []inventory.Node
	held  []holder
}

// holder is members of an ask on a node.
type holder struct {
	ask     inventory.Ask
	members int
	node    queue.NodeID
	devices []string
}

func (m *naive) node(id queue.NodeID) (inventory.Node, bool) {
	i := slices.IndexFunc(m.nodes, func(n inventory.Node) bool { return n.ID == id })
	if i < 0 {
		return inventory.Node{}, false
	}
	return m.nodes[i], true
}

// free is what nobody holds of a node.
func (m *naive) free(n inventory.Node) (mhz, mib int64, devices map[string]bool) {
	mhz, mib, devices = n.CPUMHz, n.MemoryMiB, map[string]bool{}
	for _, g := range n.Groups {
		for _, d := range g.Instances {
			devices[d.ID] = d.Healthy
		}
	}
	for _, h := range m.held {
		if h.node == n.ID {
			mhz -= h.ask.CPUMHz * int64(h.members)
			mib -= h.ask.MemoryMiB * int64(h.members)
			for _, id := range h.devices {
				delete(devices, id)
			}
		}
	}
	maps.DeleteFunc(devices, func(_ string, healthy bool) bool { return !healthy })
	return mhz, mib, devices
}

// fits is how many members of a fit on n with devices that are charged to a flavor
// named after their group.
func (m *naive) fits(n inventory.Node, a inventory.Ask, flavor queue.Flavor) int {
	if !n.Eligible || slices.Contains(a.Avoid.Nodes, n.ID) || len(a.Pools) > 0 && !slices.Contains(a.Pools, n.Pool) {
		return 0
	}
	mhz, mib, devices := m.free(n)
	most := 1<<15 - 1
	if a.CPUMHz > 0 {
		most = min(most, int(max(0, mhz)/a.CPUMHz))
	}
	if a.MemoryMiB > 0 {
		most = min(most, int(max(0, mib)/a.MemoryMiB))
	}
	if a.GPU == nil {
		return most
	}
	within := a.Topology == inventory.Topology{Level: inventory.Island, Required: true}
	sum, largest := 0, 0
	for _, g := range n.Groups {
		if flavorOf(g) != flavor {
			continue
		}
		islands := map[int]int{}
		for _, d := range g.Instances {
			if devices[d.ID] && !slices.Contains(a.Avoid.Devices, d.ID) {
				island := 0
				if within || a.GPU.Topology != nil && a.GPU.Topology.Required {
					island = islandOf(n, d.ID)
				}
				islands[island]++
			}
		}
		for _, free := range islands {
			sum += free / a.GPU.Count
			largest = max(largest, free/a.GPU.Count)
		}
	}
	if within {
		return min(most, largest)
	}
	return min(most, sum)
}

func onIsland(a inventory.Ask) bool {
	return a.GPU.Topology != nil && a.GPU.Topology.Required || a.Topology == inventory.Topology{Level: inventory.Island, Required: true}
}

func flavorOf(g inventory.Group) queue.Flavor { return queue.Flavor("nvidia-" + g.Name) }

// islandOf is a number that devices of one island share.
func islandOf(n inventory.Node, id string) int {
	for i, b := range n.Wiring.Boards {
		if b.ID == id {
			if b.Island != nil {
				return *b.Island
			}
			return 100 + i
		}
	}
	return -1
}

// room is how many members of a there is room for in one place, as a's topology
// wants it.
func (m *naive) room(a inventory.Ask, flavor queue.Flavor) int {
	rooms := map[string]int{}
	for _, n := range m.nodes {
		domain := ""
		if a.Topology.Required {
			switch rack, block := n.Meta["rack"], n.Meta["block"]; {
			case a.Topology.Level == inventory.Block && block != "":
				domain = "block " + block
			case a.Topology.Level == inventory.Island, a.Topology.Level == inventory.Host, rack == "":
				domain = "host " + string(n.ID)
			case a.Topology.Level == inventory.Rack, a.Topology.Level == inventory.Block:
				domain = "rack " + block + "/" + rack
			}
		}
		rooms[domain] += m.fits(n, a, flavor)
	}
	most := 0
	for _, r := range rooms {
		most = max(most, r)
	}
	return most
}

// check says what is wrong with a place for so many members.
func (m *naive) check(a inventory.Ask, flavor queue.Flavor, place queue.Place, members int) error {
	sum := 0
	for _, s := range place {
		n, _ := m.node(s.Node)
		if fits := m.fits(n, a, flavor); s.Members < 1 || s.Members > fits {
			return fmt.Errorf("%d members on %s, where %d fit", s.Members, s.Node, fits)
		}
		sum += s.Members
		_, _, free := m.free(n)
		if a.GPU == nil {
			if len(s.Devices) > 0 {
				return fmt.Errorf("devices %q that nobody asked for", s.Devices)
			}
			continue
		}
		if len(s.Devices) != s.Members*a.GPU.Count {
			return fmt.Errorf("%d devices for %d members of %d", len(s.Devices), s.Members, a.GPU.Count)
		}
		all := map[int]bool{}
		for _, id := range s.Devices {
			all[islandOf(n, id)] = true
		}
		if a.Topology == (inventory.Topology{Level: inventory.Island, Required: true}) && len(all)+len(place) > 2 {
			return fmt.Errorf("members are on several islands")
		}
		for member := range slices.Chunk(s.Devices, a.GPU.Count) {
			groups, islands := map[queue.Flavor]bool{}, map[int]bool{}
			for _, id := range member {
				if !free[id] || slices.Contains(a.Avoid.Devices, id) {
					return fmt.Errorf("device %s is not free", id)
				}
				delete(free, id)
				islands[islandOf(n, id)] = true
				for _, g := range n.Groups {
					if slices.ContainsFunc(g.Instances, func(d inventory.Instance) bool { return d.ID == id }) {
						groups[flavorOf(g)] = true
					}
				}
			}
			if len(groups) != 1 || !groups[flavor] {
				return fmt.Errorf("devices %q are of groups %v, not of %s", member, groups, flavor)
			}
			if onIsland(a) && len(islands) > 1 {
				return fmt.Errorf("devices %q are of several islands", member)
			}
		}
	}
	if sum != members {
		return fmt.Errorf("%d members, said to be %d", sum, members)
	}
	return nil
}

// cluster draws some nodes.
func cluster(t *rapid.T) []inventory.Node {
	var nodes []inventory.Node
	for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
		n := inventory.Node{
			ID: queue.NodeID(fmt.Sprintf("n%d", i)), Eligible: rapid.IntRange(0, 9).Draw(t, "eligible") > 0,
			Pool:   rapid.SampledFrom([]string{"default", "gpu"}).Draw(t, "pool"),
			CPUMHz: rapid.Int64Range(0, 8000).Draw(t, "mhz"), MemoryMiB: rapid.Int64Range(0, 8192).Draw(t, "mib"),
			Meta: map[string]string{
				"rack":  rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "rack"),
				"block": rapid.SampledFrom([]string{"", "b1", "b2"}).Draw(t, "block"),
			},
			Wiring: &topology.Published{Version: 1},
		}
		for _, model := range []string{"a100", "h100"} {
			count := rapid.IntRange(0, 6).Draw(t, model)
			if count == 0 {
				continue
			}
			g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: model}
			for k := range count {
				id := fmt.Sprintf("%s-%s-%d", n.ID, model, k)
				g.Instances = append(g.Instances, inventory.Instance{ID: id, Healthy: rapid.IntRange(0, 7).Draw(t, "healthy") > 0})
				b := topology.PublishedBoard{ID: id}
				if island := rapid.IntRange(-1, 1).Draw(t, "island"); island >= 0 {
					island += 10 * len(n.Groups) // islands are of one model
					b.Island = &island
				}
				n.Wiring.Boards = append(n.Wiring.Boards, b)
			}
			n.Groups = append(n.Groups, g)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// someAsk draws an ask, and the flavor of its devices.
func someAsk(t *rapid.T, nodes []inventory.Node) (inventory.Ask, queue.Flavor) {
	a := inventory.Ask{CPUMHz: rapid.Int64Range(0, 3000).Draw(t, "ask mhz"), MemoryMiB: rapid.Int64Range(0, 3000).Draw(t, "ask mib")}
	flavor := queue.Flavor("")
	if rapid.IntRange(0, 4).Draw(t, "gpus?") > 0 {
		model := rapid.SampledFrom([]string{"a100", "h100"}).Draw(t, "ask model")
		a.GPU = &pipeline.GPU{Count: rapid.IntRange(1, 4).Draw(t, "count"), Device: "nvidia/gpu"}
		if rapid.Bool().Draw(t, "island?") {
			a.GPU.Topology = &pipeline.Topology{Level: pipeline.Island, Required: rapid.Bool().Draw(t, "island required")}
		}
		flavor = queue.Flavor("nvidia-" + model)
	}
	if rapid.Bool().Draw(t, "topology?") {
		a.Topology = inventory.Topology{
			Level:    rapid.SampledFrom([]inventory.Level{inventory.Island, inventory.Host, inventory.Rack, inventory.Block}).Draw(t, "level"),
			Required: rapid.Bool().Draw(t, "required"),
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "pool?") == 0 {
		a.Pools = []string{"gpu"}
	}
	if rapid.IntRange(0, 3).Draw(t, "avoid?") == 0 {
		n := rapid.SampledFrom(nodes).Draw(t, "avoid")
		a.Avoid.Nodes = []queue.NodeID{n.ID}
	}
	for _, n := range nodes {
		for _, g := range n.Groups {
			if rapid.IntRange(0, 9).Draw(t, "avoid device?") == 0 {
				a.Avoid.Devices = append(a.Avoid.Devices, g.Instances[0].ID)
			}
		}
	}
	return a, flavor
}

func asJob(a inventory.Ask, flavor queue.Flavor) *queue.Job {
	each := queue.Resources{}
	if a.CPUMHz > 0 {
		each[inventory.CPU] = queue.Amount(a.CPUMHz)
	}
	if a.GPU != nil {
		each[flavor] = queue.Amount(a.GPU.Count) * queue.One
	}
	return &queue.Job{ID: "j", Shape: a.Shape(), Each: each}
}

// TestFleetAgainstNaiveAccount drives a fleet with random finds, takes and
// releases. It has room when a naive account has, and for as many; every place
// is sound; and answers do not depend on the order in which things came about.
func TestFleetAgainstNaiveAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t)
		f, err := inventory.New(nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := &naive{nodes: nodes}
		place := func(h holder) queue.Place {
			return queue.Place{{Node: h.node, Members: h.members, Devices: h.devices}}
		}
		t.Repeat(map[string]func(*rapid.T){
			"find": func(t *rapid.T) {
				a, flavor := someAsk(t, nodes)
				j := asJob(a, flavor)
				most := rapid.IntRange(1, 8).Draw(t, "most")
				p, n := f.Find(j, 0, most)
				if want := min(most, m.room(a, flavor)); n != want {
					t.Fatalf("room for %d of %d members, want %d: %v", n, most, want, p)
				}
				if err := m.check(a, flavor, p, n); err != nil {
					t.Fatalf("place %v: %v", p, err)
				}
				if n > 0 && !f.Free(j, 0, p) {
					t.Fatalf("place %v was found, but is not free", p)
				}
				again, _ := inventory.New(nodes, nil)
				order := rapid.Permutation(m.held).Draw(t, "order")
				for _, h := range order {
					again.Take(asJob(h.ask, ""), 0, place(h))
				}
				if q, _ := again.Find(j, 0, most); !cmp.Equal(p, q) {
					t.Fatalf("place %v; after other things in another order it is %v", p, q)
				}
				if n > 0 && rapid.Bool().Draw(t, "take") {
					f.Take(j, 0, p)
					for _, s := range p {
						m.held = append(m.held, holder{a, s.Members, s.Node, s.Devices})
					}
				}
			},
			"force": func(t *rapid.T) { // what holds a place holds it, free or not
				a, _ := someAsk(t, nodes)
				h := holder{ask: a, members: 1, node: rapid.SampledFrom(nodes).Draw(t, "node").ID}
				n, _ := m.node(h.node)
				for _, g := range n.Groups {
					for _, d := range g.Instances {
						if rapid.IntRange(0, 3).Draw(t, "hold") == 0 {
							h.devices = append(h.devices, d.ID)
						}
					}
				}
				h.devices = append(h.devices, "GPU-gone")
				f.Take(asJob(a, ""), 0, place(h))
				m.held = append(m.held, h)
			},
			"release": func(t *rapid.T) {
				if len(m.held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.held)-1).Draw(t, "which")
				f.Release(asJob(m.held[i].ask, ""), 0, place(m.held[i]))
				m.held = slices.Delete(m.held, i, i+1)
			},
			"clone": func(t *rapid.T) {
				// The clone is used and thrown away, or goes on in the other's place.
				c := f.Clone().(*inventory.Fleet)
				a, flavor := someAsk(t, nodes)
				thrown := c
				if rapid.Bool().Draw(t, "which") {
					thrown, f = f, c
				}
				if p, n := thrown.Find(asJob(a, flavor), 0, 4); n > 0 {
					thrown.Take(asJob(a, flavor), 0, p)
				}
			},
		})
	})
}

func TestMostIsWhatAnEmptyFleetHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t)
		for i := range nodes {
			nodes[i].Eligible = true
			for _, g := range nodes[i].Groups {
				for k := range g.Instances {
					g.Instances[k].Healthy = true
				}
			}
		}
		f, err := inventory.New(nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := someAsk(t, nodes)
		m := &naive{nodes: nodes}
		want := 0
		flavors := []queue.Flavor{""}
		if a.GPU != nil {
			flavors = []queue.Flavor{"nvidia-a100", "nvidia-h100"}
		}
		for _, flavor := range flavors {
			want = max(want, m.room(a, flavor))
		}
		if got := f.Most(a); got != want {
			t.Errorf("at most %d members, want %d", got, want)
		}
		if _, _, err := f.Options(a); (err == nil) != (want > 0) {
			t.Errorf("options: %v; %d members could run", err, want)
		}
	})
}
