package topology_test

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/topology"
)

// gpus are the IDs "GPU<n>" of the numbers.
func gpus(numbers ...int) []string {
	ids := []string{}
	for _, n := range numbers {
		ids = append(ids, fmt.Sprintf("GPU%d", n))
	}
	return ids
}

func all(g topology.Graph) []string {
	var ids []string
	for _, gpu := range g.GPUs {
		ids = append(ids, gpu.ID)
	}
	return ids
}

func TestBest(t *testing.T) {
	tests := []struct {
		name, machine string
		n             int
		free          []string // nil is all
		want          []string
	}{
		{name: "any of a switch will do", machine: "hgx-h100", n: 2, want: gpus(0, 1)},
		{name: "all", machine: "hgx-h100", n: 8, want: gpus(0, 1, 2, 3, 4, 5, 6, 7)},
		{name: "in the order of the machine", machine: "hgx-h100", n: 2, free: gpus(6, 3), want: gpus(3, 6)},
		{name: "of a switch, at one NUMA node", machine: "hgx-h100", n: 2, free: gpus(3, 4, 6), want: gpus(4, 6)},
		{name: "a NUMA node is left whole", machine: "hgx-h100", n: 1, free: gpus(1, 2, 4), want: gpus(4)},
		{name: "double links before single ones, with a card in common", machine: "dgx-1", n: 2, want: gpus(2, 3)},
		{name: "a quad of a cube", machine: "dgx-1", n: 4, want: gpus(0, 1, 2, 3)},
		{name: "the quad that is left", machine: "dgx-1", n: 4, free: gpus(2, 3, 4, 5, 6, 7), want: gpus(4, 5, 6, 7)},
		{name: "a triangle of NVLinks over a chain", machine: "dgx-1", n: 3, free: gpus(0, 4, 5, 6), want: gpus(4, 5, 6)},
		{name: "under one switch", machine: "pcie-l40s", n: 2, free: gpus(1, 2, 3, 5), want: gpus(2, 3)},
		{name: "on one socket", machine: "pcie-l40s", n: 3, free: gpus(1, 2, 5, 6, 7), want: gpus(5, 6, 7)},
		{name: "what is left together stays together", machine: "pcie-l40s", n: 1, free: gpus(2, 3, 5), want: gpus(5)},
		{name: "a small island before a part of a large one", machine: "pcie-l40s", n: 2, free: gpus(0, 1, 2, 3, 4, 5), want: gpus(4, 5)},
		{name: "too few", machine: "workstation", n: 3},
		{name: "none wanted", machine: "workstation", n: 0},
		{name: "unknown ones do not count", machine: "workstation", n: 2, free: []string{"GPU0", "GPU9"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := fixture(t, tt.machine)
			if tt.free == nil {
				tt.free = all(g)
			}
			if diff := cmp.Diff(tt.want, g.Best(tt.n, tt.free)); diff != "" {
				t.Errorf("choice (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBestOracle compares every number of GPUs of every machine, and random
// sets of free ones, with the definition.
func TestBestOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, machine := range machines {
		t.Run(machine, func(t *testing.T) {
			g := fixture(t, machine)
			sets := [][]string{all(g)}
			for range 8 {
				some := slices.DeleteFunc(all(g), func(string) bool { return random.IntN(3) == 0 })
				sets = append(sets, some)
			}
			for i, free := range sets {
				for n := 1; n <= len(free); n++ {
					if len(free) > 10 && i > 0 && n != 4 {
						continue // the oracle is slow
					}
					if diff := cmp.Diff(oracle(g, n, free), g.Best(n, free)); diff != "" {
						t.Errorf("%d of %v (-want +got):\n%s", n, free, diff)
					}
				}
			}
		})
	}
}

// oracle looks at every choice, comparing lists of ranks as the definition of
// Best does.
func oracle(g topology.Graph, n int, free []string) []string {
	rank := func(a, b string) int {
		l := g.Between(a, b)
		if l.Kind == topology.NVLink {
			return 5 + l.NVLinks
		}
		return slices.Index([]topology.Kind{"", topology.System, topology.SameNode, topology.HostBridge, topology.Bridges, topology.SameBoard}, l.Kind)
	}
	numa := map[string]int{}
	for _, gpu := range g.GPUs {
		if gpu.NUMANode != nil {
			numa[gpu.ID] = 1 + *gpu.NUMANode
		}
	}
	const step = 1 << 16 // more than there are pairs
	cards := make([][]string, len(free))
	for i, id := range free {
		for _, n := range g.Nearest([]string{id}) {
			if k := g.Between(id, n.Name).Kind; k == topology.SameBoard || k == topology.Bridges {
				cards[i] = append(cards[i], n.Name)
			}
		}
	}
	share := make([][]bool, len(free))
	for i := range free {
		for j := range free {
			share[i] = append(share[i], slices.ContainsFunc(cards[i], func(n string) bool { return slices.Contains(cards[j], n) }))
		}
	}
	ranks := make([][]int, len(free))
	for i, a := range free {
		for _, b := range free {
			near := rank(a, b) * step
			if numa[a] > 0 && numa[a] == numa[b] {
				near++
			}
			ranks[i] = append(ranks[i], near)
		}
	}
	var best, bestScore []int
	for set := range 1 << len(free) {
		if bits.OnesCount(uint(set)) != n {
			continue
		}
		var chosen []int
		farthest, sum, rest := math.MaxInt, 0, 0
		var pairs [2]int // that share a card, left and chosen
		for i := range free {
			if set&(1<<i) != 0 {
				chosen = append(chosen, i)
			}
			for j := range i {
				a, b := set>>i&1, set>>j&1
				if a == b && share[i][j] {
					pairs[a]++
				}
				switch {
				case a+b == 2:
					farthest, sum = min(farthest, ranks[i][j]), sum+ranks[i][j]
				case a+b == 0:
					rest += ranks[i][j]
				}
			}
		}
		score := []int{farthest, sum, rest, pairs[1], pairs[0]}
		for _, i := range chosen {
			score = append(score, -i) // the first of equals
		}
		if best == nil || slices.Compare(score, bestScore) > 0 {
			best, bestScore = chosen, score
		}
	}
	var ids []string
	for _, i := range best {
		ids = append(ids, free[i])
	}
	return ids
}

// TestBestShareACard has eight GPUs on one switch and at one NUMA node, each pair of
// which has a network card of its own.
func TestBestShareACard(t *testing.T) {
	var g topology.Graph
	node := 0
	for i := range 8 {
		g.GPUs = append(g.GPUs, topology.GPU{ID: fmt.Sprintf("GPU%d", i), Index: i, NUMANode: &node})
		if i%2 == 0 {
			g.NICs = append(g.NICs, topology.NIC{Name: fmt.Sprintf("mlx5_%d", i/2), RDMA: true})
		}
		for j := range i {
			g.Links = append(g.Links, topology.Link{A: g.GPUs[j].ID, B: g.GPUs[i].ID, Kind: topology.NVLink, NVLinks: 18})
		}
	}
	for _, gpu := range g.GPUs {
		for n, nic := range g.NICs {
			l := topology.Link{A: gpu.ID, B: nic.Name, Kind: topology.SameNode}
			if gpu.Index/2 == n {
				l.Kind = topology.SameBoard
			}
			g.Links = append(g.Links, l)
		}
	}
	for _, tt := range []struct {
		n          int
		free, want []string
	}{
		{2, gpus(0, 2, 3, 5), gpus(2, 3)},
		{1, gpus(0, 1, 4, 6, 7), gpus(4)},
		{4, gpus(1, 2, 3, 5, 6, 7), gpus(2, 3, 6, 7)},
	} {
		if diff := cmp.Diff(tt.want, g.Best(tt.n, tt.free)); diff != "" {
			t.Errorf("%d of %v (-want +got):\n%s", tt.n, tt.free, diff)
		}
	}
}

// TestBestOfMany is of more choices than can be looked at.
func TestBestOfMany(t *testing.T) {
	var g topology.Graph
	for i := range 64 {
		g.GPUs = append(g.GPUs, topology.GPU{ID: fmt.Sprintf("GPU%d", i), Index: i})
		for j := range i {
			l := topology.Link{A: g.GPUs[j].ID, B: g.GPUs[i].ID, Kind: topology.System}
			if i/8 == j/8 {
				l.Kind, l.NVLinks = topology.NVLink, 18
			}
			g.Links = append(g.Links, l)
		}
	}
	free := all(g)[5:] // of the first island only three are left
	if diff := cmp.Diff(gpus(8, 9, 10, 11, 12, 13, 14, 15), g.Best(8, free)); diff != "" {
		t.Errorf("choice (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(gpus(5, 6, 7), g.Best(3, free)); diff != "" {
		t.Errorf("choice (-want +got):\n%s", diff)
	}
}

// BenchmarkBest is of the most choices that are all looked at.
func BenchmarkBest(b *testing.B) {
	g := fixture(b, "dgx-2")
	free := all(g)
	for b.Loop() {
		g.Best(8, free)
	}
}

func TestNearest(t *testing.T) {
	down := fixture(t, "dgx-a100")
	down.NICs[0].Down = true
	plain := fixture(t, "dgx-a100")
	for i := range plain.NICs {
		plain.NICs[i].RDMA = i > 1
	}
	tests := []struct {
		name string
		g    topology.Graph
		gpus []string
		want string
	}{
		{"the two of a pair", fixture(t, "dgx-a100"), gpus(0, 1), "mlx5_0 mlx5_1"},
		{"one is down", down, gpus(0), "mlx5_1"},
		{"of several pairs", fixture(t, "dgx-a100"), gpus(1, 4, 5), "mlx5_0 mlx5_1 mlx5_6 mlx5_7"},
		{"each GPU has its own", fixture(t, "hgx-h100"), gpus(0, 1, 5), "mlx5_0 mlx5_3 mlx5_9"},
		{"far ones, if RDMA has no nearer", plain, gpus(0), "mlx5_2 mlx5_3 mlx5_4 mlx5_5 mlx5_6 mlx5_7 mlx5_8 mlx5_9 mlx5_10 mlx5_11"},
		{"no NIC", fixture(t, "workstation"), gpus(0, 1), ""},
		{"no GPU", fixture(t, "dgx-a100"), nil, ""},
		{"an unknown GPU", fixture(t, "dgx-a100"), gpus(77), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var names []string
			for _, n := range tt.g.Nearest(tt.gpus) {
				names = append(names, n.Name)
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("NICs %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOfASet(t *testing.T) {
	a100, l40s, dgx1 := fixture(t, "dgx-a100"), fixture(t, "pcie-l40s"), fixture(t, "dgx-1")
	if got, want := a100.CPUs(gpus(0, 1, 2)), "16-31,48-63,144-159,176-191"; got != want {
		t.Errorf("CPUs %q, want %q", got, want)
	}
	if got := (topology.Graph{GPUs: []topology.GPU{{ID: "a", CPUs: "0-3"}, {ID: "b"}}}).CPUs([]string{"a", "b"}); got != "" {
		t.Errorf("CPUs %q of a set of which not all are known", got)
	}
	if diff := cmp.Diff([]int{1, 3}, a100.NUMANodes(gpus(0, 1, 2))); diff != "" {
		t.Errorf("NUMA nodes (-want +got):\n%s", diff)
	}
	for want, got := range map[string]string{
		"NV12": a100.Class(all(a100)), "NODE": l40s.Class(gpus(1, 2, 3)), "": l40s.Class(gpus(1)), "NV1": dgx1.Class(gpus(0, 1, 2, 3)),
	} {
		if got != want {
			t.Errorf("class %q, want %q", got, want)
		}
	}
	if islands := l40s.Islands(); len(islands) != 0 {
		t.Errorf("islands %v without NVLink", islands)
	}
	if diff := cmp.Diff([][]string{all(dgx1)}, dgx1.Islands()); diff != "" {
		t.Errorf("islands of a cube (-want +got):\n%s", diff)
	}
	lone := topology.Graph{
		GPUs:  []topology.GPU{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "d"}, {ID: "e"}},
		Links: []topology.Link{{A: "d", B: "e", Kind: topology.NVLink, NVLinks: 4}, {A: "c", B: "a", Kind: topology.NVLink, NVLinks: 4}},
	}
	if diff := cmp.Diff([][]string{{"a", "c"}, {"d", "e"}}, lone.Islands()); diff != "" {
		t.Errorf("islands of bridged pairs (-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	order := []topology.Link{
		{}, {Kind: topology.System}, {Kind: topology.SameNode}, {Kind: topology.HostBridge}, {Kind: topology.Bridges}, {Kind: topology.SameBoard},
		{Kind: topology.NVLink, NVLinks: 1}, {Kind: topology.NVLink, NVLinks: 12}, {Kind: topology.NVLink, NVLinks: 18},
	}
	for i, a := range order {
		for j, b := range order {
			if got := topology.Compare(a, b); (got > 0) != (i > j) || (got == 0) != (i == j) {
				t.Errorf("%q against %q is %d", a, b, got)
			}
		}
	}
}

// randomGraph draws a machine with some connections unknown.
func randomGraph(t *rapid.T) topology.Graph {
	var g topology.Graph
	optional := rapid.Ptr(rapid.IntRange(0, 7), true)
	for i := range rapid.IntRange(1, 10).Draw(t, "GPUs") {
		g.GPUs = append(g.GPUs, topology.GPU{
			ID: fmt.Sprintf("GPU-%d", i), Index: i, PCIBusID: fmt.Sprintf("00000000:%02X:00.0", i),
			NUMANode: optional.Draw(t, "node"), CPUs: rapid.SampledFrom([]string{"", "0-3", "4-7,12-15"}).Draw(t, "CPUs"),
		})
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "NICs") {
		g.NICs = append(g.NICs, topology.NIC{
			Name: fmt.Sprintf("mlx5_%d", i), Netdev: rapid.SampledFrom([]string{"", fmt.Sprintf("ib%d", i)}).Draw(t, "netdev"),
			NUMANode: optional.Draw(t, "node"), RDMA: rapid.Bool().Draw(t, "RDMA"), Down: rapid.Bool().Draw(t, "down"),
		})
	}
	kinds := []topology.Kind{"", topology.NVLink, topology.SameBoard, topology.Bridges, topology.HostBridge, topology.SameNode, topology.System}
	link := func(a, b string) {
		l := topology.Link{A: a, B: b, Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
		if l.Kind == topology.NVLink {
			l.NVLinks = rapid.IntRange(1, 18).Draw(t, "NVLinks")
		}
		if l.Kind != "" {
			g.Links = append(g.Links, l)
		}
	}
	for i, a := range g.GPUs {
		for _, b := range g.GPUs[i+1:] {
			link(a.ID, b.ID)
		}
		for _, n := range g.NICs {
			link(a.ID, n.Name)
		}
	}
	return g.WithIslands()
}

// TestBestProperties draws machines and checks what must hold of any choice.
func TestBestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := randomGraph(t)
		free := rapid.SliceOfDistinct(rapid.SampledFrom(all(g)), rapid.ID).Draw(t, "free")
		n := rapid.IntRange(1, 10).Draw(t, "n")
		got := g.Best(n, free)
		if (got == nil) != (n > len(free)) {
			t.Fatalf("%d of %v is %v", n, free, got)
		}
		if got == nil {
			return
		}
		for _, id := range got {
			if !slices.Contains(free, id) {
				t.Fatalf("%s is not free", id)
			}
		}
		sorted := slices.DeleteFunc(all(g), func(id string) bool { return !slices.Contains(free, id) })
		if diff := cmp.Diff(oracle(g, n, sorted), got); diff != "" {
			t.Fatalf("choice (-want +got):\n%s", diff)
		}
	})
}
