package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/lab"
)

// gpuNode is a node of a cluster, seen by its GPUs.
type gpuNode struct {
	t    *testing.T
	c    lab.Cluster
	name string
}

// device is an instance as Nomad's API shows it.
type device struct {
	Group string // "nvidia/gpu/NVIDIA A100-SXM4-40GB"
	*api.NodeDevice
}

func (n gpuNode) devices() []device {
	n.t.Helper()
	node, _, err := n.c.Client().Nodes().Info(nodeID(n.t, n.c, n.name), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	var all []device
	for _, g := range node.NodeResources.Devices {
		for _, d := range g.Instances {
			all = append(all, device{strings.Join([]string{g.Vendor, g.Type, g.Name}, "/"), d})
		}
	}
	return all
}

// await waits until the node's devices are as the test wants them.
func (n gpuNode) await(what string, ok func([]device) (problem string)) {
	n.t.Helper()
	lab.Eventually(n.t, what, func() string { return ok(n.devices()) })
}

// unhealthy waits until Nomad knows that a device is unhealthy, for a reason.
func (n gpuNode) unhealthy(id, reason string) {
	n.t.Helper()
	n.await(id+" unhealthy: "+reason, func(all []device) string {
		for _, d := range all {
			if d.ID == id {
				if !d.Healthy && strings.Contains(d.HealthDescription, reason) {
					return ""
				}
				return fmt.Sprintf("healthy %v: %q", d.Healthy, d.HealthDescription)
			}
		}
		return "it is not there"
	})
}

// holder is a job that has a GPU until it is let go.
type holder struct {
	t     *testing.T
	c     lab.Cluster
	job   string
	let   string // the file that lets it go
	alloc *api.Allocation
	pid   int
}

// hold runs a job that has devices of the node: those of the given IDs.
func (n gpuNode) hold(job string, ids ...string) *holder {
	n.t.Helper()
	h := &holder{t: n.t, c: n.c, job: job, let: filepath.Join(n.t.TempDir(), "go")}
	// Tasks may run as another user.
	if err := os.Chmod(filepath.Dir(h.let), 0o755); err != nil {
		n.t.Fatal(err)
	}
	script := fmt.Sprintf("echo pid=$$ gpus=$CUDA_VISIBLE_DEVICES; while [ ! -e %s ]; do sleep 0.05; done", h.let)
	n.register(n.job(job, "nvidia/gpu", len(ids), script, &api.Constraint{
		LTarget: "${device.ids}", Operand: "set_contains", RTarget: strings.Join(ids, ","),
	}))
	h.alloc = running(n.t, n.c, job)
	said := logs(n.t, n.c, h.alloc, "stdout")
	pid, _, _ := strings.Cut(strings.TrimPrefix(said, "pid="), " ")
	var err error
	if h.pid, err = strconv.Atoi(pid); err != nil {
		n.t.Fatalf("job %s said %q", job, said)
	}
	if !strings.Contains(said, "gpus="+strings.Join(ids, ",")) {
		n.t.Fatalf("job %s was to have %v and has %q", job, ids, said)
	}
	return h
}

// release ends the job, with success.
func (h *holder) release() {
	h.t.Helper()
	if err := os.WriteFile(h.let, nil, 0o644); err != nil {
		h.t.Fatal(err)
	}
	completed(h.t, h.c, h.job)
}

// undisturbed checks that the job still is the process that it was.
func (h *holder) undisturbed() {
	h.t.Helper()
	a, _, err := h.c.Client().Allocations().Info(h.alloc.ID, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if a.ClientStatus != "running" || a.TaskStates["main"].Restarts != 0 || !processAlive(h.pid) {
		h.t.Errorf("job %s was disturbed: %s, %d restarts, process %d alive: %v",
			h.job, a.ClientStatus, a.TaskStates["main"].Restarts, h.pid, processAlive(h.pid))
	}
}

// job is a batch job with one task on the node.
func (n gpuNode) job(id, ask string, count int, script string, constraints ...*api.Constraint) *api.Job {
	job := api.NewBatchJob(id, id, "global", 50)
	job.Datacenters = []string{"*"}
	job.Constrain(api.NewConstraint("${node.unique.name}", "=", n.name))
	task := api.NewTask("main", "ml").SetConfig("command", "/bin/sh").SetConfig("args", []string{"-c", script})
	asked := uint64(count)
	task.Resources = &api.Resources{Devices: []*api.RequestedDevice{{Name: ask, Count: &asked, Constraints: constraints}}}
	job.AddTaskGroup(api.NewTaskGroup("main", 1).AddTask(task))
	return job
}

func (n gpuNode) register(job *api.Job) {
	n.t.Helper()
	if _, _, err := n.c.Client().Jobs().Register(job, nil); err != nil {
		n.t.Fatal(err)
	}
}

func running(t *testing.T, c lab.Cluster, job string) *api.Allocation {
	t.Helper()
	var found *api.Allocation
	lab.Eventually(t, "job "+job+" running", func() string {
		allocs, _, err := c.Client().Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		for _, a := range allocs {
			if s := a.TaskStates["main"]; a.ClientStatus == "running" && s != nil && s.State == "running" {
				found, _, err = c.Client().Allocations().Info(a.ID, nil)
				if err != nil {
					return err.Error()
				}
				return ""
			}
		}
		return fmt.Sprintf("%d allocations, none running", len(allocs))
	})
	return found
}

// command is nomad-device-gpu on the node.
type command struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	said bytes.Buffer
}

func (n gpuNode) command(args ...string) *command {
	n.t.Helper()
	c := &command{t: n.t}
	c.cmd = exec.CommandContext(context.Background(), filepath.Join(bin, "nomad-device-gpu"),
		append(args, "-simulate", "dgx-a100", "-node", n.name, "-state-dir", n.c.GPUState(n.name))...)
	c.cmd.Stdout, c.cmd.Stderr = c, c
	return c
}

func (c *command) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(p)
}

