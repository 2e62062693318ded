package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// TestMissingIsAbsent: a slice whose driver doesn't support utilisation has no
// series of it, and what nothing tells has none at all.
func TestMissingIsAbsent(t *testing.T) {
	r := newRig(Config{})
	r.show(cut(board(0, "NVIDIA A100-SXM4-40GB"), "1g.5gb", 1))
	r.Samples(start, map[gpu.ID]gpu.Sample{
		"GPU-0":   {Time: start, PowerW: n(0)},
		"MIG-0-0": {Time: start, MemoryUsedMiB: n(0), MemoryTotalMiB: n(4864)},
	}, nil)
	r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": {Time: start, NVLinks: []gpu.NVLink{{CRCErrors: n(1)}, {}}}}, nil)
	families := r.families(t)
	for _, name := range []string{
		"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_MEM_COPY_UTIL", "DCGM_FI_DEV_FB_RESERVED", "DCGM_FI_DEV_XID_ERRORS",
		"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
		"DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", // one link of two
		"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",            // one reading is no rate
		"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "drover_gpu_processes", "drover_node_network_up",
	} {
		if f, ok := families[name]; ok {
			t.Errorf("%s was not read, and is shown: %v", name, f)
		}
	}
	for name, want := range map[string]map[string]float64{
		"DCGM_FI_DEV_POWER_USAGE": {"GPU-0 -": 0}, // zero is zero
		"DCGM_FI_DEV_FB_USED":     {"GPU-0 MIG-0-0": 0},
		"DCGM_FI_DEV_FB_FREE":     {"GPU-0 MIG-0-0": 4864},
	} {
		if diff := cmp.Diff(want, r.series(t, name, "UUID", "mig_uuid")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestIdentity: the driver's order, the minor numbers and the order of the
// samples all differ, and eleven tasks are on the board that is first in one
// order and second in another.
func TestIdentity(t *testing.T) {
	a, b := board(1, "NVIDIA A100-SXM4-40GB"), board(0, "NVIDIA A100-SXM4-40GB")
	a.ID, a.Minor, b.ID, b.Minor = "GPU-A", i(0), "GPU-B", i(1)
	found := map[int]attribution.Task{}
	var processes []gpu.Process
	for p := range 11 {
		found[100+p] = attribution.Task{Alloc: fmt.Sprintf("alloc-%02d", p), Task: "main"}
		processes = append(processes, gpu.Process{PID: 100 + p, Device: "GPU-A", Kind: gpu.ProcessCompute})
	}
	r := newRig(Config{Tasks: tasks(found)})
	r.show(b, a)
	r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-A": {Time: start, GPUPercent: n(99)}, "GPU-B": {Time: start, GPUPercent: n(0)}}, nil)
	r.Processes(start, processes, nil)
	if diff := cmp.Diff(map[string]float64{"GPU-A 1 nvidia0": 99, "GPU-B 0 nvidia1": 0},
		r.series(t, "DCGM_FI_DEV_GPU_UTIL", "UUID", "gpu", "device")); diff != "" {
		t.Errorf("utilisation (-want +got):\n%s", diff)
	}
	of := map[string]int{}
	for key := range r.series(t, "drover_gpu_task_processes", "UUID", "alloc_id") {
		uuid, _, _ := strings.Cut(key, " ")
		of[uuid]++
	}
	if diff := cmp.Diff(map[string]int{"GPU-A": 11}, of); diff != "" {
		t.Errorf("tasks by GPU (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"GPU-A": 11, "GPU-B": 0}, r.series(t, "drover_gpu_processes", "UUID")); diff != "" {
		t.Errorf("processes by GPU (-want +got):\n%s", diff)
	}
}

// TestStale: what has not been read for too long is gone, not frozen.
func TestStale(t *testing.T) {
	r := newRig(Config{Tasks: tasks(map[int]attribution.Task{7: {Alloc: "a", Task: "main"}})})
	r.show(board(0, "A100"))
	r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": sample()}, nil)
	r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": ampere(start, 1)}, nil)
	r.Processes(start, []gpu.Process{{PID: 7, Device: "GPU-0", Kind: gpu.ProcessCompute}}, nil)
	has := func(family string) bool { _, ok := r.families(t)[family]; return ok }
	steps := []struct {
		name  string
		after time.Duration
		do    func()
		want  map[string]bool
	}{
		{"at once", 0, func() {}, map[string]bool{"DCGM_FI_DEV_GPU_TEMP": true, "DCGM_FI_DEV_PCIE_LINK_GEN": true, "drover_gpu_task_processes": true, "drover_gpu_healthy": true}},
		{"samples fail for a while", 10 * time.Second, func() { r.Samples(r.now, nil, errors.New("no")) }, map[string]bool{"DCGM_FI_DEV_GPU_TEMP": true}},
		{"and for too long", 16 * time.Second, func() { r.Samples(r.now, nil, errors.New("no")) }, map[string]bool{"DCGM_FI_DEV_GPU_TEMP": false, "DCGM_FI_DEV_PCIE_LINK_GEN": true}},
		{"a source that hands out old samples", 17 * time.Second, func() { r.Samples(r.now, map[gpu.ID]gpu.Sample{"GPU-0": sample()}, nil) }, map[string]bool{"DCGM_FI_DEV_GPU_TEMP": false}},
		{"processes are old", 61 * time.Second, func() {
			if got := r.series(t, "drover_gpu_healthy", "alloc_id"); len(got) != 1 || got["-"] != 1 {
				t.Errorf("the GPU is still somebody's: %v", got)
			}
		}, map[string]bool{"drover_gpu_task_processes": false, "DCGM_FI_DEV_PCIE_LINK_GEN": true}},
		{"all is old", 181 * time.Second, func() {}, map[string]bool{"DCGM_FI_DEV_PCIE_LINK_GEN": false, "drover_gpu_healthy": false, "DCGM_FI_DEV_MIG_MODE": false, "drover_gpu_collection_age_seconds": true}},
		{"looks fail, which is known", 182 * time.Second, func() { r.Looked(r.now, errors.New("mismatch")) }, map[string]bool{"drover_gpu_healthy": true}},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			r.now = start.Add(step.after)
			step.do()
			for family, want := range step.want {
				if has(family) != want {
					t.Errorf("%s is shown: %v", family, !want)
				}
			}
		})
	}
	want := map[string]float64{"inventory": 182, "processes": 182, "samples": 165, "vitals": 182}
	if diff := cmp.Diff(want, r.series(t, "drover_gpu_collection_age_seconds", "collection")); diff != "" {
		t.Errorf("ages (-want +got):\n%s", diff)
	}
	if got := r.series(t, "drover_gpu_collection_errors_total", "collection")["samples"]; got != 2 {
		t.Errorf("%v errors of samples, want 2", got)
	}
}

// TestAttribution: whose a GPU's own series are.
func TestAttribution(t *testing.T) {
	one, two := attribution.Task{Alloc: "1", Task: "main", Job: "train"}, attribution.Task{Alloc: "2", Task: "main", Job: "serve"}
	found := map[int]attribution.Task{10: one, 11: one, 12: {Alloc: "1", Task: "main"}, 20: two, 30: {}}
	on := func(pid int, kind gpu.ProcessKind) gpu.Process {
		return gpu.Process{PID: pid, Device: "GPU-0", Kind: kind, MemoryMiB: n(int64(pid)), GPUPercent: n(int64(pid))}
	}
	cases := []struct {
		name      string
		processes []gpu.Process
		device    string // the allocation that the GPU's own series have
		memoryMiB map[string]float64
	}{
		{"nobody", nil, "-", map[string]float64{}},
		{"one task", []gpu.Process{on(10, gpu.ProcessCompute), on(11, gpu.ProcessCompute)}, "1", map[string]float64{"1": 21}},
		{"a process that computes and draws", []gpu.Process{on(10, gpu.ProcessGraphics), on(10, gpu.ProcessCompute)}, "1", map[string]float64{"1": 10}},
		{"two tasks share", []gpu.Process{on(10, gpu.ProcessMPS), on(20, gpu.ProcessMPS)}, "-", map[string]float64{"1": 10, "2": 20}},
		{"a task and a stranger", []gpu.Process{on(10, gpu.ProcessCompute), on(99, gpu.ProcessCompute)}, "-", map[string]float64{"1": 10}},
		{"a task by way of the server of MPS", []gpu.Process{on(10, gpu.ProcessMPS), on(30, gpu.ProcessCompute)}, "1", map[string]float64{"1": 10}},
		{"a task and the display", []gpu.Process{on(10, gpu.ProcessCompute), on(99, gpu.ProcessGraphics)}, "1", map[string]float64{"1": 10}},
		{"accounts of a task that know more and less", []gpu.Process{on(12, gpu.ProcessCompute), on(10, gpu.ProcessCompute)}, "1", map[string]float64{"1": 22}},
		{"memory of one process is unknown", []gpu.Process{on(10, gpu.ProcessCompute), {PID: 11, Device: "GPU-0"}}, "1", map[string]float64{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(Config{Tasks: tasks(found)})
			r.show(board(0, "A100"))
			r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": {Time: start, GPUPercent: n(50)}}, nil)
			r.Processes(start, c.processes, nil)
			if diff := cmp.Diff(map[string]float64{c.device: 50}, r.series(t, "DCGM_FI_DEV_GPU_UTIL", "alloc_id")); diff != "" {
				t.Errorf("the GPU's (-want +got):\n%s", diff)
			}
			memory := r.series(t, "drover_gpu_task_memory_used_bytes", "alloc_id")
			for alloc := range memory {
				memory[alloc] /= 1 << 20
			}
			if diff := cmp.Diff(c.memoryMiB, memory); diff != "" {
				t.Errorf("tasks' memory (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBounds: a node on which everything is too much shows what fits.
func TestBounds(t *testing.T) {
	everybody := func(pids []int) map[int]attribution.Task {
		found := map[int]attribution.Task{}
		for _, pid := range pids {
			found[pid] = attribution.Task{Alloc: fmt.Sprint(pid), Task: "main"}
		}
		return found
	}
	r := newRig(Config{Tasks: everybody})
	var boards []gpu.Board
	for b := range maxUnits + 5 {
		boards = append(boards, board(b, "A100"))
	}
	r.show(boards...)
	var processes []gpu.Process
	for p := range maxTasks + 3 {
		processes = append(processes, gpu.Process{PID: p + 1, Device: "GPU-0"})
	}
	r.Processes(start, processes, nil)
	report := health.DeviceReport{ID: "GPU-0"}
	for x := range maxXIDs + 5 {
		report.XIDs = append(report.XIDs, health.XIDCount{Code: x, Count: 1})
		report.Conditions = append(report.Conditions, health.ConditionReport{Signal: health.Signal(fmt.Sprint(x))})
	}
	r.Health(health.Report{Devices: []health.DeviceReport{report}})
	families := r.families(t)
	for family, want := range map[string]int{
		"drover_gpu_healthy": maxUnits, "drover_gpu_task_processes": maxTasks,
		"drover_gpu_xid_errors_total": maxXIDs, "drover_gpu_condition": maxConditions,
	} {
		if got := len(families[family].GetMetric()); got != want {
			t.Errorf("%d series of %s, want %d", got, family, want)
		}
	}
	if got := families["drover_gpu_tasks_not_shown"].GetMetric()[0].GetGauge().GetValue(); got != 3 {
		t.Errorf("%v tasks are said to be left out, want 3", got)
	}
}

// TestLabels: whatever a name holds, the answer can be read and means it.
func TestLabels(t *testing.T) {
	for _, name := range []string{`a"b`, `a\b`, "a\nb", `a\nb`, "ü", "a\x00b", `",evil="1`} {
		r := newRig(Config{Tasks: tasks(map[int]attribution.Task{1: {Alloc: "a", Job: name}})})
		b := board(0, name)
		r.show(b)
		r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": sample()}, nil)
		r.Processes(start, []gpu.Process{{PID: 1, Device: "GPU-0"}}, nil)
		if diff := cmp.Diff(map[string]float64{name + " " + name: 61}, r.series(t, "DCGM_FI_DEV_GPU_TEMP", "modelName", "job")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", name, diff)
		}
	}
	r := newRig(Config{})
	r.show(board(0, "broken \xff bytes"))
	r.families(t)
}

func TestTransitions(t *testing.T) {
	r := newRig(Config{})
	broken := board(0, "A100")
	broken.Fault = "Xid 48"
	for _, b := range []gpu.Board{board(0, "A100"), broken, broken, board(0, "A100"), broken} {
		r.show(b)
	}
	if diff := cmp.Diff(map[string]float64{"unhealthy": 2, "healthy": 1}, r.series(t, "drover_gpu_health_transitions_total", "to")); diff != "" {
		t.Errorf("transitions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"move": 1}, r.series(t, "drover_gpu_fault", "action")); diff != "" {
		t.Errorf("fault (-want +got):\n%s", diff)
	}
}

// TestReplicas: the hardware behind replicas is shown once.
func TestReplicas(t *testing.T) {
	r := newRig(Config{})
	s := gpu.State{}.Next(gpu.Inventory{Boards: []gpu.Board{board(0, "A100")}})
	offer := s.Offer(gpu.Policy{Share: func(gpu.Device) (string, int) { return "mps", 3 }}, gpu.Overlay{})
	r.Looked(start, nil)
	r.Devices("", offer.Devices, nil)
	if diff := cmp.Diff(map[string]float64{"GPU-0": 1}, r.series(t, "drover_gpu_healthy", "UUID")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// vitalsOf is a source of vitals.
type vitalsOf func(boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error)

func (f vitalsOf) Vitals(_ context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	return f(boards)
}

// TestReader: what somebody else reads is shown. A board that is read alone
// takes nothing from the others, and one that no longer answers has nothing.
func TestReader(t *testing.T) {
	r := newRig(Config{})
	r.show(board(0, "A100"), board(1, "A100"), board(2, "A100"))
	answers := map[gpu.ID]bool{"GPU-0": true, "GPU-1": true}
	source := r.Reader(vitalsOf(func(boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
		if len(boards) == 0 {
			return nil, errors.New("no boards")
		}
		vitals := map[gpu.ID]gpu.Vitals{}
		for _, b := range boards {
			if answers[b] {
				vitals[b] = ampere(r.now, 1)
			}
		}
		return vitals, nil
	}))
	read := func(boards ...gpu.ID) {
		r.now = r.now.Add(time.Second)
		_, _ = source.Vitals(context.Background(), boards)
	}
	shown := func() map[string]float64 { return r.series(t, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "UUID") }
	read("GPU-0", "GPU-1", "GPU-2")
	read("GPU-1")
	read()
	if diff := cmp.Diff(map[string]float64{"GPU-0": 7, "GPU-1": 7}, shown()); diff != "" {
		t.Errorf("two of three answer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"GPU-1": 0}, r.series(t, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "UUID")); diff != "" {
		t.Errorf("rates of what was read twice (-want +got):\n%s", diff)
	}
	answers["GPU-1"] = false
	read("GPU-1")
	if diff := cmp.Diff(map[string]float64{"GPU-0": 7}, shown()); diff != "" {
		t.Errorf("one of them stops (-want +got):\n%s", diff)
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(Config{})
	r.show(board(0, "A100"))
	served := make(chan error, 1)
	go func() { served <- r.ServeOn(ctx, listener) }()
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/": http.StatusNotFound} {
		resp, err := http.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s answers %s", path, resp.Status)
		}
		if want == http.StatusOK && !strings.Contains(string(body), `DCGM_FI_DEV_MIG_MODE{gpu="0"`) {
			t.Errorf("answer:\n%s", body)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serving ended with %v", err)
	}
	if err := r.Serve(context.Background(), "not an address"); err == nil {
		t.Error("a wrong address is served")
	}
}

// BenchmarkScrape is of a node of 8 boards with 7 slices each, all used.
func BenchmarkScrape(b *testing.B) {
	r := newRig(Config{})
	found := map[int]attribution.Task{}
	var boards []gpu.Board
	var processes []gpu.Process
	samples, vitals := map[gpu.ID]gpu.Sample{}, map[gpu.ID]gpu.Vitals{}
	for n := range 8 {
		boards = append(boards, cut(board(n, "NVIDIA H100 80GB HBM3"), "1g.10gb", 7))
		samples[boards[n].ID], vitals[boards[n].ID] = sample(), ampere(start, 1)
		for s, slice := range boards[n].Slices {
			pid := 100*n + s
			samples[slice.ID] = sample()
			found[pid] = attribution.Task{Alloc: fmt.Sprintf("6ba7b810-9dad-11d1-80b4-%012d", pid), Task: "main", Job: "drover-run-step-1", Namespace: "default"}
			processes = append(processes, gpu.Process{PID: pid, Device: slice.ID, Kind: gpu.ProcessCompute, MemoryMiB: &[]int64{100}[0]})
		}
	}
	r.config.Tasks = tasks(found)
	r.show(boards...)
	r.Samples(start, samples, nil)
	r.Vitals(start, nil, vitals, nil)
	r.Processes(start, processes, nil)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		w.bytes = 0
		r.ServeHTTP(w, nil)
	}
	b.ReportMetric(float64(w.bytes), "bytes/scrape")
}

// discard is an answer that nobody reads.
type discard struct {
	header http.Header
	bytes  int
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) Write(b []byte) (int, error) { d.bytes += len(b); return len(b), nil }

func (d *discard) WriteHeader(int) {}

// TestLatest: Nomad's statistics have what is shown, and no more.
func TestLatest(t *testing.T) {
	r := newRig(Config{})
	r.show(board(0, "A100"))
	if got := r.Latest(); len(got.Samples)+len(got.Vitals) > 0 || got.Processes != nil {
		t.Errorf("before any reading: %+v", got)
	}
	r.Samples(start, map[gpu.ID]gpu.Sample{"GPU-0": sample()}, nil)
	r.Vitals(start, nil, map[gpu.ID]gpu.Vitals{"GPU-0": ampere(start, 1)}, nil)
	r.Processes(start, nil, nil)
	if got := r.Latest(); len(got.Samples) != 1 || len(got.Vitals) != 1 || got.Processes == nil {
		t.Errorf("after all: %+v", got)
	}
	r.now = start.Add(61 * time.Second)
	if got := r.Latest(); len(got.Samples) != 0 || len(got.Vitals) != 1 || got.Processes != nil {
		t.Errorf("a minute later: %+v", got)
	}
}
