package devcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// pluginProcesses finds the processes of a cluster's plugins.
func pluginProcesses(t *testing.T, dir string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Skipf("processes cannot be listed here: %v", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); err == nil && strings.HasPrefix(string(args), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestATaskSurvivesItsDriver(t *testing.T) {
	dir := ""
	cluster := startCluster(t, func(c *Config) { dir = c.PluginDir })
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	register(t, c, scriptJob("j", "batch", fmt.Sprintf(`echo x >> %[1]s/starts; while [ ! -e %[1]s/go ]; do sleep 0.02; done`, mark)))
	awaitStatus(t, c, "j", "running")
	for range 2 {
		pids := pluginProcesses(t, dir)
		if len(pids) != 1 {
			t.Fatalf("plugin processes %v", pids)
		}
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitDeath(t, strconv.Itoa(pids[0]))
		tick := time.NewTicker(5 * time.Millisecond)
		for deadline := time.Now().Add(patience); len(pluginProcesses(t, dir)) != 1; <-tick.C {
			if time.Now().After(deadline) {
				t.Fatal("the plugin was not launched again")
			}
		}
		tick.Stop()
	}
	if err := os.WriteFile(filepath.Join(mark, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := awaitStatus(t, c, "j", "complete")
	if got := awaitFile(t, filepath.Join(mark, "starts")); got != "x\n" || a.TaskStates["main"].Restarts != 0 {
		t.Errorf("starts %q, restarts %d", got, a.TaskStates["main"].Restarts)
	}
}

func TestManyJobsAtOnce(t *testing.T) {
	const count = 60
	cluster := startCluster(t, nodes("a", "b"))
	c := nomad(t, cluster.Addr())
	mark := t.TempDir()
	for i := range count {
		id := fmt.Sprintf("many-%d", i)
		register(t, c, scriptJob(id, "batch", fmt.Sprintf(`echo x >> %s/%s`, mark, id)))
	}
	for i := range count {
		id := fmt.Sprintf("many-%d", i)
		awaitStatus(t, c, id, "complete")
		if got := awaitFile(t, filepath.Join(mark, id)); got != "x\n" {
			t.Errorf("%s ran %d times", id, strings.Count(got, "x"))
		}
	}
}

func TestLifecycleHooks(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	mark := t.TempDir()
	j := scriptJob("j", "batch", fmt.Sprintf("echo main >> %s/order", mark))
	tg := j.TaskGroups[0]
	hook := func(name, kind string, sidecar bool, script string) {
		task := api.NewTask(name, testDriverName).SetConfig("script", script)
		task.Resources = &api.Resources{CPU: ptr(100), MemoryMB: ptr(64)}
		task.Lifecycle = &api.TaskLifecycle{Hook: kind, Sidecar: sidecar}
		task.KillTimeout = ptr(time.Second)
		tg.AddTask(task)
	}
	hook("before", api.TaskLifecycleHookPrestart, false, fmt.Sprintf("sleep 0.1; echo before >> %s/order", mark))
	hook("beside", api.TaskLifecycleHookPrestart, true, fmt.Sprintf("trap 'echo beside >> %s/order; exit 0' TERM; while :; do sleep 0.02; done", mark))
	hook("after", api.TaskLifecycleHookPoststop, false, fmt.Sprintf("echo after >> %s/order", mark))
	register(t, c, j)
	a := awaitStatus(t, c, "j", "complete")
	if got, want := awaitFile(t, filepath.Join(mark, "order")), "before\nmain\nbeside\nafter\n"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	for name, ts := range a.TaskStates {
		if ts.State != "dead" || ts.Failed {
			t.Errorf("task %s is %s, failed %v", name, ts.State, ts.Failed)
		}
	}
}

func TestAFailedTaskEndsItsSiblings(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	j := scriptJob("j", "batch", "sleep 0.1; exit 2")
	sibling := api.NewTask("sibling", testDriverName).SetConfig("script", "trap 'exit 0' TERM; while :; do sleep 0.02; done")
	sibling.Resources = &api.Resources{CPU: ptr(100), MemoryMB: ptr(64)}
	sibling.KillTimeout = ptr(time.Second)
	j.TaskGroups[0].AddTask(sibling)
	register(t, c, j)
	a := awaitStatus(t, c, "j", "failed")
	found := false
	for _, e := range a.TaskStates["sibling"].Events {
		found = found || e.Type == api.TaskSiblingFailed
	}
	if !found || a.TaskStates["sibling"].Failed {
		t.Errorf("sibling: %+v", a.TaskStates["sibling"])
	}
}

func TestAnAllocationHasItsTime(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	j := scriptJob("j", "batch", "trap 'exit 0' TERM; while :; do sleep 0.02; done")
	j.TaskGroups[0].MaxRunDuration = ptr(200 * time.Millisecond)
	register(t, c, j)
	if a := awaitStatus(t, c, "j", "complete"); a.ClientDescription != "allocation exceeded max_run_duration" {
		t.Errorf("description %q", a.ClientDescription)
	}
}
