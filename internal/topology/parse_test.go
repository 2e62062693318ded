package topology_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/topology"
)

// fixture is the graph of a machine of which testdata has the matrix.
func fixture(t testing.TB, name string) topology.Graph {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.ParseMatrix(string(content))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return g
}

func ptr[T any](v T) *T { return &v }

func TestParseMatrix(t *testing.T) {
	type end struct{ a, b, link string }
	tests := []struct {
		name       string
		gpus, nics int
		third      topology.GPU
		nic        topology.NIC
		links      []end
	}{
		{
			name: "dgx-a100", gpus: 8, nics: 12,
			third: topology.GPU{ID: "GPU2", Index: 2, NUMANode: ptr(1), CPUs: "16-31,144-159", Island: ptr(0)},
			nic:   topology.NIC{Name: "mlx5_11", RDMA: true},
			links: []end{{"GPU0", "GPU7", "NV12"}, {"GPU4", "mlx5_6", "PXB"}, {"GPU4", "mlx5_4", "SYS"}},
		},
		{
			name: "hgx-h100", gpus: 8, nics: 10,
			third: topology.GPU{ID: "GPU2", Index: 2, NUMANode: ptr(0), CPUs: "0-55,112-167", Island: ptr(0)},
			nic:   topology.NIC{Name: "mlx5_bond_1", RDMA: true},
			links: []end{{"GPU0", "GPU7", "NV18"}, {"mlx5_0", "GPU0", "PIX"}, {"GPU1", "mlx5_0", "NODE"}},
		},
		{
			name: "dgx-2", gpus: 16, nics: 10,
			third: topology.GPU{ID: "GPU2", Index: 2, CPUs: "0-23,48-71", Island: ptr(0)},
			nic:   topology.NIC{Name: "mlx5_9", RDMA: true},
			links: []end{{"GPU15", "GPU0", "NV6"}, {"GPU2", "mlx5_1", "PIX"}, {"GPU2", "mlx5_0", "PXB"}},
		},
		{
			name: "dgx-1", gpus: 8, nics: 4,
			third: topology.GPU{ID: "GPU2", Index: 2, CPUs: "0-19,40-59", Island: ptr(0)},
			nic:   topology.NIC{Name: "mlx5_3", RDMA: true},
			links: []end{{"GPU0", "GPU3", "NV2"}, {"GPU0", "GPU5", "SYS"}},
		},
		{
			name: "pcie-l40s", gpus: 8, nics: 2,
			third: topology.GPU{ID: "GPU2", Index: 2, NUMANode: ptr(0), CPUs: "0-31"},
			nic:   topology.NIC{Name: "mlx5_1", RDMA: true},
			links: []end{{"GPU0", "GPU1", "PIX"}, {"GPU6", "mlx5_1", "PHB"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := fixture(t, tt.name)
			if len(g.GPUs) != tt.gpus || len(g.NICs) != tt.nics {
				t.Fatalf("%d GPUs and %d NICs, want %d and %d", len(g.GPUs), len(g.NICs), tt.gpus, tt.nics)
			}
			if diff := cmp.Diff(tt.third, g.GPUs[2]); diff != "" {
				t.Errorf("third GPU (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.nic, g.NICs[tt.nics-1]); diff != "" {
				t.Errorf("last NIC (-want +got):\n%s", diff)
			}
			for _, want := range tt.links {
				if got := g.Between(want.a, want.b).String(); got != want.link {
					t.Errorf("%s to %s is %q, want %q", want.a, want.b, got, want.link)
				}
			}
			if want := (tt.gpus + tt.nics) * (tt.gpus + tt.nics - 1) / 2; len(g.Links) != want {
				t.Errorf("%d links, want %d", len(g.Links), want)
			}
		})
	}
}

func TestParseMatrixAsPasted(t *testing.T) {
	tests := []struct {
		name, text string
		want       topology.Graph
	}{
		{
			name: "the row of a lost GPU is missing",
			text: "\tGPU0\tGPU1\tGPU2\tCPU Affinity\n" +
				"GPU0\t X \tNV4\tNV4\t0-7\n" +
				"GPU2\tNV4\tNV4\t X \t0-7\n",
			want: topology.Graph{
				GPUs: []topology.GPU{
					{ID: "GPU0", CPUs: "0-7", Island: ptr(0)},
					{ID: "GPU2", Index: 2, CPUs: "0-7", Island: ptr(0)},
				},
				Links: []topology.Link{{A: "GPU0", B: "GPU2", Kind: topology.NVLink, NVLinks: 4}},
			},
		},
		{
			name: "one GPU and Windows line ends",
			text: "        GPU0    CPU Affinity    NUMA Affinity\r\nGPU0     X      0-11    N/A\r\n",
			want: topology.Graph{GPUs: []topology.GPU{{ID: "GPU0", CPUs: "0-11"}}},
		},
		{
			name: "no CPUs, only the node",
			text: "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t\t1\t\tN/A\n",
			want: topology.Graph{GPUs: []topology.GPU{{ID: "GPU0", NUMANode: ptr(1)}}},
		},
		{
			name: "a GPU with memory on a node of its own, near to two nodes",
			text: "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-71\t0-1\t\t4\n",
			want: topology.Graph{GPUs: []topology.GPU{{ID: "GPU0", CPUs: "0-71", MemoryNode: ptr(4)}}},
		},
		{
			name: "talk around it",
			text: "GPU0 and NIC behave:\n\n  GPU0 mlx5_0\nGPU0 X PHB\nmlx5_0 PHB X\n\nAll is fine with GPU0.\n",
			want: topology.Graph{
				GPUs:  []topology.GPU{{ID: "GPU0"}},
				NICs:  []topology.NIC{{Name: "mlx5_0", RDMA: true}},
				Links: []topology.Link{{A: "GPU0", B: "mlx5_0", Kind: topology.HostBridge}},
			},
		},
		{
			name: "a cell that the driver does not know",
			text: "GPU0 GPU1\nGPU0 X N/A\nGPU1 N/A X\n",
			want: topology.Graph{GPUs: []topology.GPU{{ID: "GPU0"}, {ID: "GPU1", Index: 1}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := topology.ParseMatrix(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("graph (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMatrixErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nothing", "", "no header line"},
		{"something else", "Tue Jan  2 15:04:05 2026\n+-----+\n", "no header line"},
		{"a header and no rows", "GPU0 GPU1\n", "no row of a GPU"},
		{"a row is cut off", "GPU0 GPU1\nGPU0 X\n", "row GPU0 has 1 cells, and there are 2 columns"},
		{"no such connection", "GPU0 GPU1\nGPU0 X PXX\n", `row GPU0, column GPU1: "PXX"`},
		{"no NVLinks", "GPU0 GPU1\nGPU0 X NV0\n", `"NV0" is no kind of connection`},
		{"a diagonal off its place", "GPU0 GPU1\nGPU0 NV4 X\n", "row GPU0, column GPU0: X is for"},
		{"contradiction", "GPU0 GPU1\nGPU0 X NV4\nGPU1 SYS X\n", "GPU0 to GPU1 is NV4 in one row and SYS in the other"},
		{"a row twice", "GPU0 GPU1\nGPU0 X NV4\nGPU0 X NV4\n", "two rows of GPU0"},
		{"a column twice", "GPU0 GPU0\nGPU0 X X\n", "two columns have one name"},
		{"a NIC twice", "GPU0 NIC0 NIC1\nGPU0 X PIX PIX\nNIC0: a\nNIC1: a\n", "the NIC legend has a twice"},
		{"no CPUs", "GPU0 CPU Affinity NUMA Affinity\nGPU0 X 7-3 0\n", `row GPU0: CPU list "7-3"`},
		{"too large", strings.Repeat("x", topology.MaxMatrixBytes+1), "bytes are more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := topology.ParseMatrix(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// FuzzParseMatrix checks that what is read can be printed and read again.
func FuzzParseMatrix(f *testing.F) {
	for _, name := range machines {
		content, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
	}
	f.Add("GPU0 GPU1 mlx5_0 CPU Affinity\nGPU0 X NV4 PIX 0-3\nGPU1 NV4 X SYS 0-3\n")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := topology.ParseMatrix(text)
		if err != nil {
			return
		}
		if again := reparse(t, g); !cmp.Equal(g, again) {
			t.Errorf("printed and read again (-before +after):\n%s", cmp.Diff(g, again))
		}
	})
}

func reparse(t testing.TB, g topology.Graph) topology.Graph {
	t.Helper()
	var printed strings.Builder
	if err := g.WriteMatrix(&printed); err != nil {
		t.Fatal(err)
	}
	again, err := topology.ParseMatrix(printed.String())
	if err != nil {
		t.Fatalf("%v of\n%s", err, printed.String())
	}
	return again
}

// machines are those of which testdata has the matrix.
var machines = []string{"dgx-a100", "hgx-h100", "dgx-2", "dgx-1", "pcie-l40s", "workstation"}

func TestWriteMatrixIsRead(t *testing.T) {
	for _, name := range machines {
		t.Run(name, func(t *testing.T) {
			g := fixture(t, name)
			if diff := cmp.Diff(g, reparse(t, g)); diff != "" {
				t.Errorf("printed and read again (-before +after):\n%s", diff)
			}
		})
	}
}
