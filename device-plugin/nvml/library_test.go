package nvml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// TestLibrary runs TestInsideLibrary in a process of its own, for which a
// shared library in C is the system's NVML: once one that has all that is
// read, and once one that lacks all but what is required.
func TestLibrary(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not there to build a stand-in for libnvidia-ml.so.1")
	}
	header, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		t.Skipf("nvml.h of go-nvml is not found: %v", err)
	}
	full := []string{"-DFAKE_NVML_FULL", "-DNVML_NO_UNVERSIONED_FUNC_DEFS", "-I" + filepath.Join(strings.TrimSpace(string(header)), "pkg/nvml")}
	for name, flags := range map[string][]string{"full": full, "old": nil} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := append(flags, "-shared", "-fPIC", "-w", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "../testdata/fakenvml.c")
			if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestInsideLibrary$", "-test.v")
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+dir, insideVariable+"="+name,
				"FAKE_NVML_CALLS="+filepath.Join(dir, "calls"), "FAKE_NVML_EVENT="+filepath.Join(dir, "event"))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

const insideVariable = "FAKE_NVML_KIND"

func TestInsideLibrary(t *testing.T) {
	s := New(Config{Host: Host{Files: fstest.MapFS{}}})
	switch os.Getenv(insideVariable) {
	case "full":
		insideFull(t, s)
	case "old":
		insideOld(t, s)
	default:
		t.Skip("run by TestLibrary")
	}
}

