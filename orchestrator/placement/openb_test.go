package placement_test

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/trace"
)

// TestOpenb repeats one draw of the published experiment: what fgd allocates
// must be near what was published for it, and drover must allocate no less.
func TestOpenb(t *testing.T) {
	data := os.Getenv("DROVER_DATA")
	if data == "" {
		t.Skip("DROVER_DATA names no folder with openb/; docs/benchmarks.md says where to get it")
	}
	nodes := openb(t, filepath.Join(data, "openb", "openb_node_list_all_node.csv.gz"), trace.ReadNodes)
	tests := []struct {
		workload     string
		publishedFGD float64 // at 130 % arrived, the mean of 10 draws
	}{{"default", 95.39}}
	for _, tt := range tests {
		t.Run(tt.workload, func(t *testing.T) {
			tasks := openb(t, filepath.Join(data, "openb", "openb_pod_list_"+tt.workload+".csv.gz"), trace.ReadTasks)
			got := map[string]float64{}
			for _, policy := range []string{"fgd", "drover"} {
				o, err := placement.Experiment{
					Nodes: nodes, Tasks: tasks, Load: 1.3, Policy: policy, Seed: 1, Clock: func() time.Duration { return 0 },
				}.Run(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				got[policy], _ = o.AllocatedPct(130, 1.3)
			}
			if math.Abs(got["fgd"]-tt.publishedFGD) > 0.6 {
				t.Errorf("fgd allocates %.2f %%, published are %.2f %%", got["fgd"], tt.publishedFGD)
			}
			if got["drover"] < got["fgd"] {
				t.Errorf("drover allocates %.2f %%, fgd %.2f %%", got["drover"], got["fgd"])
			}
		})
	}
}

func openb[T any](t *testing.T, path string, read func(string, io.Reader) ([]T, error)) []T {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := read(path, f)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
