package topology_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/topology"
)

func TestPublishedText(t *testing.T) {
	p := topology.Publish(topology.Graph{
		GPUs: []topology.GPU{
			{ID: "GPU-a", PCIBusID: "00000000:07:00.0", NUMANode: ptr(0), CPUs: "0-23"},
			{ID: "GPU-b", Index: 1},
		},
		NICs:  []topology.NIC{{Name: "mlx5_0", Netdev: "ib0", NUMANode: ptr(0), RDMA: true}},
		Links: []topology.Link{{A: "GPU-b", B: "GPU-a", Kind: topology.NVLink, NVLinks: 12}, {A: "GPU-a", B: "mlx5_0", Kind: topology.Bridges}},
	})
	board, ok := p.Board("GPU-b")
	if !ok {
		t.Fatal("GPU-b is not there")
	}
	p.Slices = []topology.PublishedSlice{{ID: "MIG-c", Board: board, Start: ptr(4), Size: ptr(4), GPUInstance: ptr(2), ComputeInstance: ptr(0)}}
	text, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	// A stored format: what is written here must be read for good.
	const want = `{"v":1,"boards":[{"id":"GPU-a","bus":"00000000:07:00.0","numa":0,"cpus":"0-23","island":0},{"id":"GPU-b","island":0}],` +
		`"slices":[{"id":"MIG-c","board":1,"start":4,"size":4,"gi":2,"ci":0}],` +
		`"nics":[{"name":"mlx5_0","netdev":"ib0","numa":0,"rdma":true}],"links":["NV12 PXB","?"]}`
	if text != want {
		t.Errorf("text\n%s, want\n%s", text, want)
	}
}

func TestPublishedIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := randomGraph(t)
		text, err := topology.Publish(g).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		p, err := topology.ParsePublished(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(g, p.Graph()); diff != "" {
			t.Fatalf("published and read (-before +after):\n%s", diff)
		}
	})
}

func TestPublishedErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no JSON", "x", "invalid character"},
		{"of another version", `{"v":2}`, "version 2"},
		{"a board twice", `{"v":1,"boards":[{"id":"a"},{"id":"a"}]}`, `"a" is empty or listed twice`},
		{"no board of a slice", `{"v":1,"boards":[{"id":"a"}],"slices":[{"id":"s","board":1}]}`, "of board 1 of 1"},
		{"rows missing", `{"v":1,"boards":[{"id":"a"},{"id":"b"}],"links":["NV1"]}`, "links of 1 boards, not of 2"},
		{"links missing", `{"v":1,"boards":[{"id":"a"},{"id":"b"}],"links":["",""]}`, "links of board 0 are 0, not 1"},
		{"no such link", `{"v":1,"boards":[{"id":"a"},{"id":"b"}],"links":["NVX",""]}`, `"NVX" is no kind`},
		{"too long", strings.Repeat(" ", topology.MaxPublishedBytes+1), "bytes are more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := topology.ParsePublished(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestPublishedSize is the size of the largest node that the bound is for.
func TestPublishedSize(t *testing.T) {
	var g topology.Graph
	uuid := func(kind string, n int) string { return fmt.Sprintf("%s-%08d-0000-0000-0000-000000000000", kind, n) }
	for i := range 16 {
		g.NICs = append(g.NICs, topology.NIC{Name: fmt.Sprintf("mlx5_%d", i), Netdev: fmt.Sprintf("ibp%ds0", i), NUMANode: ptr(1), RDMA: true})
	}
	for i := range 64 {
		g.GPUs = append(g.GPUs, topology.GPU{ID: uuid("GPU", i), Index: i, PCIBusID: "00000000:07:00.0", NUMANode: ptr(1), CPUs: "112-127,240-255"})
		for j := range i {
			g.Links = append(g.Links, topology.Link{A: g.GPUs[j].ID, B: g.GPUs[i].ID, Kind: topology.NVLink, NVLinks: 18})
		}
	}
	p := topology.Publish(g)
	for i := range 64 * 7 {
		p.Slices = append(p.Slices, topology.PublishedSlice{
			ID: uuid("MIG", i), Board: i / 7, Start: ptr(i % 7), Size: ptr(1), GPUInstance: ptr(7 + i%7), ComputeInstance: ptr(0),
		})
	}
	text, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of at most %d", len(text), topology.MaxPublishedBytes)
	for range 2000 {
		p.Slices = append(p.Slices, topology.PublishedSlice{ID: uuid("MIG", len(p.Slices))})
	}
	if _, err := p.Marshal(); err == nil {
		t.Error("no error of an attribute that is too long")
	}
}

func FuzzParsePublished(f *testing.F) {
	for _, name := range machines {
		text, err := topology.Publish(fixture(f, name)).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := topology.ParsePublished(text)
		if err != nil {
			return
		}
		g := p.Graph()
		g.Nearest(all(g))
		g.CPUs(all(g))
		if len(g.GPUs) < 20 {
			g.Best(2, all(g))
		}
	})
}
