package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/drover-ml/drover/internal/topology"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// large is a cluster of so many nodes of eight GPUs, 16 a rack and 32 racks a
// block, of two models, with all that a node tells of itself.
func large(b *testing.B, nodes int) []inventory.Node {
	b.Helper()
	models := []inventory.Node{machine(b, "dgx-h100", "h100"), machine(b, "dgx-a100", "a100")}
	all := make([]inventory.Node, nodes)
	for i := range all {
		n := models[i%7%2]
		n.ID = queue.NodeID(fmt.Sprintf("node-%05d", i))
		n.CPUMHz, n.MemoryMiB = 256_000, 2<<20
		n.Meta = map[string]string{"rack": fmt.Sprint(i / 16), "block": fmt.Sprint(i / 512)}
		g := n.Groups[0]
		g.Instances = nil
		w := *n.Wiring
		w.Boards = append([]topology.PublishedBoard(nil), w.Boards...)
		for k := range 8 {
			id := fmt.Sprintf("GPU-%05d-%d-1be2-89ff-a272-c92109637c7f", i, k)
			g.Instances = append(g.Instances, inventory.Instance{ID: id, Healthy: true})
			w.Boards[k].ID = id
		}
		n.Groups, n.Wiring = []inventory.Group{g}, &w
		all[i] = n
	}
	return all
}

// busy is a fleet of 10,000 nodes and 80,000 GPUs, four of five of them held, and
// what runs there.
func busy(b *testing.B) (*inventory.Fleet, []queue.Running) {
	b.Helper()
	f := fleet(b, large(b, 10_000)...)
	random := rand.New(rand.NewPCG(1, 2))
	var jobs []*queue.Job
	for _, count := range []int{1, 1, 1, 2, 4, 8} {
		jobs = append(jobs, job(b, f, inventory.Ask{CPUMHz: int64(count) * 16_000, MemoryMiB: int64(count) * 131072, GPU: gpus(count)}))
	}
	var running []queue.Running
	for held := 0; held < 64_000; {
		j := jobs[random.IntN(len(jobs))]
		option := random.IntN(2)
		p, n := f.Find(j, option, 1)
		if n == 0 {
			continue
		}
		f.Take(j, option, p)
		held += len(p[0].Devices)
		running = append(running, queue.Running{Job: *j, Run: queue.Run{Option: option, Place: p, Members: 1}})
	}
	return f, running
}

func BenchmarkFind(b *testing.B) {
	f, running := busy(b)
	random := rand.New(rand.NewPCG(3, 4))
	for _, bench := range []struct {
		name    string
		ask     inventory.Ask
		members int
		churn   bool // a job ends and another starts between two calls
	}{
		{name: "8 GPUs", ask: inventory.Ask{CPUMHz: 128_000, MemoryMiB: 1 << 20, GPU: gpus(8)}, members: 1},
		{name: "8 GPUs after a job ended", ask: inventory.Ask{CPUMHz: 128_000, MemoryMiB: 1 << 20, GPU: gpus(8)}, members: 1, churn: true},
		{name: "1 GPU after a job ended", ask: inventory.Ask{CPUMHz: 16_000, MemoryMiB: 131072, GPU: gpus(1)}, members: 1, churn: true},
		{name: "gang of 64 x 8 GPUs after a job ended", ask: inventory.Ask{CPUMHz: 128_000, MemoryMiB: 1 << 20, GPU: gpus(8)}, members: 64, churn: true},
		{name: "gang of 8 x 1 GPU after a job ended", ask: inventory.Ask{CPUMHz: 16_000, MemoryMiB: 131072, GPU: gpus(1)}, members: 8, churn: true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			j := job(b, f, bench.ask)
			b.ReportAllocs()
			for b.Loop() {
				if bench.churn {
					b.StopTimer()
					r := &running[random.IntN(len(running))]
					f.Release(&r.Job, r.Run.Option, r.Run.Place)
					r.Run.Place, _ = f.Find(&r.Job, r.Run.Option, 1)
					f.Take(&r.Job, r.Run.Option, r.Run.Place)
					b.StartTimer()
				}
				if _, n := f.Find(j, 0, bench.members); n == 0 {
					b.Fatal("no room")
				}
			}
		})
	}
	b.Run("an ask that was never seen", func(b *testing.B) {
		at := 0
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			at++
			j := job(b, f, inventory.Ask{CPUMHz: 16_000, MemoryMiB: 131072 + int64(at%1000), GPU: gpus(1)})
			c := f.Clone().(*inventory.Fleet)
			b.StartTimer()
			c.Find(j, 0, 1)
		}
	})
}

func BenchmarkClone(b *testing.B) {
	f, _ := busy(b)
	b.ReportAllocs()
	for b.Loop() {
		f.Clone()
	}
}

func BenchmarkTakeRelease(b *testing.B) {
	f, running := busy(b)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		r := &running[i%len(running)]
		i++
		f.Release(&r.Job, r.Run.Option, r.Run.Place)
		f.Take(&r.Job, r.Run.Option, r.Run.Place)
	}
}

func BenchmarkNew(b *testing.B) {
	nodes := large(b, 10_000)
	for b.Loop() {
		fleet(b, nodes...)
	}
}

func BenchmarkOptions(b *testing.B) {
	f, _ := busy(b)
	for b.Loop() {
		if _, _, err := f.Options(inventory.Ask{CPUMHz: 1000, GPU: gpus(8)}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConsolidate lets 8 GPUs of one node, and then of 16 nodes of a rack,
// become free on a fleet where all that runs may be moved.
func BenchmarkConsolidate(b *testing.B) {
	f, running := busy(b)
	var movable []queue.Movable
	for i, r := range running {
		r.ID = queue.JobID(fmt.Sprint(i))
		if i%5 == 0 { // it has ended, and left a hole
			f.Release(&r.Job, r.Run.Option, r.Run.Place)
			continue
		}
		movable = append(movable, queue.Movable{Running: r, Lost: float64(i * 7919 % 1000)})
	}
	large := job(b, f, inventory.Ask{CPUMHz: 128_000, MemoryMiB: 1 << 20, GPU: gpus(8)})
	for { // what is whole is taken
		p, n := f.Find(large, 0, 1)
		if n == 0 {
			break
		}
		f.Take(large, 0, p)
	}
	gang := job(b, f, inventory.Ask{CPUMHz: 128_000, MemoryMiB: 1 << 20, GPU: gpus(8), Topology: inventory.Topology{Level: inventory.Rack, Required: true}})
	for _, bench := range []struct {
		name    string
		job     *queue.Job
		members int
	}{{"one node", large, 1}, {"four nodes of a rack", gang, 4}} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				c, ok := inventory.Consolidate(f, movable, bench.job, 0, bench.members)
				b.ReportMetric(float64(len(c.Moves)), "moves")
				if !ok {
					b.Fatal("no moves")
				}
			}
		})
	}
}
