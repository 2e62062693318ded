package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/run"
)

func TestRun(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		id, marks := submit(t, p)
		r := p.Succeeded(id)
		startedOnce(t, marks)

		train := p.Node(id, "step.train")
		if len(train.Attempts) != 1 || len(train.Attempts[0].Devices) != 1 || !strings.HasPrefix(train.Attempts[0].Devices[0], "GPU-") {
			t.Errorf("train's attempts are %+v, want one with one GPU", train.Attempts)
		}
		if line := starts(t, marks, "step.train")[0]; !strings.Contains(line, "from=0 devices="+train.Attempts[0].Devices[0]) {
			t.Errorf("train started as %q", line)
		}
		if got := starts(t, marks, "step.goodbye")[0]; !strings.HasSuffix(got, "status=succeeded") {
			t.Errorf("the clean-up step saw %q", got)
		}
		versions, err := p.Client.Versions(context.Background(), "spine")
		if err != nil || len(versions) != 1 {
			t.Errorf("versions %v, %v", versions, err)
		}
		// The jobs can be read in Nomad's own terms.
		job, _, err := c.Client().Jobs().Info(train.Attempts[0].JobID, nil)
		if err != nil || job.Meta["drover.run"] != string(id) || job.Meta["drover.step"] != "step.train" {
			t.Errorf("job in Nomad: %v, %v", job, err)
		}

		// The same again comes from the cache.
		out, code := p.CLI("run", "-var", "marks="+marks, "testdata/pipeline.hcl")
		if code != 0 {
			t.Fatalf("second run: exit code %d\n%s", code, out)
		}
		again := newestRun(t, p)
		sameOutputs(t, again, r)
	})
}

func newestRun(t *testing.T, p *lab.Platform) run.Run {
	t.Helper()
	page, err := p.Client.Runs(context.Background(), client.RunFilter{})
	if err != nil || len(page.Runs) == 0 {
		t.Fatalf("listing runs: %v", err)
	}
	return p.Run(page.Runs[0].ID)
}

// The orchestrator is killed after every event of a run.
func TestKillOrchestrator(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p)
		var seq int64
		kills := 0
		for !p.Run(id).Phase.Ended() {
			events, err := p.Client.Events(context.Background(), id, seq, 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if len(events) > 0 {
				seq = events[len(events)-1].Seq
			}
			p.Server.Kill()
			kills++
			p.Start()
		}
		t.Logf("killed %d times", kills)
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks)
	})
}

// The driver plugin is killed, again and again, while a task trains: the task
// does not notice.
func TestKillDriverPlugin(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, "epochs=12", "pace=0.5")
		for _, epoch := range []int{2, 5, 8} {
			checkpointed(t, c, id, epoch)
			lab.Kill9(t, c.Plugins("nomad-driver-ml")...)
		}
		got := p.Succeeded(id)
		sameOutputs(t, got, want)
		startedOnce(t, marks)
	})
}

// The agent is killed while a task trains, and comes back after the task has
// ended: its result is there, once.
func TestKillAgent(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, "epochs=12", "pace=0.25")
		checkpointed(t, c, id, 3)
		c.KillAgent()
		c.StartAgent() // while it trains
		checkpointed(t, c, id, 7)
		c.KillAgent()
		lab.Eventually(t, "training ended without an agent", func() string {
			if pids := lab.Running("train.py"); len(pids) > 0 {
				return fmt.Sprint("still running: ", pids)
			}
			return ""
		})
		c.StartAgent()
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks)
	})
}

// The training process dies between and inside checkpoint writes: each new
// attempt goes on from the newest sealed checkpoint.
func TestKillTraining(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, "epochs=12", "pace=0.3")
		checkpointed(t, c, id, 4)
		lab.Kill9(t, lab.Running("train.py")...)
		r := p.Ended(id)
		if r.Phase != run.Failed || !strings.Contains(p.Node(id, "step.train").Reason, "signal 9") {
			t.Fatalf("run %s, train: %s", r.Phase, p.Node(id, "step.train").Reason)
		}
		if _, code := p.CLI("retry", "-detach", string(id)); code != 0 {
			t.Fatal("retry failed")
		}
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks, "step.train", "step.goodbye")
		lines := starts(t, marks, "step.train")
		if len(lines) != 2 || strings.Contains(lines[1], "from=0") {
			t.Errorf("train was started as %q, want a second start from a checkpoint", lines)
		}
		attempts := p.Node(id, "step.train").Attempts
		if last := attempts[len(attempts)-1]; last.ResumedFrom == nil || *last.ResumedFrom < 4 {
			t.Errorf("the last attempt is %+v, want one resumed from checkpoint 4 or later", last)
		}
	})
}

