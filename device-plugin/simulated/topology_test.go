package simulated

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the files of testdata")

func graph(t *testing.T, s *Source) topology.Graph {
	t.Helper()
	g, err := s.Topology(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestTopologyOfServers: a server's graph is what nvidia-smi topo -m shows of
// a real one.
func TestTopologyOfServers(t *testing.T) {
	for _, name := range []string{"dgx-2", "dgx-a100", "dgx-h100", "gb200-tray", "pcie-a100", "workstation", "4xl4"} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			writeMatrix(&got, graph(t, start(t, Config{Machine: machine(t, name)})))
			path := filepath.Join("testdata", "topo-"+name+".txt")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
			}
		})
	}
}

// writeMatrix writes a row for each board: its connections with the boards and
// the cards, its CPUs and its NUMA node.
func writeMatrix(w io.Writer, g topology.Graph) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for i, b := range g.GPUs {
		fmt.Fprintf(t, "GPU%d", i)
		for j, other := range g.GPUs {
			if i == j {
				fmt.Fprint(t, "\tX")
			} else {
				fmt.Fprintf(t, "\t%s", g.Between(b.ID, other.ID))
			}
		}
		for _, n := range g.NICs {
			fmt.Fprintf(t, "\t%s %s", n.Name, g.Between(b.ID, n.Name))
		}
		fmt.Fprintf(t, "\t%s\t%d\n", b.CPUs, *b.NUMANode)
	}
}

// TestServers: each server has the links, places and islands that it is known
// for.
func TestServers(t *testing.T) {
	tests := []struct {
		preset  string
		class   string // the farthest of all boards
		islands int
		board   int
		cpus    string
		numa    int
		nics    string // nearer than through the CPU
	}{
		{"dgx-2", "NV6", 1, 3, "0-23,48-71", 0, "mlx5_0 PXB, mlx5_1 PIX"},
		{"dgx-a100", "NV12", 1, 1, "48-63,176-191", 3, "mlx5_0 PXB, mlx5_1 PXB"},
		{"dgx-a100-80gb", "NV12", 1, 4, "112-127,240-255", 7, "mlx5_6 PXB, mlx5_7 PXB"},
		{"dgx-h100", "NV18", 1, 0, "0-55,112-167", 0, "mlx5_0 PXB"},
		{"dgx-h200", "NV18", 1, 5, "56-111,168-223", 1, "mlx5_9 PXB"},
		{"dgx-b200", "NV18", 1, 7, "56-111,168-223", 1, "mlx5_11 PXB"},
		{"2xdgx-h100", "SYS", 2, 15, "56-111,168-223", 3, "mlx5_11_1 PXB"},
		{"gb200-tray", "NV18", 1, 3, "72-143", 1, ""},
		{"pcie-a100", "SYS", 4, 5, "32-63,96-127", 1, "mlx5_1 PXB"},
		{"workstation", "PHB", 0, 1, "0-31", 0, ""},
		{"8xh100", "NV18", 1, 7, "32-63,96-127", 1, ""},
		{"8xl40s", "SYS", 0, 0, "0-31,64-95", 0, ""},
		{"l4", "", 0, 0, "0-31", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.preset, func(t *testing.T) {
			s := start(t, Config{Machine: machine(t, tt.preset)})
			g := graph(t, s)
			var ids []string
			for _, b := range g.GPUs {
				ids = append(ids, b.ID)
			}
			if class := g.Class(ids); class != tt.class {
				t.Errorf("the boards are connected by %q", class)
			}
			if n := len(g.Islands()); n != tt.islands {
				t.Errorf("%d islands", n)
			}
			b := g.GPUs[tt.board]
			if b.CPUs != tt.cpus || b.NUMANode == nil || *b.NUMANode != tt.numa {
				t.Errorf("board %d is near CPUs %s of node %v", tt.board, b.CPUs, b.NUMANode)
			}
			var near []string
			for _, n := range g.NICs {
				if l := g.Between(b.ID, n.Name); slices.Contains([]topology.Kind{topology.SameBoard, topology.Bridges}, l.Kind) {
					near = append(near, n.Name+" "+l.String())
				}
			}
			if got := strings.Join(near, ", "); got != tt.nics {
				t.Errorf("board %d has the network cards %s", tt.board, got)
			}
		})
	}
}