func (c *command) output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

func (c *command) run() (output string, code int) {
	c.t.Helper()
	if err := c.cmd.Run(); err != nil && c.cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return c.output(), c.cmd.ProcessState.ExitCode()
}

// A board is cut anew while tasks run: new work is kept from it, the task that
// has it may finish, the others do not notice, and neither does anybody that the
// plugin is killed in the middle.
func TestReslice(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		n := gpuNode{t, c, "n1"}
		ids := wholeBoards(n.devices())
		board := ids[0]
		busy, other := n.hold("busy", board), n.hold("other", ids[1])

		if out, code := n.command("mig", "assert", "-layout", "all-1g.5gb", "-devices", board).run(); code != 1 {
			t.Fatalf("assert before apply: exit code %d\n%s", code, out)
		}
		if out, code := n.command("mig", "apply", "-layout", "all-1g.5gb", "-devices", board).run(); code != 1 || !strings.Contains(out, "in use") {
			t.Fatalf("apply on a board in use: exit code %d\n%s", code, out)
		}
		apply := n.command("mig", "apply", "-layout", "all-1g.5gb", "-devices", board, "-wait")
		if err := apply.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n.unhealthy(board, "cordoned")

		before := c.Plugins("nomad-device-gpu")
		lab.Kill9(t, before...)
		lab.Eventually(t, "new device plugins", func() string {
			if now := c.Plugins("nomad-device-gpu"); len(now) < len(before) || slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) }) {
				return fmt.Sprint(now)
			}
			return ""
		})
		n.unhealthy(board, "cordoned")
		busy.undisturbed()
		other.undisturbed()

		busy.release()
		if err := apply.cmd.Wait(); err != nil {
			t.Fatalf("apply: %v\n%s", err, apply.output())
		}
		n.await("seven slices in place of the board", func(all []device) string {
			slices := 0
			for _, d := range all {
				if d.ID == board {
					return "the board is still there"
				}
				if strings.HasSuffix(d.Group, " MIG 1g.5gb") && d.Healthy {
					slices++
				}
			}
			if slices != 7 {
				return fmt.Sprintf("%d slices", slices)
			}
			return ""
		})
		other.undisturbed()
		if out, code := n.command("mig", "assert", "-layout", "all-1g.5gb", "-devices", board).run(); code != 0 {
			t.Errorf("assert after apply: exit code %d\n%s", code, out)
		}
		if out, code := n.command("mig", "apply", "-layout", "all-1g.5gb", "-devices", board).run(); code != 0 {
			t.Errorf("apply again: exit code %d\n%s", code, out)
		}

		n.register(n.job("sliced", "nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 1g.5gb", 2, "echo gpus=$CUDA_VISIBLE_DEVICES"))
		if said := logs(t, c, completed(t, c, "sliced"), "stdout"); strings.Count(said, "MIG-") != 2 || strings.Contains(said, "GPU-") {
			t.Errorf("the job on two slices has %q", said)
		}
		other.release()
	})
}

// wholeBoards are the IDs of the boards that are offered whole.
func wholeBoards(all []device) []string {
	var ids []string
	for _, d := range all {
		if strings.HasPrefix(d.ID, "GPU-") {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// Without an orchestrator, the driver ends a task whose GPU is gone, and only
// that, and Nomad finds another place.
func TestGPUFailsUnderAPlainJob(t *testing.T) {
	onEach(t, func(t *testing.T, c lab.Cluster) {
		n := gpuNode{t, c, "n1"}
		ids := wholeBoards(n.devices())
		job := n.job("victim", "nvidia/gpu", 1, "echo gpus=$CUDA_VISIBLE_DEVICES; exec sleep 1000")
		none, fail, unlimited, soon := 0, "fail", true, 5*time.Second
		job.TaskGroups[0].RestartPolicy = &api.RestartPolicy{Attempts: &none, Mode: &fail}
		job.TaskGroups[0].ReschedulePolicy = &api.ReschedulePolicy{
			Attempts: &none, Interval: new(time.Duration(0)), Unlimited: &unlimited, Delay: &soon, MaxDelay: &soon, DelayFunction: new("constant"),
		}
		n.register(job)
		first := running(t, c, "victim")
		id := strings.TrimPrefix(strings.TrimSpace(logs(t, c, first, "stdout")), "gpus=")
		neighbour := n.hold("neighbour", ids[slices.IndexFunc(ids, func(x string) bool { return x != id })])

		c.ScriptGPUs("n1", fmt.Sprintf("fault %q {\n  xid = 79\n}\n", id))
		n.unhealthy(id, "Xid 79")
		lab.Eventually(t, "the task fails for its GPU", func() string {
			a, _, err := c.Client().Allocations().Info(first.ID, nil)
			if err != nil {
				return err.Error()
			}
			for _, e := range a.TaskStates["main"].Events {
				if strings.Contains(e.DisplayMessage, "failed: Xid 79") && a.ClientStatus == "failed" {
					return ""
				}
			}
			return a.ClientStatus
		})
		var second *api.Allocation
		lab.Eventually(t, "another place", func() string {
			second = running(t, c, "victim")
			if second.ID == first.ID {
				return "still the old one"
			}
			return ""
		})
		if now := strings.TrimPrefix(strings.TrimSpace(logs(t, c, second, "stdout")), "gpus="); now == id || !strings.HasPrefix(now, "GPU-") {
			t.Errorf("the task has %q again", now)
		}
		neighbour.undisturbed()
		neighbour.release()
	})
}
