package cgroup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const hybrid = `25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 /docker/abc /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/with\040space rw - cgroup cgroup rw,freezer
29 25 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
30 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`

func TestParseMounts(t *testing.T) {
	want := map[string]mount{
		"cpu":     {"/sys/fs/cgroup/cpu,cpuacct", "/"},
		"cpuacct": {"/sys/fs/cgroup/cpu,cpuacct", "/"},
		"memory":  {"/sys/fs/cgroup/memory", "/docker/abc"},
		"freezer": {"/sys/fs/cgroup/with space", "/"},
		"unified": {"/sys/fs/cgroup/unified", "/"},
	}
	got := parseMounts(strings.NewReader(hybrid + "garbage\n1 2 3\n"))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(hybrid)
	f.Fuzz(func(_ *testing.T, text string) { parseMounts(strings.NewReader(text)) })
}

func TestWeightIsMonotonicAndInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		if wa, wb := weight(a), weight(b); wa < 1 || wb > 10000 || wa > wb {
			t.Errorf("weights of %d and %d = %d and %d", a, b, wa, wb)
		}
	})
	if weight(2) != 1 || weight(262144) != 10000 {
		t.Errorf("weights of the ends = %d and %d", weight(2), weight(262144))
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "../up", "line\nbreak"} {
		if _, err := (Host{Version: 1}).Create(name, "", Limits{}); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

// fakeV2 is a folder that looks like version 2's, for what is written there.
func fakeV2(t *testing.T, files ...string) (Host, string) {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		file := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Version: 2, mounts: map[string]mount{unified: {root, "/"}}}, root
}

func TestLimitsOfVersion2(t *testing.T) {
	h, root := fakeV2(t, "cgroup.subtree_control", "nomad.slice/share.slice/a.scope/cgroup.procs",
		"nomad.slice/share.slice/a.scope/memory.max", "nomad.slice/share.slice/a.scope/memory.swap.max",
		"nomad.slice/share.slice/a.scope/memory.low", "nomad.slice/share.slice/a.scope/cpu.weight")
	client := filepath.Join(root, "nomad.slice/share.slice/a.scope")
	g, err := h.Create("task", client, Limits{MemoryBytes: 64 << 20, MemoryLowBytes: 32 << 20, CPUShares: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if !g.Borrowed || g.Dirs[unified] != client {
		t.Errorf("group = %+v, want the client's", g)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "memory.low": "33554432", "cpu.weight": "39"} {
		b, err := os.ReadFile(filepath.Join(client, file))
		if err != nil || string(b) != want {
			t.Errorf("%s = %q, %v; want %q", file, b, err, want)
		}
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(client); err != nil {
		t.Error("a borrowed group was removed")
	}
}

func TestCountersOfVersion2(t *testing.T) {
	h, root := fakeV2(t, "g/cgroup.procs")
	g := Group{Version: h.Version, Dirs: map[string]string{unified: filepath.Join(root, "g")}}
	for file, text := range map[string]string{
		"memory.events":  "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\n",
		"memory.current": "4096\n", "memory.stat": "anon 1000\nfile 2000\n",
		"cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 7\nthrottled_usec 5\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "g", file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := g.OOMKills(); got != 3 {
		t.Errorf("OOM kills = %d, want 3", got)
	}
	u, ok := g.Usage()
	if !ok || *u.Usage != 4096 || *u.RSS != 1000 || *u.Cache != 2000 || *u.User != 20*time.Microsecond || *u.System != 10*time.Microsecond ||
		*u.ThrottledPeriods != 7 || *u.Throttled != 5*time.Microsecond || u.MaxUsage != nil {
		t.Errorf("usage = %+v, %v", u, ok)
	}
}

func TestNoGroup(t *testing.T) {
	var g Group
	if u, ok := g.Usage(); ok || u != (Usage{}) || g.OOMKills() != 0 || len(g.Processes()) != 0 {
		t.Error("no group uses something")
	}
	cmd := exec.Command("true")
	if err := g.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// realGroup makes a group of this machine.
func realGroup(t *testing.T, l Limits) Group {
	t.Helper()
	h := Detect()
	if h.Version == 0 {
		t.Skip("needs control groups: " + h.Reason)
	}
	g, err := h.Create("cgroup-test-"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), "", l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return g
}

func startIn(t *testing.T, g Group, script string) *exec.Cmd {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("sh", "-c", script)
	if err := g.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// Only the command enters the group: this process is never a member when a
// start has returned.
func TestStartLeavesTheStarterOutside(t *testing.T) {
	g := realGroup(t, Limits{MemoryBytes: 64 << 20, MemoryLowBytes: 32 << 20, CPUShares: 100})
	cmd := startIn(t, g, "exec sleep 1000")
	if got := g.Processes(); !slices.Equal(got, []int{cmd.Process.Pid}) {
		t.Errorf("processes = %v, want %d only", got, cmd.Process.Pid)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestStartThatFails(t *testing.T) {
	g := realGroup(t, Limits{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := g.Start(exec.Command("/no/such/program")); err == nil {
		t.Error("no error")
	}
	if got := g.Processes(); len(got) != 0 {
		t.Errorf("processes = %v, want none", got)
	}
}

// A tree that forks while it is killed ends all the same, and so do processes
// in groups that the task has made itself.
func TestKillOfWhatForks(t *testing.T) {
	g := realGroup(t, Limits{})
	cmd := startIn(t, g, `while true; do setsid sh -c 'sleep 1000 & sleep 1000' & sleep 0.01; done`)
	for deadline := time.Now().Add(10 * time.Second); len(g.Processes()) < 30; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was forked")
		}
	}
	inner := filepath.Join(g.folders()[0], "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := syscall.Kill(cmd.Process.Pid, 0); err == nil {
		t.Error("the command is still there")
	}
}

// Version 2 without its controllers, as hybrid machines have it, still starts,
// counts and kills.
func TestVersion2(t *testing.T) {
	m, ok := Detect().mounts[unified]
	if !ok || writable(m.point) != nil {
		t.Skip("needs control groups of version 2")
	}
	g := Group{Version: 2, Dirs: map[string]string{unified: filepath.Join(m.point, "cgroup-test-version-2")}}
	if err := mkdir(g.Dirs[unified]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cmd := startIn(t, g, `setsid sleep 1000 & exec sleep 1000`)
	for deadline := time.Now().Add(10 * time.Second); len(g.Processes()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes = %v, want two", g.Processes())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { _ = cmd.Wait() }()
	if err := g.Kill(ctx); err != nil {
		t.Error(err)
	}
}

func TestRestart(t *testing.T) {
	g := realGroup(t, Limits{MemoryBytes: 64 << 20})
	again, err := Detect().Create(filepath.Base(g.folders()[0]), "", Limits{MemoryBytes: 128 << 20})
	if err != nil {
		t.Fatalf("with a larger limit: %v", err)
	}
	if diff := cmp.Diff(g.Dirs, again.Dirs); diff != "" {
		t.Errorf("folders (-first +second):\n%s", diff)
	}
	if _, err := Detect().Create(filepath.Base(g.folders()[0]), "", Limits{MemoryBytes: 32 << 20}); err != nil {
		t.Fatalf("with a smaller limit: %v", err)
	}
}
