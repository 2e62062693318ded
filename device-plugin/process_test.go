package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/sharing/mps/mpstest"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var binary struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	mpstest.Main()
	flag.Parse()
	code := m.Run()
	if binary.dir != "" {
		os.RemoveAll(binary.dir)
	}
	os.Exit(code)
}

// plugin builds the command once.
func pluginBinary(t *testing.T) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "nomad-device-gpu"); binary.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", filepath.Join(binary.dir, "nomad-device-gpu"), ".").CombinedOutput()
		if err != nil {
			binary.err = errors.New(string(out))
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return filepath.Join(binary.dir, "nomad-device-gpu")
}

func launch(t *testing.T, config map[string]any, env ...string) *host.Process {
	t.Helper()
	if config == nil {
		config = map[string]any{}
	}
	if config["state_dir"] == nil {
		config["state_dir"] = t.TempDir()
	}
	p, err := host.Launch(t.Context(), host.Config{Path: pluginBinary(t), Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	spec, err := p.ConfigSchema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	packed, err := schema.Encode(spec, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetConfig(t.Context(), base.Config{MsgPack: packed, APIVersion: base.APIVersion}); err != nil {
		t.Fatal(err)
	}
	return p
}

// fingerprints delivers what a process publishes.
func fingerprints(t *testing.T, p *host.Process) <-chan []device.Group {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan []device.Group, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Device().Fingerprint(ctx, func(g []device.Group) error { published <- g; return nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return published
}

func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was published")
		panic("unreachable")
	}
}

func TestProcessSimulated(t *testing.T) {
	faults := filepath.Join(t.TempDir(), "faults.json")
	config := map[string]any{
		"simulate": "dgx-h100", "simulate_node": "node-1", "simulate_faults": faults, "health": map[string]any{"hold_down": "0s"},
	}
	p := launch(t, config)

	info, err := p.Info(t.Context())
	if err != nil || info.Type != base.TypeDevice || info.Name != "nvidia-gpu" {
		t.Errorf("info %+v, %v", info, err)
	}
	published := fingerprints(t, p)
	groups := next(t, published)
	if len(groups) != 1 || groups[0].Name != "NVIDIA H100 80GB HBM3" || len(groups[0].Devices) != 8 {
		t.Fatalf("groups %+v", groups)
	}
	if got := groups[0].Attributes["memory"]; got != base.Int(81559, "MiB") {
		t.Errorf("memory is %+v", got)
	}
	first, second := groups[0].Devices[0].ID, groups[0].Devices[1].ID

	r, err := p.Device().Reserve(t.Context(), []string{second, first})
	if err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{
		"NVIDIA_VISIBLE_DEVICES": first + "," + second, "CUDA_VISIBLE_DEVICES": first + "," + second,
		"DROVER_CDI_DEVICES": "nvidia.com/gpu=" + first + ",nvidia.com/gpu=" + second, "DROVER_GPU_NODES": "",
		"DROVER_GPU_STATUS": filepath.Join(config["state_dir"].(string), "status.json"),
		"DROVER_NUMA_NODES": "0", "DROVER_CPUS": "0-55,112-167",
	} {
		if got := r.Env[variable]; got != want {
			t.Errorf("%s is %q, want %q", variable, got, want)
		}
	}

	write(t, faults, `{"fault": {"0": {"reason": "Xid 79"}}}`)
	if d := next(t, published)[0].Devices[0]; d.Healthy || !strings.HasPrefix(d.HealthDescription, "Xid 79, at ") || !strings.HasSuffix(d.HealthDescription, "; running work moves away") {
		t.Errorf("after a fault: %+v", d)
	}
	if _, err := p.Device().Reserve(t.Context(), []string{first}); err == nil || !strings.Contains(err.Error(), first) {
		t.Errorf("reserving an unhealthy GPU: %v", err)
	}
	if err := os.Remove(faults); err != nil {
		t.Fatal(err)
	}
	for !next(t, published)[0].Devices[0].Healthy {
		// It is checked first.
	}

	// A new process of the same node: Reserve and Stats come first.
	p.Kill()
	p = launch(t, config)
	if r, err := p.Device().Reserve(t.Context(), []string{second}); err != nil || r.Env["CUDA_VISIBLE_DEVICES"] != second {
		t.Errorf("reserving after a relaunch: %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stats := make(chan []device.GroupStats, 1)
	go func() {
		_ = p.Device().Stats(ctx, time.Hour, func(s []device.GroupStats) error { stats <- s; return nil })
	}()
	if s := next(t, stats); len(s) != 1 || len(s[0].Instances) != 8 || *s[0].Instances[first].Summary.IntDenominator != 81559 {
		t.Errorf("statistics %+v", s)
	}
}

// fakeNVML compiles testdata/fakenvml.c as the system's NVML.
func fakeNVML(t *testing.T) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not there to build a stand-in for libnvidia-ml.so.1")
	}
	dir := t.TempDir()
	out, err := exec.Command(gcc, "-shared", "-fPIC", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "testdata/fakenvml.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestProcessLibrary loads a real shared library, which lacks most functions
// as an old driver's does: calling one of those would end the process.
func TestProcessLibrary(t *testing.T) {
	dir := fakeNVML(t)
	result := filepath.Join(dir, "result")
	env := []string{"LD_LIBRARY_PATH=" + dir, "FAKE_NVML_RESULT=" + result}
	p := launch(t, map[string]any{"fingerprint_period": "100ms"}, env...)
	published := fingerprints(t, p)
	if got := described(next(t, published)); got != "GPU-fake ok" {
		t.Fatalf("published %q", got)
	}
	write(t, result, "18") // NVML_ERROR_LIB_RM_VERSION_MISMATCH
	if got := described(next(t, published)); !strings.HasPrefix(got, "GPU-fake counting GPUs: driver/library version mismatch") {
		t.Errorf("published %q", got)
	}
	if got := described(next(t, published)); !strings.HasPrefix(got, "GPU-fake initialising NVML: driver/library version mismatch") {
		t.Errorf("published %q", got)
	}
	write(t, result, "0")
	if got := described(next(t, published)); got != "GPU-fake ok" {
		t.Errorf("published %q after the mismatch is gone", got)
	}
	if _, err := p.Device().Reserve(t.Context(), []string{"GPU-fake"}); err != nil {
		t.Error(err)
	}
}

func TestProcessWithoutLibrary(t *testing.T) {
	if _, err := os.Stat("/proc/driver/nvidia"); err == nil {
		t.Skip("this machine has an NVIDIA driver")
	}
	p := launch(t, nil)
	if g := next(t, fingerprints(t, p)); len(g) != 0 {
		t.Errorf("published %+v", g)
	}
	r, err := p.Device().Reserve(t.Context(), nil)
	if err != nil || r == nil {
		t.Errorf("reserving nothing: %v, %v", r, err)
	}
}

func TestCommands(t *testing.T) {
	boards := filepath.Join(t.TempDir(), "boards.hcl")
	write(t, boards, "board \"l4\" {\n  count = 0\n}\n")
	tests := []struct {
		name   string
		args   []string
		golden string // of stdout
		stderr string
		status int
	}{
		{name: "table", args: []string{"list", "-simulate", "2xh100", "-node", "n"}, golden: "list.txt"},
		{name: "JSON", args: []string{"list", "-simulate", "a100-40gb/all-balanced", "-node", "n", "-json"}, golden: "list.json"},
		{name: "mixed board file", args: []string{"list", "-simulate", "testdata/mixed.hcl", "-node", "n"}, golden: "mixed.txt"},
		{name: "unhealthy", args: []string{"list", "-simulate", "testdata/mixed.hcl", "-node", "n", "-faults", "testdata/faults.hcl"}, golden: "unhealthy.txt"},
		{name: "unknown preset", args: []string{"list", "-simulate", "dgx-1"}, stderr: `unknown GPU preset "dgx-1"`, status: 1},
		{name: "bad board file", args: []string{"list", "-simulate", boards}, stderr: "boards.hcl:2:11: count is 1 to 64, not 0", status: 1},
		{name: "argument", args: []string{"list", "x"}, stderr: `unexpected argument "x"`, status: 2},
		{name: "unknown option", args: []string{"list", "-x"}, stderr: "flag provided but not defined: -x", status: 2},
		{name: "unknown command", args: []string{"lst"}, stderr: `unknown command "lst"`, status: 2},
		{name: "no agent", stderr: "This binary is a plugin", status: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(pluginBinary(t), tt.args...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // the status tells
			if got := cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("status %d, want %d; %s", got, tt.status, &stderr)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr %q, want %q", &stderr, tt.stderr)
			}
			if tt.golden != "" {
				golden(t, filepath.Join("testdata", tt.golden), stdout.String())
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		write(t, path, got)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
