package inventory_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// gpuNode is a node of whole GPUs of one model, of which nothing is known but
// their number.
func gpuNode(id string, gpus int, edit ...func(*inventory.Node)) inventory.Node {
	n := inventory.Node{ID: queue.NodeID(id), Name: id, Pool: "default", Datacenter: "dc1", Eligible: true, Drivers: []string{"ml"}, CPUMHz: 64_000, MemoryMiB: 512 << 10}
	if gpus > 0 {
		g := inventory.Group{Vendor: "nvidia", Type: "gpu", Name: "NVIDIA A100-SXM4-40GB"}
		for i := range gpus {
			g.Instances = append(g.Instances, inventory.Instance{ID: fmt.Sprintf("GPU-%s-%d", id, i), Healthy: true})
		}
		n.Groups = []inventory.Group{g}
	}
	for _, e := range edit {
		e(&n)
	}
	return n
}

func gpus(n int) *pipeline.GPU { return &pipeline.GPU{Count: n, Device: "nvidia/gpu"} }

// job is a job of an ask, with what it is charged on f.
func job(t testing.TB, f *inventory.Fleet, a inventory.Ask) *queue.Job {
	t.Helper()
	each, or, err := f.Options(a)
	if err != nil {
		t.Fatal(err)
	}
	return &queue.Job{ID: "run/step", Shape: a.Shape(), Each: each, Or: or, Min: 1, Max: 1}
}

func fleet(t testing.TB, nodes ...inventory.Node) *inventory.Fleet {
	t.Helper()
	f, err := inventory.New(nodes, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFindGivesEachDeviceOnce(t *testing.T) {
	f := fleet(t, gpuNode("a", 4), gpuNode("b", 2))
	j := job(t, f, inventory.Ask{CPUMHz: 1000, MemoryMiB: 1024, GPU: gpus(1)})
	var got []string
	for {
		p, n := f.Find(j, 0, 1)
		if n == 0 {
			break
		}
		f.Take(j, 0, p)
		got = append(got, p[0].Devices...)
	}
	if diff := cmp.Diff([]string{"GPU-b-0", "GPU-b-1", "GPU-a-0", "GPU-a-1", "GPU-a-2", "GPU-a-3"}, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// TestClonesGoTheirOwnWay has clones at work side by side: they share what none
// of them changes. It is for the race detector.
func TestClonesGoTheirOwnWay(t *testing.T) {
	f := fleet(t, gpuNode("a", 4), gpuNode("b", 2))
	one := job(t, f, inventory.Ask{GPU: gpus(1)})
	f.Find(one, 0, 1)
	var all sync.WaitGroup
	for i := range 4 {
		c := f.Clone()
		all.Go(func() {
			other := *one
			other.Shape = inventory.Ask{GPU: gpus(1), CPUMHz: int64(i + 1)}.Shape()
			for range 3 {
				p, _ := c.Find(one, 0, 1)
				c.Take(one, 0, p)
				p, _ = c.Find(&other, 0, 1)
				c.Take(&other, 0, p)
			}
			if _, n := c.Find(one, 0, 1); n != 0 {
				t.Errorf("clone %d has room for %d more", i, n)
			}
		})
	}
	all.Wait()
	if n := free(t, f); n != 6 {
		t.Errorf("%d GPUs of the original are free, want all 6", n)
	}
}
