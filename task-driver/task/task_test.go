package task

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/process"
)

func newDir(t *testing.T) Dir {
	t.Helper()
	d := Dir(filepath.Join(t.TempDir(), "tasks", "a"))
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNames(t *testing.T) {
	base := DirOf("/state", "x")
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.String().Draw(t, "id")
		name := Name(id)
		if filepath.Dir(string(DirOf("/state", id))) != filepath.Dir(string(base)) || strings.ContainsAny(name, "/\x00") || len(name) > 255 || name == "" {
			t.Fatalf("name of %q = %q", id, name)
		}
		if other, ok := seen[name]; ok && other != id {
			t.Fatalf("%q and %q have one name", id, other)
		}
		seen[name] = id
	})
	for _, id := range []string{"", ".", "..", "../../etc", strings.Repeat("a", 300)} {
		if d := string(DirOf("/state", id)); filepath.Dir(d) != "/state/tasks" {
			t.Errorf("folder of %q = %q", id, d)
		}
	}
}

// What version 1 wrote is read for ever.
func TestStoredFormat(t *testing.T) {
	d := Dir("testdata/v1")
	r, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := Running{
		Version: 1, TaskID: "8f3c/main/1a2b3c4d",
		Supervisor: process.ID{PID: 310, Start: 5512, Boot: "9c2f"}, Command: process.ID{PID: 316, Start: 5513, Boot: "9c2f"},
		Group:   cgroup.Group{Version: 1, Dirs: map[string]string{"memory": "/sys/fs/cgroup/memory/drover/8f3c"}, Guest: []string{"/sys/fs/cgroup/cpuset/nomad/share"}},
		WorkDir: "/alloc/main/local", User: &Credential{UID: 65534, GID: 65534, Groups: []uint32{65534}}, NetNS: "/run/netns/x", Started: started,
	}
	if diff := cmp.Diff(want, r, cmp.AllowUnexported(cgroup.Group{}), cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == ".mounts"
	}, cmp.Ignore())); diff != "" {
		t.Errorf("running.json (-want +got):\n%s", diff)
	}
	e, err := d.Exit()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Exit{Version: 1, ExitCode: 137, Signal: 9, OOM: true, Error: "why", Finished: started}, e); diff != "" {
		t.Errorf("exit.json (-want +got):\n%s", diff)
	}
	r2 := &Reader{events: "testdata/v1/events.jsonl", seen: filepath.Join(t.TempDir(), "seen")}
	var events []Event
	if err := r2.Next(func(e Event) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{{Key: "sealed-120", Time: started, Message: "Checkpoint 120 sealed", Details: map[string]string{"step": "120"}}}, events); diff != "" {
		t.Errorf("events.jsonl (-want +got):\n%s", diff)
	}
}