// The training process is killed at random moments, inside checkpoint writes
// too; each retry goes on from the newest sealed checkpoint.
func TestKillTrainingAtRandom(t *testing.T) {
	const kills = 6
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, fmt.Sprintf("retries=%d", kills), "pace=0.1")
		for kill := range kills {
			lab.Eventually(t, fmt.Sprintf("start %d of training", kill+1), func() string {
				if n := len(starts(t, marks, "step.train")); n <= kill {
					return fmt.Sprint("starts: ", n)
				}
				return ""
			})
			// A random moment is the point here: nothing is waited for.
			pause := time.Duration(rand.IntN(250)) * time.Millisecond
			t.Logf("kill %d after %s", kill+1, pause)
			time.Sleep(pause)
			lab.Kill9(t, lab.Running("train.py")...)
		}
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks, "step.train")
		last := -1
		for _, line := range starts(t, marks, "step.train") {
			var from int
			if _, err := fmt.Sscanf(line[strings.Index(line, "from="):], "from=%d", &from); err != nil {
				t.Fatal(err)
			}
			if from < last {
				t.Errorf("a start went on from %d after one from %d", from, last)
			}
			last = from
		}
	})
}

// Checkpoints are damaged where they are stored: each is found out, and the
// newest whole one is resumed.
func TestDamagedCheckpoints(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, "pace=0.3")
		checkpointed(t, c, id, 5)
		lab.Kill9(t, lab.Running("train.py")...)
		if r := p.Ended(id); r.Phase != run.Failed {
			t.Fatalf("run %s", r.Phase)
		}
		stored := storedCheckpoints(t, c, id)
		if len(stored) < 3 {
			t.Fatalf("%d checkpoints in the store, want the newest 3", len(stored))
		}
		flipByte(t, c, stored[0])
		truncate(t, c, stored[1])

		if _, code := p.CLI("retry", "-detach", string(id)); code != 0 {
			t.Fatal("retry failed")
		}
		sameOutputs(t, p.Succeeded(id), want)
		lines := starts(t, marks, "step.train")
		if from := fmt.Sprintf("from=%d ", stored[2].step); len(lines) != 2 || !strings.Contains(lines[1], from) {
			t.Errorf("train was started as %q, want a second start with %s", lines, from)
		}
		events, err := p.Client.Events(context.Background(), id, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, damaged := range stored[:2] {
			if !slices.ContainsFunc(events, func(e run.Event) bool {
				return strings.Contains(e.Message, fmt.Sprintf("heckpoint %d ", damaged.step)) && strings.Contains(e.Message, "set aside")
			}) {
				t.Errorf("no event says that checkpoint %d was set aside", damaged.step)
			}
		}
	})
}

// The store's disk is full while a task trains: training goes on, and
// checkpoints are copied again when there is room.
func TestFullStore(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		if err := syscall.Mount("tmpfs", c.StoreDir(), "tmpfs", 0, "size=24m,mode=700"); err != nil {
			t.Skipf("skipped: cannot mount a small disk: %v", err)
		}
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		id, marks := submit(t, p, "pace=0.5")
		checkpointed(t, c, id, 2)
		filler := filepath.Join(c.StoreDir(), "filler")
		fill(t, filler)
		before := storedCheckpoints(t, c, id)[0].step
		lab.Eventually(t, "training goes on", func() string {
			n := p.Node(id, "step.train")
			if n.Progress == nil || n.Progress.Step < int64(before)+3 {
				return fmt.Sprintf("progress is %+v", n.Progress)
			}
			return ""
		})
		if after := storedCheckpoints(t, c, id)[0].step; after > before+1 {
			t.Errorf("checkpoint %d was stored on a full disk", after)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks)
	})
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A node is lost in the middle of training: the task goes on elsewhere from
// its last sealed checkpoint, and nothing is held against the step.
func TestNodeLost(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		p := lab.NewPlatform(t, c, bin, c.Addr())
		clean, _ := submit(t, p)
		want := p.Succeeded(clean)

		n1 := nodeID(t, c, "n1")
		eligible(t, c, n1, false)
		id, marks := submit(t, p, "epochs=12", "pace=0.5")
		checkpointed(t, c, id, 4)
		eligible(t, c, n1, true)
		c.KillNode("n2")
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks, "step.train")
		lines := starts(t, marks, "step.train")
		if len(lines) != 2 || strings.Contains(lines[1], "from=0") {
			t.Errorf("train was started as %q, want a second start from a checkpoint", lines)
		}
	})
}

func nodeID(t *testing.T, c lab.Cluster, name string) string {
	t.Helper()
	nodes, _, err := c.Client().Nodes().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Name == name {
			return n.ID
		}
	}
	t.Fatalf("no node %q", name)
	return ""
}

func eligible(t *testing.T, c lab.Cluster, node string, yes bool) {
	t.Helper()
	if _, err := c.Client().Nodes().ToggleEligibility(node, yes, nil); err != nil {
		t.Fatal(err)
	}
}

