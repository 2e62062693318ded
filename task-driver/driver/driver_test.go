package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
	"github.com/drover-ml/drover/task-driver/cgroup"
)

func newDriver() *Driver { return New("0.1.0", hclog.NewNullLogger(), &LogFile{}) }

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name   string
		config map[string]any
		err    string
	}{
		{"none", map[string]any{}, ""},
		{"all", map[string]any{"enabled": true, "store": "file:///srv", "state_dir": "/s", "cache_dir": "/c", "cgroups": "off"}, ""},
		{"relative state_dir", map[string]any{"state_dir": "s"}, `state_dir: "s"`},
		{"relative log_file", map[string]any{"log_file": "l"}, `log_file: "l"`},
		{"store is no URL", map[string]any{"store": "/srv"}, `store: "/srv"`},
		{"unknown cgroups", map[string]any{"cgroups": "v3"}, `cgroups: "v3"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDriver()
			packed, err := schema.Encode(d.ConfigSchema(), test.config)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // an agent's check calls it twice
				err := d.SetConfig(t.Context(), base.Config{MsgPack: packed})
				if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
					t.Errorf("error = %v, want %q in it", err, test.err)
				}
			}
		})
	}
}

func TestHealth(t *testing.T) {
	d := newDriver()
	set := func(s Settings) driver.Fingerprint {
		t.Helper()
		s.StateDir, s.Cgroups = t.TempDir(), "off"
		if err := s.complete(); err != nil {
			t.Fatal(err)
		}
		d.settings = s
		return d.fingerprint()
	}
	if f := set(Settings{}); f.Health != driver.HealthUndetected || len(f.Attributes) != 0 {
		t.Errorf("disabled: %+v", f)
	}
	if f := set(Settings{Enabled: true}); f.Health != driver.HealthHealthy || f.Attributes["driver.ml.cgroups"].Value != "none" {
		t.Errorf("enabled: %+v", f)
	}
	missing := filepath.Join(t.TempDir(), "none")
	if f := set(Settings{Enabled: true, Store: "file://" + missing}); f.Health != driver.HealthUnhealthy || !strings.Contains(f.Description, missing) {
		t.Errorf("store is missing: %+v", f)
	}
}

// The schema has what mltask.Config has.
func TestTaskSchema(t *testing.T) {
	want := mltask.Config{
		Command: "python", Args: []string{"a", "b"}, WorkDir: "local", Store: "file:///s", Code: "local/src",
		Inputs: []mltask.Input{{Name: "i", Source: "local/x", SHA256: "sha256:x"}}, Outputs: []mltask.Output{{Name: "o", Optional: true}},
		Params: "{}", Checkpoint: []mltask.Checkpoint{{Key: "k", Keep: 7}},
		Gang: []mltask.Gang{{Key: "g", Rank: 1, Size: 2, Timeout: "5m"}},
		Run:  "r", Step: "s", Attempt: 2, Seed: 1 << 40, ResultKey: "rk", StallTimeout: "1m",
	}
	packed, err := schema.Encode(newDriver().TaskSchema(), map[string]any{
		"command": "python", "args": []any{"a", "b"}, "work_dir": "local", "store": "file:///s", "code": "local/src",
		"input":  []any{map[string]any{"name": "i", "source": "local/x", "sha256": "sha256:x"}},
		"output": []any{map[string]any{"name": "o", "optional": true}},
		"params": "{}", "checkpoint": []any{map[string]any{"key": "k", "keep": 7}},
		"gang": []any{map[string]any{"key": "g", "rank": 1, "size": 2, "timeout": "5m"}},
		"run":  "r", "step": "s", "attempt": 2, "seed": 1 << 40, "result_key": "rk", "stall_timeout": "1m",
	})
	if err != nil {
		t.Fatal(err)
	}
	var got mltask.Config
	if err := schema.Decode(packed, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		name string
		have driver.Resources
		want cgroup.Limits
	}{
		{"none", driver.Resources{}, cgroup.Limits{}},
		{"memory", driver.Resources{MemoryMB: 64, MemoryLimit: 64 * mib, CPUShares: 100}, cgroup.Limits{MemoryBytes: 64 * mib, CPUShares: 100}},
		{"memory_max", driver.Resources{MemoryMB: 64, MemoryMaxMB: 128, MemoryLimit: 128 * mib}, cgroup.Limits{MemoryBytes: 128 * mib, MemoryLowBytes: 64 * mib}},
		{"memory_max without a limit", driver.Resources{MemoryMB: 64, MemoryMaxMB: -1, MemoryLimit: 64 * mib}, cgroup.Limits{MemoryLowBytes: 64 * mib}},
		{"no limit given", driver.Resources{MemoryMB: 64, MemoryMaxMB: 128}, cgroup.Limits{MemoryBytes: 128 * mib, MemoryLowBytes: 64 * mib}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, limits(test.have)); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

// Names of keys are valid, and different for different texts.
func TestKeyName(t *testing.T) {
	store, err := artifact.Open("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.StringN(-1, -1, 60).Draw(t, "a")
		b := rapid.StringN(-1, -1, 60).Draw(t, "b")
		if (a == b) != (keyName(a) == keyName(b)) {
			t.Errorf("names of %q and %q: %q and %q", a, b, keyName(a), keyName(b))
		}
		c := mltask.Config{Command: "x", Checkpoint: []mltask.Checkpoint{{Key: keyName(a) + "/" + keyName(b)}}}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if _, err := store.ListRecords(context.Background(), keyName(a)); err != nil {
			t.Error(err)
		}
	})
}

func TestCheckpointKey(t *testing.T) {
	c := &driver.TaskConfig{Namespace: "default", JobID: "train/periodic-1", Group: "task", Name: "main", Env: map[string]string{"NOMAD_ALLOC_INDEX": "3"}}
	if got := checkpointOf(c, &mltask.Config{}); got != nil {
		t.Errorf("without a block: %+v", got)
	}
	got := checkpointOf(c, &mltask.Config{Checkpoint: []mltask.Checkpoint{{}}})
	if got.Key != "_default/_train.2fperiodic-1/_task/_main/_3" || got.Keep != 3 || !got.Forget {
		t.Errorf("default = %+v", got)
	}
	got = checkpointOf(c, &mltask.Config{Checkpoint: []mltask.Checkpoint{{Key: "run/train", Keep: 5}}})
	if got.Key != "run/train" || got.Keep != 5 || got.Forget {
		t.Errorf("given = %+v", got)
	}
}

func TestDecodeRefusesPlacesThatItCannotShow(t *testing.T) {
	d := newDriver()
	packed, err := schema.Encode(d.TaskSchema(), map[string]any{"command": "true"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		c    driver.TaskConfig
		ok   bool
	}{
		{"none", driver.TaskConfig{}, true},
		{"device in its place", driver.TaskConfig{Devices: []driver.Device{{TaskPath: "/dev/x", HostPath: "/dev/x"}}}, true},
		{"device elsewhere", driver.TaskConfig{Devices: []driver.Device{{TaskPath: "/dev/y", HostPath: "/dev/x"}}}, false},
		{"mount elsewhere", driver.TaskConfig{Mounts: []driver.Mount{{TaskPath: "/data", HostPath: "/srv/data"}}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.DriverConfig = packed
			if _, err := decode(&test.c); (err == nil) != test.ok {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestFeed(t *testing.T) {
	f := newFeed()
	ended := make(chan struct{})
	first, cancel := context.WithCancel(t.Context())
	refused := errors.New("the agent is gone")
	go func() { _ = f.serve(first, func(driver.TaskEvent) error { return refused }) }()
	if err := f.show(driver.TaskEvent{Message: "a"}, ended); !errors.Is(err, refused) {
		t.Errorf("show = %v", err)
	}
	cancel()
	got := make(chan string, 1)
	go func() { _ = f.serve(t.Context(), func(e driver.TaskEvent) error { got <- e.Message; return nil }) }()
	if err := f.show(driver.TaskEvent{Message: "a"}, ended); err != nil || <-got != "a" {
		t.Errorf("show to the next agent = %v", err)
	}
	none := newFeed()
	close(ended)
	if err := none.show(driver.TaskEvent{}, ended); !errors.Is(err, errEnded) {
		t.Errorf("show to nobody = %v", err)
	}
}

func TestLogFile(t *testing.T) {
	var l LogFile
	if n, err := l.Write([]byte("lost")); n != 4 || err != nil {
		t.Errorf("write before open = %d, %v", n, err)
	}
	file := filepath.Join(t.TempDir(), "log")
	for range 2 {
		if err := l.Open(file); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "line\nline\n" {
		t.Errorf("log = %q, %v", b, err)
	}
	if err := l.Open(filepath.Join(file, "x")); err == nil {
		t.Error("a log file below a file was opened")
	}
}

func TestParseSignal(t *testing.T) {
	for name, ok := range map[string]bool{"": true, "SIGTERM": true, "SIGUSR1": true, "SIGNONSENSE": false, "15": false} {
		if _, err := parseSignal(name); (err == nil) != ok {
			t.Errorf("signal %q: %v", name, err)
		}
	}
}