func insideOld(t *testing.T, s *Source) {
	inv := inventory(t, s)
	if diff := cmp.Diff([]gpu.Board{{ID: "GPU-fake", Product: "Tesla K80"}}, inv.Boards); diff != "" {
		t.Errorf("boards (-want +got):\n%s", diff)
	}
	ids := []gpu.ID{"GPU-fake"}
	samples, err := s.Sample(t.Context(), ids)
	if v := samples[ids[0]]; err != nil || v != (gpu.Sample{Time: v.Time}) {
		t.Errorf("sample %+v, %v", v, err)
	}
	vitals, err := s.Vitals(t.Context(), ids)
	if v := vitals[ids[0]]; err != nil || !cmp.Equal(v, gpu.Vitals{Time: v.Time}) {
		t.Errorf("vitals %+v, %v", v, err)
	}
	g, err := s.Topology(t.Context())
	if err != nil || len(g.GPUs) != 1 || len(g.Links) != 0 {
		t.Errorf("topology %+v, %v", g, err)
	}
	processes, err := s.Processes(t.Context())
	if err != nil || len(processes) != 0 {
		t.Errorf("processes %v, %v", processes, err)
	}
	boards, err := s.Boards(t.Context())
	if err != nil || len(boards) != 0 {
		t.Errorf("boards with MIG %v, %v", boards, err)
	}
	_, modeErr := s.SetMode(t.Context(), "GPU-fake", true)
	for _, err := range []error{
		s.Watch(t.Context(), nil), modeErr, s.Create(t.Context(), "GPU-fake", instanceAt("1g.5gb", 0, 1, 1)), s.Destroy(t.Context(), "GPU-fake", 1),
	} {
		if err == nil || !strings.Contains(err.Error(), "libnvidia-ml.so.1 lacks nvml") {
			t.Errorf("error %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func insideFull(t *testing.T, s *Source) {
	inv := inventory(t, s)
	if len(inv.Boards) != 8 {
		t.Fatalf("%d boards", len(inv.Boards))
	}
	b := inv.Boards[0]
	capability, zero := 9.0, 0
	specs := gpu.Specs{
		MemoryMiB: n64(81559), PowerW: n64(700), BAR1MiB: n64(131072), CoresClockMHz: n64(1980), MemoryClockMHz: n64(1982),
		PCIBandwidthMBps: n64(65536), Architecture: "hopper", ComputeCapability: &capability, Cores: n64(16896), Multiprocessors: n64(132),
		NVLinks: n64(17), NVLinkMBps: n64(425_000), ComputeMode: "Exclusive_Process",
	}
	want := gpu.Board{
		ID: "GPU-fake-0", Product: "NVIDIA H100 80GB HBM3", PCIBusID: "00000000:10:00.0", PCIDeviceID: "0x233010DE",
		Serial: "1650000000", Minor: &zero, NUMANode: &zero, CPUs: "0-15,64-67", Specs: specs,
	}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("board (-want +got):\n%s", diff)
	}
	ids := make([]gpu.ID, 0, 8)
	for _, b := range inv.Boards {
		ids = append(ids, b.ID)
	}
	insideReadings(t, s, ids)
	insideWatch(t, s)
	insideCost(t, s, ids)
}

func insideReadings(t *testing.T, s *Source, ids []gpu.ID) {
	for first := true; ; first = false {
		samples, err := s.Sample(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		got := samples[ids[1]]
		if first {
			if got.Profiling != nil || *got.PowerW != 300 || *got.GPUPercent != 91 || *got.MemoryReservedMiB != 551 || *got.EnergyMJ != 5_000_000_000 ||
				*got.MemoryTemperatureC != 55 || got.FanPercent != nil || got.PCIeTxKBps != nil {
				t.Errorf("sample %+v", got)
			}
			continue
		}
		if p := got.Profiling; p != nil { // after the driver's least time between two readings
			if *p.SMActive != .02 || *p.NVLinkRxBps != 60<<20 {
				t.Errorf("profiling %+v", p)
			}
			break
		}
	}
	vitals, err := s.Vitals(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	v := vitals[ids[0]]
	if len(v.NVLinks) != 18 || v.NVLinks[17].Active || *v.NVLinks[5].CRCErrors != 5 || *v.NVLinks[5].TransmittedKiB != 5_000_000_000 ||
		v.FabricState != "completed" || v.RecoveryAction != "reset" || !v.RemappedRows.Pending || *v.ECC.AggregateUncorrected != 11 ||
		*v.PCIe.Width != 8 || *v.SlowdownTemperatureC != 93 || *v.PowerViolation != time.Millisecond || v.Throttle[0] != gpu.ThrottleSWPowerCap {
		t.Errorf("vitals %+v", v)
	}
	g, err := s.Topology(t.Context())
	if err != nil || len(g.Links) != 28 || g.Links[0].NVLinks != 17 || g.Links[27].NVLinks != 18 || *g.GPUs[7].NUMANode != 1 {
		t.Errorf("topology %+v, %v", g, err)
	}
	processes, err := s.Processes(t.Context())
	if err != nil || len(processes) != 24 || processes[3].MemoryMiB != nil || *processes[4].MemoryMiB != 512 || *processes[4].GPUPercent != 77 {
		t.Errorf("processes %+v, %v", processes, err)
	}
}

func insideWatch(t *testing.T, s *Source) {
	ctx, cancel := context.WithCancel(t.Context())
	events, result := make(chan gpu.Event, 1), make(chan error, 1)
	go func() { result <- s.Watch(ctx, func(e gpu.Event) { events <- e }) }()
	path := os.Getenv("FAKE_NVML_EVENT")
	if err := os.WriteFile(path+".new", []byte("79"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, events); e.XID != 79 || e.Board != "GPU-fake-1" || e.GPUInstance != nil {
		t.Errorf("event %+v", e)
	}
	cancel()
	if err := receive(t, result); err != nil {
		t.Error(err)
	}
}

// insideCost is what a Sample of eight boards costs: the calls into the
// library, none of which may be one that takes milliseconds, and the time that
// all but the driver takes.
func insideCost(t *testing.T, s *Source, ids []gpu.ID) {
	inside(t, s)
	for range 10 {
		if _, err := s.Sample(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
	}
	calls := inside(t, s)
	total := 0
	for _, n := range calls {
		total += n
	}
	for _, dear := range []string{"Processes", "ProcessUtilization", "NvLink", "Topology", "PcieThroughput"} {
		for name, n := range calls {
			if strings.Contains(name, dear) && n > 0 {
				t.Errorf("a Sample calls %s", name)
			}
		}
	}
	if perBoard := float64(total) / 10 / 8; perBoard < 10 || perBoard > 30 {
		t.Errorf("a Sample makes %.1f calls for each board", perBoard)
	}
	result := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, _ = s.Sample(b.Context(), ids)
		}
	})
	fmt.Printf("Sample of 8 boards: %d calls, %s without the driver's time, %d allocations\n", total/10, time.Duration(result.NsPerOp()), result.AllocsPerOp())
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// inside shuts the library down, which then tells how often it was called since
// it was the last time.
func inside(t *testing.T, s *Source) map[string]int {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(os.Getenv("FAKE_NVML_CALLS"))
	if errors.Is(err, os.ErrNotExist) {
		t.Fatal("the library was not shut down")
	}
	calls := make(map[string]int)
	for line := range strings.Lines(string(content)) {
		var name string
		var n int
		if _, err := fmt.Sscanf(line, "%s %d", &name, &n); err != nil {
			t.Fatal(err)
		}
		calls[name] = n
	}
	return calls
}
