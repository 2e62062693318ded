package metrics_test

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"
	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/metrics"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

// TestServers reads each of go-nvml's servers through NVML, with a board as a
// whole and one that is cut, and shows it.
func TestServers(t *testing.T) {
	for name, c := range map[string]struct {
		machine *nvmltest.Machine
		slices  []mig.Instance
	}{
		"dgx-a100": {nvmltest.New(dgxa100.New(), 12), instances("1g.5gb", "3g.20gb")},
		"dgx-h100": {nvmltest.New(dgxh100.New(), 18), instances("1g.10gb", "3g.40gb")},
		"dgx-h200": {nvmltest.New(dgxh200.New(), 18), instances("1g.18gb", "3g.71gb")},
		"dgx-b200": {nvmltest.New(dgxb200.New(), 18), instances("1g.23gb", "3g.90gb")},
	} {
		t.Run(name, func(t *testing.T) {
			whole, cut := c.machine.Boards[0], c.machine.Boards[1]
			c.machine.Boards = c.machine.Boards[:2]
			source := nvml.New(nvml.Config{Library: c.machine, Host: nvml.Host{Files: fstest.MapFS{}}})
			t.Cleanup(func() { _ = source.Close() })
			if _, err := source.SetMode(t.Context(), cut.UUID, true); err != nil {
				t.Fatal(err)
			}
			cut.Reset()
			for _, i := range c.slices {
				if err := source.Create(t.Context(), cut.UUID, i); err != nil {
					t.Fatal(err)
				}
			}
			whole.Change(func(b *nvmltest.Board) {
				b.Compute = []nvmltest.Process{{PID: 7, MemoryMiB: 900, SMPercent: 60, GPUInstance: nvmltest.Whole, ComputeInstance: nvmltest.Whole}}
			})
			e := metrics.New(metrics.Config{Node: "node-1", Tasks: func([]int) map[int]attribution.Task {
				return map[int]attribution.Task{7: {Alloc: "a-1", Task: "main"}}
			}})
			show(t, e, source)
			golden(t, filepath.Join("testdata", name+".txt"), short(e))
		})
	}
}

// instances are slices, from the first memory slot and from the fifth on.
func instances(first, second string) []mig.Instance {
	return []mig.Instance{
		{Profile: first, Placement: mig.Placement{Start: 0, Size: 1}, Compute: []int{1}},
		{Profile: second, Placement: mig.Placement{Start: 4, Size: 4}, Compute: []int{3}},
	}
}

// show reads all that there is of the first two boards.
func show(t *testing.T, e *metrics.Exporter, source *nvml.Source) {
	t.Helper()
	now := time.Now()
	inv, err := source.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inv.Boards = inv.Boards[:2]
	devices := gpu.State{}.Next(inv).Devices
	e.Looked(now, nil)
	e.Devices(inv.DriverVersion, devices, inv.Boards)
	var ids, boards []gpu.ID
	for _, b := range inv.Boards {
		ids, boards = append(ids, b.ID), append(boards, b.ID)
	}
	for _, d := range devices {
		if d.Slice != nil {
			ids = append(ids, d.ID)
		}
	}
	samples, err := source.Sample(t.Context(), ids)
	e.Samples(now, samples, err)
	if _, err := e.Reader(source).Vitals(t.Context(), boards); err != nil {
		t.Error(err)
	}
	processes, err := source.Processes(t.Context())
	e.Processes(now, processes, err)
}

var (
	series  = regexp.MustCompile(`^(\w+)\{gpu="(\d+)",(.*),Hostname="node-1",DCGM_FI_DRIVER_VERSION="[^"]*",?(.*)\} (.*)\n$`)
	profile = regexp.MustCompile(`GPU_I_PROFILE="([^"]*)"`)
)

// short is a scrape with the labels that differ: name, board, profile, task.
func short(e *metrics.Exporter) string {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var b strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if m := series.FindStringSubmatch(line); m != nil {
			m[3] = profile.FindString(m[3])
			fmt.Fprintln(&b, strings.Join(strings.Fields(strings.Join(m[1:], " ")), " "))
		}
	}
	return b.String()
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update accepts it:\n%s", file, diff)
	}
}
