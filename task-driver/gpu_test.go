package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
)

// gpuNode is a node whose device plugin tells of its GPUs in a file.
type gpuNode struct {
	*node
	status string
}

func newGPUNode(t *testing.T) gpuNode {
	n := gpuNode{node: newNode(t, nil), status: filepath.Join(t.TempDir(), "status.json")}
	n.report()
	return n
}

// report replaces what the device plugin says.
func (n gpuNode) report(faults ...gpustatus.Device) {
	n.t.Helper()
	for i := range faults {
		faults[i].Since = time.Now()
	}
	if err := gpustatus.Write(n.status, gpustatus.Status{Updated: time.Now(), Devices: faults}); err != nil {
		n.t.Fatal(err)
	}
}

// on gives a task a GPU.
func (n gpuNode) on(gpu string, script string) *nomad.TaskConfig {
	c := n.task(shell(script))
	c.DeviceEnv = map[string]string{"NVIDIA_VISIBLE_DEVICES": gpu, gpustatus.Variable: n.status, gpustatus.NodesVariable: ""}
	return c
}

// ready is a script's sign that it has set its traps.
const ready = `echo ready > "$NOMAD_TASK_DIR/ready"; `

func (n gpuNode) startReady(c *nomad.TaskConfig) {
	n.t.Helper()
	dir := filepath.Join(c.AllocDir, c.Name, "local")
	c.Env["NOMAD_TASK_DIR"] = dir
	n.start(c)
	eventually(n.t, "the task's traps", func() bool { return exists(filepath.Join(dir, "ready")) })
}

// A task ends whose GPU is gone, with the reason, and no other does.
func TestGPUFails(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	broken := n.on("GPU-a", `trap 'echo saved; exit 0' TERM; `+ready+`while :; do sleep 0.05; done`)
	other := n.on("GPU-b", ready+`exec sleep 1000`)
	n.startReady(broken)
	n.startReady(other)
	pid, _ := n.pids(other)
	n.report(gpustatus.Device{ID: "GPU-a", Reason: "Xid 79: fallen off the bus", Action: gpustatus.End})

	exit := n.wait(broken)
	if exit.ExitCode == 0 || exit.Err == nil || !strings.Contains(exit.Err.Error(), "GPU failed: GPU-a: Xid 79: fallen off the bus") {
		t.Errorf("exit = %+v, want the GPU's failure", exit)
	}
	if out := n.stdout(broken); !strings.Contains(out, "saved") {
		t.Errorf("the task was not asked to end: it said %q", out)
	}
	n.shown(broken, "GPU-a failed: Xid 79")
	if after, _ := n.pids(other); after != pid || !alive(pid) {
		t.Errorf("the other task's process was %d and is %d", pid, after)
	}

	t.Run("restart in place", func(t *testing.T) {
		n.next(broken)
		_, _, err := n.driver().StartTask(n.ctx(), broken)
		if err == nil || nomad.IsRecoverable(err) || !strings.Contains(err.Error(), "Xid 79") {
			t.Errorf("StartTask on the failed GPU: %v, want a failure for good", err)
		}
		n.report()
		n.next(broken)
		n.start(broken)
	})
}

// A GPU that fails takes a task with it which ignores SIGTERM.
func TestGPUFailsUnderAStubbornTask(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	c := n.on("GPU-a", `trap '' TERM; `+ready+`while :; do sleep 0.05; done`)
	n.startReady(c)
	n.report(gpustatus.Device{ID: "GPU-a", Reason: "gone", Action: gpustatus.End})
	if exit := n.wait(c); exit.Signal != 9 || exit.Err == nil {
		t.Errorf("exit = %+v, want SIGKILL and the GPU's failure", exit)
	}
}

// A task hears that it should leave, and may save its work.
func TestGPUIsToBeLeft(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	for _, c := range []struct{ name, script, log string }{
		{"saves", `trap 'echo saved' USR1; trap 'exit 0' TERM; ` + ready + `while :; do sleep 0.05; done`, "saved"},
		{"knows no SIGUSR1", ready + `exec sleep 1000`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.report()
			task := n.on("GPU-a", c.script)
			n.startReady(task)
			n.report(gpustatus.Device{ID: "GPU-a", Reason: "a row remap is pending", Action: gpustatus.Move})
			n.shown(task, "GPU-a is to be left: a row remap is pending")
			eventually(t, "the task's answer", func() bool { return strings.Contains(n.stdout(task), c.log) })
			if pid, _ := n.pids(task); !alive(pid) {
				t.Error("the task has ended, want it to go on")
			}
		})
	}
}

func TestGPUTakesNoNewWork(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	c := n.on("GPU-a", ready+`exec sleep 1000`)
	n.startReady(c)
	n.report(gpustatus.Device{ID: "GPU-a", Reason: "cordoned", Action: gpustatus.Keep})
	n.shown(c, "GPU-a gets no new work: cordoned; the task may finish")
	if pid, _ := n.pids(c); !alive(pid) {
		t.Error("the task has ended, want it to go on")
	}
}

// A status that can't be read ends nothing.
func TestGPUStatusUnreadable(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	c := n.on("GPU-a", ready+`exec sleep 1000`)
	n.startReady(c)
	if err := os.WriteFile(n.status, []byte(`{"version":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	n.shown(c, "The health of the task's GPUs is not known")
	n.report(gpustatus.Device{ID: "GPU-a", Reason: "gone", Action: gpustatus.End})
	if exit := n.wait(c); exit.Err == nil {
		t.Errorf("exit = %+v, want the GPU's failure", exit)
	}
}