func TestStateRefusesWhatItDoesNotKnow(t *testing.T) {
	d := newDir(t)
	if _, err := d.Running(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Running of nothing = %v", err)
	}
	if _, err := d.Exit(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Exit of nothing = %v", err)
	}
	for _, text := range []string{"", "{", `{"version":2}`} {
		for _, name := range []string{"running.json", "exit.json"} {
			if err := os.WriteFile(filepath.Join(string(d), name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Running(); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Running of %q = %v", text, err)
		}
		if _, err := d.Exit(); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Exit of %q = %v", text, err)
		}
	}
}

func TestStateIsPrivate(t *testing.T) {
	d := newDir(t)
	if err := d.SetExit(Exit{ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{string(d): 0o700, filepath.Join(string(d), "exit.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

func TestLock(t *testing.T) {
	d := newDir(t)
	first, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock = %v", err)
	}
	first.Close()
	again, err := d.Lock()
	if err != nil {
		t.Fatalf("after the first was released: %v", err)
	}
	again.Close()
}

func collect(t *testing.T, r *Reader) []string {
	t.Helper()
	var got []string
	if err := r.Next(func(e Event) error { got = append(got, e.Message); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEventsComeOnce(t *testing.T) {
	d := newDir(t)
	add := func(keys ...string) {
		t.Helper()
		j, err := d.Journal() // anew each time, as after a restart
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if err := j.Add(k, "message "+k, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader := func() *Reader {
		t.Helper()
		r, err := d.Reader()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if got := collect(t, reader()); got != nil {
		t.Errorf("events before any = %q", got)
	}
	add("a", "b", "a")
	add("b", "c")
	r := reader()
	if got, want := collect(t, r), []string{"message a", "message b", "message c"}; !slices.Equal(got, want) {
		t.Errorf("events = %q, want %q", got, want)
	}
	add("d")
	if got, want := collect(t, reader()), []string{"message d"}; !slices.Equal(got, want) {
		t.Errorf("events after a restart = %q, want %q", got, want)
	}
	// An event that could not be shown comes again.
	add("e", "f")
	r = reader()
	refused := errors.New("refused")
	if err := r.Next(func(Event) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("Next = %v", err)
	}
	if got, want := collect(t, r), []string{"message e", "message f"}; !slices.Equal(got, want) {
		t.Errorf("events = %q, want %q", got, want)
	}
}

func TestEventsAreBounded(t *testing.T) {
	d := newDir(t)
	j, err := d.Journal()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1<<20)
	for i := range 20 {
		if err := j.Add(strconv.Itoa(i), long, nil); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Reader()
	if err != nil {
		t.Fatal(err)
	}
	got := collect(t, r)
	if len(got) > 6 || !strings.HasPrefix(got[len(got)-1], "No more events") {
		t.Errorf("%d events, the last of which is %.40q", len(got), got[len(got)-1])
	}
}

// A writer killed in the middle of a line costs that line only.
func TestEventCutShort(t *testing.T) {
	d := newDir(t)
	file := filepath.Join(string(d), "events.jsonl")
	whole := `{"key":"a","time":"2026-01-02T03:04:05Z","message":"one"}` + "\n"
	if err := os.WriteFile(file, []byte(whole+`{"key":"b","ti`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := d.Reader()
	if err != nil {
		t.Fatal(err)
	}
	if got := collect(t, r); !slices.Equal(got, []string{"one"}) {
		t.Errorf("events = %q", got)
	}
	j, err := d.Journal()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Add("b", "two", nil); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, r); !slices.Equal(got, []string{"two"}) {
		t.Errorf("events = %q", got)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte(`{"key":"a","message":"m"}` + "\n{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, whole := parseEvents(b)
		if whole < 0 || whole > len(b) || whole > 0 && b[whole-1] != '\n' {
			t.Fatalf("whole = %d of %d", whole, len(b))
		}
		for _, e := range events {
			if e.Key == "" {
				t.Fatal("an event without a key")
			}
		}
	})
}

func TestWithoutAgent(t *testing.T) {
	agent := map[string]string{"SECRET": "s", "PATH": "/bin", "HOME": "/root", "NOMAD_TOKEN": "t", "NOMAD_REGION": "global", "EDITOR": "vi"}
	env := maps.Clone(agent)
	maps.Copy(env, map[string]string{
		"EDITOR": "emacs", "MINE": "m", "NOMAD_ALLOC_ID": "a", "NOMAD_META_x": "y", "NOMAD_PORT_http": "80",
	})
	want := map[string]string{
		"PATH": "/bin", "HOME": "/root", "NOMAD_REGION": "global", // the agent's, but of use
		"EDITOR": "emacs", "MINE": "m", "NOMAD_ALLOC_ID": "a", "NOMAD_META_x": "y", "NOMAD_PORT_http": "80",
	}
	if diff := cmp.Diff(want, WithoutAgent(env, agent)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	env["NOMAD_TOKEN"] = "the task's own"
	if WithoutAgent(env, agent)["NOMAD_TOKEN"] != "the task's own" {
		t.Error("a token of the task's own was dropped")
	}
}

// A recommendation of the device plugin is one: the job may know better.
func TestHints(t *testing.T) {
	device := map[string]string{"NCCL_IB_HCA": "=mlx5_0", "DROVER_NICS": "mlx5_0"}
	env := map[string]string{"NCCL_IB_HCA": "^mlx5_7", "DROVER_NICS": "all"}
	CloseGPUs(env, device)
	if env["NCCL_IB_HCA"] != "^mlx5_7" || env["DROVER_NICS"] != "mlx5_0" {
		t.Errorf("with the job's own: %v", env)
	}
	env = map[string]string{}
	CloseGPUs(env, device)
	if env["NCCL_IB_HCA"] != "=mlx5_0" {
		t.Errorf("without: %v", env)
	}
}

func TestCloseGPUs(t *testing.T) {
	const n, c = "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
	for _, test := range []struct {
		name         string
		device       map[string]string
		nvidia, cuda string
	}{
		{"nothing reserved", nil, "void", ""},
		{"another kind of device", map[string]string{"FPGA": "1"}, "void", ""},
		{"one", map[string]string{n: "GPU-a"}, "GPU-a", "GPU-a"},
		{"only CUDA's", map[string]string{c: "GPU-a"}, "GPU-a", "GPU-a"},
		{"both", map[string]string{n: "GPU-a", c: "MIG-b"}, "GPU-a", "MIG-b"},
		{"void", map[string]string{n: "void"}, "void", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := map[string]string{n: "all", c: "0,1,2"}
			CloseGPUs(env, test.device)
			if env[n] != test.nvidia || env[c] != test.cuda {
				t.Errorf("%s = %q, %s = %q; want %q, %q", n, env[n], c, env[c], test.nvidia, test.cuda)
			}
		})
	}
}

func TestDevices(t *testing.T) {
	for want, device := range map[string]map[string]string{
		"[GPU-a GPU-b]": {"NVIDIA_VISIBLE_DEVICES": "GPU-b,GPU-a"},
		"[MIG-c]":       {"CUDA_VISIBLE_DEVICES": "MIG-c"},
		"[]":            {"NVIDIA_VISIBLE_DEVICES": "void"},
	} {
		if got := "[" + strings.Join(Devices(device), " ") + "]"; got != want {
			t.Errorf("devices of %v = %s, want %s", device, got, want)
		}
	}
}

func TestEnviron(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		env := rapid.MapOf(rapid.StringMatching(`[A-Z_]+`), rapid.String()).Draw(t, "env")
		if diff := cmp.Diff(env, EnvMap(Environ(env))); diff != "" {
			t.Errorf("there and back (-want +got):\n%s", diff)
		}
	})
}