func TestWiringProblems(t *testing.T) {
	const boards = "board \"h100\" { count = 2 }\nboard \"l4\" {}\n"
	tests := []struct{ name, src, err string }{
		{"no such board", `nvlink { boards = [0, 3] }`, "boards.hcl:3:19: there is no board 3; this machine has 0 to 2"},
		{"negative", `switch { boards = [-1] }`, "boards.hcl:3:19: there is no board -1"},
		{"twice", `switch { boards = [1, 1] }`, "boards.hcl:3:19: board 1 is listed twice"},
		{"no links", `nvlink { boards = [0, 2] }`, "boards.hcl:3:19: board 2 (NVIDIA L4) has no NVLink; set nvlinks and nvlink_mbps"},
		{"alone", `nvlink { boards = [0] }`, "boards.hcl:3:19: NVLink connects at least two boards"},
		{"too many links", "nvlink {\n  boards = [0, 1]\n  links = 19\n}", "boards.hcl:5:11: links is 19; these boards have 1 to 18 each"},
		{"links given twice", "nvlink { boards = [0, 1] }\nnvlink { boards = [0, 1] }", "boards.hcl:4:19: board 0, 1 would have more NVLinks than the 18 it has; set links"},
		{"no such nic", `switch { nics = ["mlx5_0"] }`, `boards.hcl:3:17: there is no nic block "mlx5_0"`},
		{"nic twice", "nic \"a\" {}\nnic \"a\" {}", "boards.hcl:4:5: a nic has a name of its own"},
		{"between", "switch {\n  boards  = [0]\n  between = \"NV\"\n}", `boards.hcl:5:13: between is "NV"; it can be PXB (the default) or PIX`},
		{"NUMA node", `numa "x" {}`, `boards.hcl:3:6: a NUMA node is a number from 0 to 1023, not "x"`},
		{"NUMA node twice", "numa \"1\" {}\nnuma \"1\" {}", "boards.hcl:4:6: NUMA node 1 is given twice"},
		{"CPUs", `numa "0" { cpus = "all" }`, `boards.hcl:3:19: cpus is "all"; it is a list such as "0-23,48-71"`},
		{"in two nodes", "numa \"0\" { boards = [1] }\nnuma \"1\" { boards = [1] }", "boards.hcl:4:21: board 1 is in NUMA node 0 already"},
		{"bus IDs", "board \"l4\" {\n  count = 2\n  pci_bus_ids = [\"00000000:01:00.0\"]\n}", "boards.hcl:5:17: pci_bus_ids has 1 addresses for 2 boards"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseFile("boards.hcl", []byte(boards+tt.src+"\n"))
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error is %v, want %s", err, tt.err)
			}
		})
	}
}

// TestMemoryNodes: the memory of a board that shares the CPUs' address space is
// a NUMA node.
func TestMemoryNodes(t *testing.T) {
	var got []int
	for _, b := range graph(t, start(t, Config{Machine: machine(t, "gb200-tray")})).GPUs {
		got = append(got, *b.MemoryNode)
	}
	if diff := cmp.Diff([]int{2, 10, 18, 26}, got); diff != "" {
		t.Errorf("memory nodes (-want +got):\n%s", diff)
	}
	if b := graph(t, start(t, Config{Machine: machine(t, "h100")})).GPUs[0]; b.MemoryNode != nil {
		t.Errorf("an H100's memory is NUMA node %d", *b.MemoryNode)
	}
}

// TestTopologyOfFaults: a board that is gone is not in the graph, and links
// that are down do not count.
func TestTopologyOfFaults(t *testing.T) {
	s := start(t, Config{Machine: machine(t, "dgx-a100"), Script: script(t, `
fault "7" { gone = true }
fault "1" {
  nvlink_down = true
  nvlinks     = [0, 5]
}
fault "2" { nvlink_down = true }
`)})
	g := graph(t, s)
	ids := s.subjects
	between := func(a, b int) string { return g.Between(string(ids[a].id), string(ids[b].id)).String() }
	got := []string{between(0, 3), between(0, 1), between(2, 3), between(2, 0), between(0, 7)}
	if diff := cmp.Diff([]string{"NV12", "NV10", "PXB", "SYS", ""}, got); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if len(g.GPUs) != 7 {
		t.Errorf("%d boards", len(g.GPUs))
	}
}
