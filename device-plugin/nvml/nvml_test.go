package nvml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func inventory(t *testing.T, src gpu.Source) gpu.Inventory {
	t.Helper()
	inv, err := src.Inventory(t.Context())
	if err != nil {
		t.Fatalf("inventory: %v", err)
	}
	return inv
}

// byFault lists the devices of a state by their fault.
func byFault(s gpu.State) map[string][]gpu.ID {
	m := map[string][]gpu.ID{}
	for _, d := range s.Devices {
		m[d.Fault.Reason] = append(m[d.Fault.Reason], d.ID)
	}
	return m
}

func TestInventory(t *testing.T) {
	m := newMachine(t)
	m.slice(1, 0, 2)
	inv := inventory(t, m.source())
	if inv.DriverVersion != "550.54.15" || inv.CUDAVersion != "12.4" {
		t.Errorf("versions %q, %q", inv.DriverVersion, inv.CUDAVersion)
	}
	amount := func(v int64) *int64 { return &v }
	capability, id := 8.0, func(v int) *int { return &v }
	specs := gpu.Specs{
		MemoryMiB: amount(40960), PowerW: amount(400), BAR1MiB: amount(65536), CoresClockMHz: amount(1410),
		MemoryClockMHz: amount(1215), PCIBandwidthMBps: amount(32768), DisplayState: "Disabled",
		PersistenceMode: "Enabled", Architecture: "ampere", ComputeCapability: &capability,
	}
	slice := func(index int, caps ...string) gpu.Slice {
		return gpu.Slice{
			ID: gpu.ID(fmt.Sprintf("MIG-1-%d", index)), Index: index, Product: "NVIDIA A100-SXM4-40GB MIG 1g.5gb", Profile: "1g.5gb",
			MemoryMiB: amount(4864), GPUInstance: id(index), ComputeInstance: id(0), Nodes: append([]string{"/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"}, caps...),
		}
	}
	want := []gpu.Board{
		{
			ID: "GPU-0", Index: 0, Product: "Mock NVIDIA A100-SXM4-40GB", PCIBusID: "00000000:07:00.0", Minor: id(0), Specs: specs,
			Nodes: []string{"/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"},
		},
		{
			ID: "GPU-1", Index: 1, Product: "Mock NVIDIA A100-SXM4-40GB", PCIBusID: "00000000:08:00.0", Minor: id(1), Specs: specs,
			Nodes: []string{"/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"}, MIG: true,
			Slices: []gpu.Slice{
				slice(0, "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13"),
				slice(2, "/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"),
			},
		},
	}
	if diff := cmp.Diff(want, inv.Boards[:2]); diff != "" {
		t.Errorf("boards (-want +got):\n%s", diff)
	}
}

