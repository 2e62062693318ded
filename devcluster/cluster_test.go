package devcluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// pluginDir is a folder with the test driver in it.
func pluginDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Link(self, filepath.Join(dir, "nomad-driver-test")); err != nil {
		t.Skipf("the test binary cannot be linked into the plugin folder: %v", err)
	}
	return dir
}

func testLogger(t *testing.T) hclog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr})
}

func startCluster(t *testing.T, change ...func(*Config)) *Cluster {
	t.Helper()
	cfg := Config{DataDir: t.TempDir(), PluginDir: pluginDir(t), Logger: testLogger(t)}
	for _, fn := range change {
		fn(&cfg)
	}
	c, err := Start(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Destroy(ctx); err != nil {
			t.Errorf("destroying the cluster: %v", err)
		}
	})
	return c
}

func nomad(t *testing.T, addr string) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: addr, WaitTime: patience})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// scriptJob is a job of one task that runs a script.
func scriptJob(id, kind, script string) *api.Job {
	task := api.NewTask("main", testDriverName).SetConfig("script", script)
	task.Resources = &api.Resources{CPU: ptr(100), MemoryMB: ptr(64)}
	task.KillTimeout = ptr(2 * time.Second)
	tg := api.NewTaskGroup("task", 1).AddTask(task)
	tg.RestartPolicy = &api.RestartPolicy{Attempts: ptr(0), Interval: ptr(time.Minute), Delay: ptr(time.Duration(0)), Mode: ptr("fail")}
	tg.ReschedulePolicy = &api.ReschedulePolicy{Attempts: ptr(0), Unlimited: ptr(false)}
	job := api.NewBatchJob(id, id, "global", 50)
	if kind == "service" {
		job = api.NewServiceJob(id, id, "global", 50)
	}
	return job.AddTaskGroup(tg)
}

func ptr[T any](v T) *T { return &v }

func register(t *testing.T, c *api.Client, job *api.Job) *api.JobRegisterResponse {
	t.Helper()
	resp, _, err := c.Jobs().Register(job, nil)
	if err != nil {
		t.Fatalf("registering %s: %v", *job.ID, err)
	}
	return resp
}

// awaitAllocs waits until the allocations of a job, oldest first, are as done
// wants them.
func awaitAllocs(t *testing.T, c *api.Client, job string, done func([]*api.AllocationListStub) bool) []*api.AllocationListStub {
	t.Helper()
	q := &api.QueryOptions{WaitTime: 5 * time.Second}
	deadline := time.Now().Add(patience)
	for {
		allocs, meta, err := c.Jobs().Allocations(job, true, q)
		if err != nil {
			t.Fatalf("listing allocations of %s: %v", job, err)
		}
		slices.Reverse(allocs) // the client sorts the newest first
		if done(allocs) {
			return allocs
		}
		if time.Now().After(deadline) {
			for _, a := range allocs {
				t.Logf("alloc %s on %s: %s/%s %s", a.ID, a.NodeName, a.DesiredStatus, a.ClientStatus, a.ClientDescription)
				for name, ts := range a.TaskStates {
					for _, e := range ts.Events {
						t.Logf("  %s: %s: %s", name, e.Type, e.DisplayMessage)
					}
				}
			}
			t.Fatalf("job %s did not get there in time", job)
		}
		q.WaitIndex = meta.LastIndex
	}
}

func awaitStatus(t *testing.T, c *api.Client, job, status string) *api.AllocationListStub {
	t.Helper()
	return awaitAllocs(t, c, job, func(as []*api.AllocationListStub) bool {
		return len(as) > 0 && as[len(as)-1].ClientStatus == status
	})[0]
}

func readLog(t *testing.T, c *api.Client, allocID, kind string) string {
	t.Helper()
	frames, errs := c.AllocFS().Logs(&api.Allocation{ID: allocID}, false, "main", kind, "start", 0, nil, nil)
	var out strings.Builder
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return out.String()
			}
			out.Write(f.Data)
		case err := <-errs:
			if err == io.EOF {
				return out.String()
			}
			t.Fatalf("reading logs: %v", err)
		}
	}
}

func TestBatchJobRunsAndLeavesItsLogs(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	register(t, c, scriptJob("hello", "batch", `echo "hello from $NOMAD_TASK_NAME $NOMAD_ALLOC_INDEX"; echo oops >&2`))
	a := awaitStatus(t, c, "hello", "complete")
	if got, want := readLog(t, c, a.ID, "stdout"), "hello from main 0\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := readLog(t, c, a.ID, "stderr"), "oops\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	ts := a.TaskStates["main"]
	if ts.State != "dead" || ts.Failed || ts.StartedAt.IsZero() || ts.FinishedAt.IsZero() {
		t.Errorf("task state %+v", ts)
	}
	job, _, err := c.Jobs().Info("hello", nil)
	if err != nil || *job.Status != "dead" {
		t.Errorf("job status %v, %v", *job.Status, err)
	}
}

func TestStartLatency(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	register(t, c, scriptJob("warm", "batch", "true"))
	awaitStatus(t, c, "warm", "complete")
	var best time.Duration
	for i := range 10 {
		id := fmt.Sprintf("quick-%d", i)
		began := time.Now()
		register(t, c, scriptJob(id, "batch", "sleep 0.05"))
		a := awaitStatus(t, c, id, "complete")
		took := a.TaskStates["main"].StartedAt.Sub(began)
		if best == 0 || took < best {
			best = took
		}
		t.Logf("register to started: %v", took)
	}
	if best > 100*time.Millisecond {
		t.Errorf("the best of ten starts took %v", best)
	}
}