// Every call to Nomad fails twice: once before it gets there, once after it
// has been done and only the answer is lost.
func TestNetworkErrors(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		clean := lab.NewPlatform(t, c, bin, c.Addr())
		cleanID, _ := submit(t, clean)
		want := clean.Succeeded(cleanID)

		flaky := newFlakyProxy(t, c.Addr())
		p := lab.NewPlatform(t, c, bin, flaky.URL)
		id, marks := submit(t, p)
		sameOutputs(t, p.Succeeded(id), want)
		startedOnce(t, marks)
		if n := flaky.failures.Load(); n < 10 {
			t.Errorf("only %d calls failed: the test does not test", n)
		}
		t.Logf("%d calls failed", flaky.failures.Load())
	})
}

// flakyProxy fails the first and the second call of each kind.
type flakyProxy struct {
	*httptest.Server
	failures atomic.Int64
	mu       sync.Mutex
	calls    map[string]int
}

var identifier = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|drover-[a-z0-9_.-]+`)

func newFlakyProxy(t *testing.T, target string) *flakyProxy {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &flakyProxy{calls: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	proxy.ModifyResponse = func(res *http.Response) error {
		if f.call(res.Request, 2) {
			return errors.New("the answer is lost")
		}
		return nil
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.count(r)
		if f.call(r, 1) {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	f.Config.ErrorLog = nil
	t.Cleanup(f.CloseClientConnections)
	return f
}

func (f *flakyProxy) key(r *http.Request) string {
	return r.Method + " " + identifier.ReplaceAllString(r.URL.Path, "*")
}

func (f *flakyProxy) count(r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[f.key(r)]++
}

func (f *flakyProxy) call(r *http.Request, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[f.key(r)] == n {
		f.failures.Add(1)
		return true
	}
	return false
}

// A plain job, with no orchestrator anywhere: the plugins are worth having
// alone.
func TestPlainJob(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		job := api.NewBatchJob("plain", "plain", "global", 50)
		job.Datacenters = []string{"*"}
		task := api.NewTask("main", "ml").
			SetConfig("command", "/bin/sh").
			SetConfig("args", []string{"-c", "echo gpus=$CUDA_VISIBLE_DEVICES; echo warn >&2; exit 0"})
		two := uint64(2)
		task.Resources = &api.Resources{Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: &two}}}
		job.AddTaskGroup(api.NewTaskGroup("main", 1).AddTask(task))
		if _, _, err := c.Client().Jobs().Register(job, nil); err != nil {
			t.Fatal(err)
		}
		alloc := completed(t, c, "plain")
		if got := logs(t, c, alloc, "stdout"); strings.Count(got, "GPU-") != 2 || !strings.HasPrefix(got, "gpus=GPU-") {
			t.Errorf("stdout is %q, want the UUIDs of two GPUs", got)
		}
		if got := logs(t, c, alloc, "stderr"); got != "warn\n" {
			t.Errorf("stderr is %q", got)
		}
		nodes, _, err := c.Client().Nodes().List(nil)
		if err != nil {
			t.Fatal(err)
		}
		node, _, err := c.Client().Nodes().Info(nodes[0].ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := node.NodeResources.Devices[0]
		memory := d.Attributes["memory"]
		if d.Vendor != "nvidia" || d.Type != "gpu" || len(d.Instances) != 8 || memory == nil || memory.IntVal == nil || memory.Unit != "MiB" {
			t.Errorf("device group is %+v, memory %+v", d, memory)
		}
	})
}

func completed(t *testing.T, c lab.Cluster, job string) *api.Allocation {
	t.Helper()
	var found *api.Allocation
	lab.Eventually(t, "job "+job+" complete", func() string {
		allocs, _, err := c.Client().Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		var states []string
		for _, a := range allocs {
			states = append(states, a.ClientStatus)
			if a.ClientStatus == "complete" {
				if found, _, err = c.Client().Allocations().Info(a.ID, nil); err != nil {
					return err.Error()
				}
				return ""
			}
			if a.ClientStatus == "failed" {
				t.Fatalf("allocation failed: %+v", a.TaskStates["main"].Events)
			}
		}
		return fmt.Sprint("allocations are ", states)
	})
	return found
}

func logs(t *testing.T, c lab.Cluster, alloc *api.Allocation, stream string) string {
	t.Helper()
	var text string
	// Logs are copied beside the task: they may end a moment after it.
	lab.Eventually(t, stream, func() string {
		cancel := make(chan struct{})
		defer close(cancel)
		frames, errs := c.Client().AllocFS().Logs(alloc, false, "main", stream, "start", 0, cancel, nil)
		var b strings.Builder
		for {
			select {
			case f, ok := <-frames:
				if !ok {
					text = b.String()
					if text == "" {
						return "nothing yet"
					}
					return ""
				}
				b.Write(f.Data)
			case err := <-errs:
				if err != nil && !errors.Is(err, io.EOF) {
					return err.Error()
				}
			}
		}
	})
	return text
}