func TestLostBoard(t *testing.T) {
	lost := reason(lib.ERROR_GPU_IS_LOST)
	rest := []gpu.ID{"GPU-0", "GPU-1", "GPU-2", "GPU-4", "GPU-5", "GPU-6", "GPU-7"}
	tests := []struct {
		name   string
		before bool // seen healthy before
		change func(machine)
		want   map[string][]gpu.ID
	}{
		{
			name: "before the first reading", change: func(m machine) { m.lose(3, lib.ERROR_GPU_IS_LOST) },
			want: map[string][]gpu.ID{"": rest},
		},
		{
			name: "after it", before: true, change: func(m machine) { m.lose(3, lib.ERROR_GPU_IS_LOST) },
			want: map[string][]gpu.ID{"": rest, lost: {"GPU-3"}},
		},
		{
			name: "no handle", before: true,
			change: func(m machine) {
				next := m.DeviceGetHandleByIndexFunc
				m.DeviceGetHandleByIndexFunc = func(i int) (lib.Device, lib.Return) {
					if i == 3 {
						return nil, lib.ERROR_GPU_IS_LOST
					}
					return next(i)
				}
			},
			want: map[string][]gpu.ID{"": rest, lost: {"GPU-3"}},
		},
		{
			name: "tells its ID only", before: true, change: func(m machine) { m.breakGetters(3, lib.ERROR_GPU_IS_LOST) },
			want: map[string][]gpu.ID{"": rest, lost: {"GPU-3"}},
		},
		{
			name: "one getter is enough", before: true,
			change: func(m machine) {
				m.gpu(3).GetMaxClockInfoFunc = func(lib.ClockType) (uint32, lib.Return) { return 0, lib.ERROR_RESET_REQUIRED }
			},
			want: map[string][]gpu.ID{"": rest, reason(lib.ERROR_RESET_REQUIRED): {"GPU-3"}},
		},
		{
			name: "unknown errors of getters leave it healthy", before: true,
			change: func(m machine) {
				m.gpu(3).GetMaxClockInfoFunc = func(lib.ClockType) (uint32, lib.Return) { return 0, lib.ERROR_UNKNOWN }
			},
			want: map[string][]gpu.ID{"": {"GPU-0", "GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5", "GPU-6", "GPU-7"}},
		},
		{
			name: "MIG mode cannot be read", before: true,
			change: func(m machine) {
				m.gpu(3).GetMigModeFunc = func() (int, int, lib.Return) { return 0, 0, lib.ERROR_UNKNOWN }
			},
			want: map[string][]gpu.ID{"": rest, "reading the MIG mode: " + reason(lib.ERROR_UNKNOWN): {"GPU-3"}},
		},
		{
			name: "permission", before: true, change: func(m machine) { m.lose(3, lib.ERROR_NO_PERMISSION) },
			want: map[string][]gpu.ID{"": rest, reason(lib.ERROR_NO_PERMISSION): {"GPU-3"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			src := m.source()
			s := gpu.State{}
			if tt.before {
				s = s.Next(inventory(t, src))
			}
			tt.change(m)
			s = s.Next(inventory(t, src))
			if diff := cmp.Diff(tt.want, byFault(s)); diff != "" {
				t.Fatalf("devices by fault (-want +got):\n%s", diff)
			}
			for _, id := range tt.want[""] {
				if _, err := s.Offer(gpu.Policy{}, gpu.Overlay{}).Select([]gpu.ID{id}); err != nil {
					t.Errorf("reserving a healthy GPU: %v", err)
				}
			}
			if len(tt.want[""]) == 7 {
				if _, err := s.Offer(gpu.Policy{}, gpu.Overlay{}).Select([]gpu.ID{"GPU-3"}); err == nil || !strings.Contains(err.Error(), "GPU-3") {
					t.Errorf("reserving the lost GPU: %v", err)
				}
			}
		})
	}
}

func TestSparseMIG(t *testing.T) {
	tests := []struct {
		name    string
		indexes []int
		want    []gpu.ID
	}{
		{"gaps", []int{0, 2, 5}, []gpu.ID{"MIG-0-0", "MIG-0-2", "MIG-0-5"}},
		{"none", nil, nil},
		{"full", []int{0, 1, 2, 3, 4, 5, 6}, []gpu.ID{"MIG-0-0", "MIG-0-1", "MIG-0-2", "MIG-0-3", "MIG-0-4", "MIG-0-5", "MIG-0-6"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.slice(0, tt.indexes...)
			got := byFault(gpu.State{}.Next(inventory(t, m.source())))[""]
			want := append(tt.want, "GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5", "GPU-6", "GPU-7")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSliceThatDoesNotAnswer(t *testing.T) {
	m := newMachine(t)
	m.slice(0, 0, 1)
	src := m.source()
	s := gpu.State{}.Next(inventory(t, src))
	next := m.gpu(0).GetMigDeviceHandleByIndexFunc
	m.gpu(0).GetMigDeviceHandleByIndexFunc = func(i int) (lib.Device, lib.Return) {
		if i == 1 {
			return nil, lib.ERROR_UNKNOWN
		}
		return next(i)
	}
	got := byFault(s.Next(inventory(t, src)))[reason(lib.ERROR_UNKNOWN)]
	if diff := cmp.Diff([]gpu.ID{"MIG-0-1"}, got); diff != "" {
		t.Errorf("unhealthy (-want +got):\n%s", diff)
	}
}

func TestBusIDHasNoPadding(t *testing.T) {
	m := newMachine(t)
	id := inventory(t, m.source()).Boards[0].PCIBusID
	if len(id) != 16 || strings.ContainsRune(id, 0) || id != "00000000:07:00.0" {
		t.Errorf("bus ID is %q", id)
	}
}

func TestDriverTroubles(t *testing.T) {
	m := newMachine(t)
	src := m.source()
	state := gpu.State{}
	steps := []struct {
		name      string
		init      lib.Return
		count     lib.Return
		noDriver  bool
		healthy   int
		unhealthy int
		why       string
	}{
		{name: "no library", init: lib.ERROR_LIBRARY_NOT_FOUND, noDriver: true},
		{name: "kernel module not loaded", init: lib.ERROR_DRIVER_NOT_LOADED, noDriver: true},
		{name: "mismatch at start", init: lib.ERROR_LIB_RM_VERSION_MISMATCH, why: "driver/library version mismatch"},
		{name: "works", healthy: 8},
		{name: "mismatch while running", count: lib.ERROR_LIB_RM_VERSION_MISMATCH, unhealthy: 8, why: "driver/library version mismatch"},
		{name: "mismatch when it is loaded anew", init: lib.ERROR_LIB_RM_VERSION_MISMATCH, unhealthy: 8, why: "driver/library version mismatch"},
		{name: "library gone", init: lib.ERROR_LIBRARY_NOT_FOUND, noDriver: true, unhealthy: 8, why: "no NVIDIA driver"},
		{name: "works again", healthy: 8},
	}
	for _, step := range steps {
		m.InitFunc = func() lib.Return { return step.init }
		m.DeviceGetCountFunc = func() (int, lib.Return) { return 8, step.count }
		inv, err := src.Inventory(t.Context())
		if err != nil {
			state = state.Failed(err.Error())
		} else {
			state = state.Next(inv)
		}
		failed := step.init != lib.SUCCESS || step.count != lib.SUCCESS
		if (err != nil) != failed || errors.Is(err, gpu.ErrNoDriver) != step.noDriver {
			t.Fatalf("%s: error is %v", step.name, err)
		}
		healthy, unhealthy := 0, 0
		for _, d := range state.Devices {
			if d.Fault.Reason == "" {
				healthy++
				continue
			}
			unhealthy++
			if !strings.Contains(d.Fault.Reason, step.why) {
				t.Errorf("%s: reason is %q", step.name, d.Fault.Reason)
			}
		}
		if healthy != step.healthy || unhealthy != step.unhealthy {
			t.Errorf("%s: %d healthy, %d unhealthy; want %d, %d", step.name, healthy, unhealthy, step.healthy, step.unhealthy)
		}
	}
}

// TestBoardsComeAndGo is that the library is loaded anew when it can see
// something by that, and only then.
func TestBoardsComeAndGo(t *testing.T) {
	m := a100()
	files := fstest.MapFS{"proc/driver/nvidia/gpus/0000:07:00.0/information": {}}
	loads := 0
	m.InitFunc = func() lib.Return { loads++; return lib.SUCCESS }
	s := New(Config{Library: m, Host: Host{Files: files}})
	look := func(what string, want int) gpu.Inventory {
		t.Helper()
		inv := inventory(t, s)
		if loads != want {
			t.Errorf("%s: the library was loaded %d times, want %d", what, loads, want)
		}
		return inv
	}
	look("at first", 1)
	look("nothing happened", 1)
	files["proc/driver/nvidia/gpus/0000:0f:00.0/information"] = &fstest.MapFile{}
	look("a board came", 2)
	delete(files, "proc/driver/nvidia/gpus/0000:0f:00.0/information")
	look("a board went", 3)
	m.Boards[0].Lose(lost)
	if inv := look("a board was lost", 3); len(inv.Lost) != 1 {
		t.Errorf("lost %v", inv.Lost)
	}
	m.Boards[0].Lose(lib.SUCCESS)
	if inv := look("it came back", 4); len(inv.Lost) != 0 {
		t.Errorf("lost %v", inv.Lost)
	}
	m.Boards[0].GetSerialFunc = func() (string, lib.Return) { return "", lost }
	if inv := look("a board is broken", 4); inv.Boards[0].FaultAction != gpustatus.End {
		t.Errorf("board %+v", inv.Boards[0])
	}
	look("it is still", 5)
}

// TestReplacedLibrary is that an upgrade of the driver under a running process
// is told from a mismatch that may pass.
func TestReplacedLibrary(t *testing.T) {
	const mapped = "7f1e-7f1f r-xp 00000000 08:01 4711  /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15"
	for maps, replaced := range map[string]bool{mapped + "\n": false, "x\n" + mapped + " (deleted)\ny\n": true, "": false} {
		m := newMachine(t)
		m.InitFunc = func() lib.Return { return lib.ERROR_LIB_RM_VERSION_MISMATCH }
		host := Host{Files: fstest.MapFS{"proc/self/maps": {Data: []byte(maps)}}}
		_, err := New(Config{Library: m.Server, Host: host}).Inventory(t.Context())
		if err == nil || errors.Is(err, gpu.ErrRestart) != replaced {
			t.Errorf("with %q: %v", maps, err)
		}
	}
}

// TestOldLibrary runs against a library that has only what is required. The
// mock panics on every other call, as the dynamic loader would end the process.
func TestOldLibrary(t *testing.T) {
	m := newMachine(t)
	old := &mock.Device{
		GetUUIDFunc: func() (string, lib.Return) { return "GPU-old", lib.SUCCESS },
		GetNameFunc: func() (string, lib.Return) { return "Tesla K80", lib.SUCCESS },
	}
	m.Devices = []lib.Device{old}
	m.SystemGetDriverVersionFunc, m.SystemGetCudaDriverVersionFunc = nil, nil
	m.DeviceGetHandleByUUIDFunc = nil
	m.only("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName")
	src := m.source()
	want := []gpu.Board{{ID: "GPU-old", Product: "Tesla K80"}}
	if diff := cmp.Diff(want, inventory(t, src).Boards); diff != "" {
		t.Errorf("boards (-want +got):\n%s", diff)
	}
	if samples, err := src.Sample(t.Context(), []gpu.ID{"GPU-old"}); err != nil || len(samples) != 0 {
		t.Errorf("samples %v, %v", samples, err)
	}

	m.only("nvmlDeviceGetCount")
	_, err := m.source().Inventory(t.Context())
	if err == nil || !strings.Contains(err.Error(), "lacks nvmlDeviceGetHandleByIndex_v2") {
		t.Errorf("without a required function: %v", err)
	}
}

func TestSample(t *testing.T) {
	m := newMachine(t)
	m.slice(7, 1)
	// The order of indexes is not that of minor numbers; IDs decide.
	m.Devices[0], m.Devices[1] = m.Devices[1], m.Devices[0]
	m.gpu(0).GetUtilizationRatesFunc = func() (lib.Utilization, lib.Return) { return lib.Utilization{Gpu: 7, Memory: 1}, lib.SUCCESS }
	m.lose(2, lib.ERROR_GPU_IS_LOST)
	src := m.source()
	defer src.Close()
	samples, err := src.Sample(t.Context(), []gpu.ID{"GPU-0", "GPU-1", "GPU-2", "MIG-7-1"})
	if err != nil {
		t.Fatal(err)
	}
	n := func(v int64) *int64 { return &v }
	board := gpu.Sample{
		PowerW: n(123), GPUPercent: n(93), MemoryPercent: n(41), EncoderPercent: n(0), DecoderPercent: n(5), TemperatureC: n(61),
		MemoryUsedMiB: n(0), MemoryTotalMiB: n(40960), BAR1UsedMiB: n(4), BAR1TotalMiB: n(65536), ECCL2: n(1), ECCMemory: n(2),
	}
	other := board
	other.GPUPercent, other.MemoryPercent = n(7), n(1)
	want := map[gpu.ID]gpu.Sample{
		"GPU-0":   board,
		"GPU-1":   other,
		"MIG-7-1": {MemoryUsedMiB: n(13), MemoryTotalMiB: n(4864)},
	}
	if diff := cmp.Diff(want, samples, cmpopts.IgnoreFields(gpu.Sample{}, "Time")); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestProfileOf(t *testing.T) {
	tests := []struct {
		gi, ci uint32
		memory uint64
		want   string
	}{
		{1, 1, 4864, "1g.5gb"}, {2, 2, 9856, "2g.10gb"}, {3, 3, 19968, "3g.20gb"}, {7, 7, 40192, "7g.40gb"}, {3, 1, 19968, "1c.3g.20gb"},
	}
	for _, tt := range tests {
		a := lib.DeviceAttributes{GpuInstanceSliceCount: tt.gi, ComputeInstanceSliceCount: tt.ci, MemorySizeMB: tt.memory}
		if got := sliceProfile(a, nil); got != tt.want {
			t.Errorf("%+v is %s, want %s", tt, got, tt.want)
		}
	}
}

func FuzzParseMIGMinors(f *testing.F) {
	f.Add([]byte("config 1\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\n"))
	f.Add([]byte("x -1\n\n  y  3 \n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for name, minor := range parseMIGMinors(content) {
			if minor < 0 || name == "" && !strings.Contains(string(content), " ") {
				t.Errorf("%q is %d", name, minor)
			}
		}
	})
}
