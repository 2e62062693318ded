package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

// slow runs until the file "go" is there, having marked that it ran.
const slow = `echo ran >> marker; while [ ! -e go ]; do sleep 0.02; done; exit 42`

func release(t *testing.T, c *nomad.TaskConfig) {
	t.Helper()
	if err := os.WriteFile(file(c, "local/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func started(t *testing.T, c *nomad.TaskConfig) {
	t.Helper()
	eventually(t, "the command", func() bool { return exists(file(c, "local/marker")) })
}

func ranOnce(t *testing.T, c *nomad.TaskConfig) {
	t.Helper()
	if got := read(t, file(c, "local/marker")); got != "ran\n" {
		t.Errorf("the command ran %d times, want once", strings.Count(got, "\n"))
	}
}

func TestTaskOutlivesThePlugin(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(slow))
	h := n.start(c)
	started(t, c)
	n.crash()
	n.launch()
	for range 2 { // B16 c: twice is as good as once
		if err := n.recover(h); err != nil {
			t.Fatal(err)
		}
	}
	release(t, c)
	if exit := n.wait(c); exit.ExitCode != 42 {
		t.Errorf("exit = %+v, want 42", exit)
	}
	ranOnce(t, c)
}

// A plugin whose file is replaced under it still starts tasks, and the new one
// takes them up.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.crash()
	n.path = filepath.Join(n.dir, "nomad-driver-ml")
	install := func() {
		t.Helper()
		b, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.path+".new", b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(n.path+".new", n.path); err != nil {
			t.Fatal(err)
		}
	}
	install()
	n.launch()
	install()
	c := n.task(shell(slow))
	h := n.start(c)
	n.crash()
	n.launch()
	if err := n.recover(h); err != nil {
		t.Fatal(err)
	}
	release(t, c)
	if exit := n.wait(c); exit.ExitCode != 42 {
		t.Errorf("exit = %+v, want 42", exit)
	}
}

// B16 a: an exit while no plugin runs is delivered, and the command not run
// again.
func TestExitWhileThePluginIsDown(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(slow))
	h := n.start(c)
	_, supervisor := n.pids(c)
	id, err := process.Of(supervisor)
	if err != nil {
		t.Fatal(err)
	}
	n.crash()
	release(t, c)
	if err := id.Wait(n.ctx()); err != nil {
		t.Fatal(err)
	}
	n.launch()
	if err := n.recover(h); err != nil {
		t.Fatal(err)
	}
	for range 2 { // an agent that asks again gets the same answer
		if exit := n.wait(c); exit.ExitCode != 42 || exit.Err != nil {
			t.Errorf("exit = %+v, want 42", exit)
		}
	}
	ranOnce(t, c)
}

// B16 b: a task killed while no plugin ran has failed, and is not taken for a
// running one.
func TestKilledWhileThePluginIsDown(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(slow))
	h := n.start(c)
	started(t, c)
	command, supervisor := n.pids(c)
	n.crash()
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command's death", func() bool { return !alive(command) })
	n.launch()
	if err := n.recover(h); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(c); exit.ExitCode == 0 || exit.Err == nil || !strings.Contains(exit.Err.Error(), "supervisor") {
		t.Errorf("exit = %+v, want a failure that names the supervisor", exit)
	}
	ranOnce(t, c)
	if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(n.dir, "state/tasks")); len(left) != 0 {
		t.Errorf("state after destroy: %v", left)
	}
}

// A supervisor that is killed takes the whole tree with it, and the task has
// failed with the reason.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(shell(`setsid sh -c 'echo $$ > grandchild; sleep 1000' & ` + slow))
			n.start(c)
			started(t, c)
			eventually(t, "the grandchild", func() bool { return readIf(file(c, "local/grandchild")) != "" })
			var grandchild int
			if _, err := fmt.Sscan(read(t, file(c, "local/grandchild")), &grandchild); err != nil {
				t.Fatal(err)
			}
			command, supervisor := n.pids(c)
			if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			exit := n.wait(c)
			if exit.Err == nil || !strings.Contains(exit.Err.Error(), "supervisor") || exit.ExitCode == 0 {
				t.Errorf("exit = %+v, want a failure that names the supervisor", exit)
			}
			if alive(command) || alive(grandchild) {
				t.Error("processes of the task are still there")
			}
			n.shown(c, "supervisor")
		})
	}
}

// A task whose state folder was removed, so that nobody can stop it any more,
// ends.
func TestStateRemoved(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(slow))
	n.start(c)
	started(t, c)
	command, supervisor := n.pids(c)
	r, err := task.DirOf(n.config["state_dir"].(string), c.ID).Running()
	if err != nil {
		t.Fatal(err)
	}
	n.crash()
	if err := os.RemoveAll(n.config["state_dir"].(string)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of both processes", func() bool { return !alive(command) && !alive(supervisor) })
	for controller, dir := range r.Group.Dirs {
		if exists(dir) {
			t.Errorf("the task's control group of %s is left at %s", controller, dir)
		}
	}
}

// B14: a PID that belongs to somebody else by now is left alone.
func TestReusedPID(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(id *process.ID)
	}{
		{"other start time", func(id *process.ID) { id.Start-- }},
		{"other boot", func(id *process.ID) { id.Boot = "11111111-2222-3333-4444-555555555555" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, nil)
			c := n.task(shell(slow))
			h := n.start(c)
			_, supervisor := n.pids(c)
			n.crash()
			_ = syscall.Kill(supervisor, syscall.SIGKILL)

			stranger := exec.Command("sleep", "1000")
			if err := stranger.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
			id, err := process.Of(stranger.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			test.change(&id)
			// Both the handle and the state on disk name the stranger.
			var state struct {
				Dir        task.Dir   `json:"dir"`
				Supervisor process.ID `json:"supervisor"`
			}
			if err := json.Unmarshal(h.DriverState, &state); err != nil {
				t.Fatal(err)
			}
			r, err := state.Dir.Running()
			if err != nil {
				t.Fatal(err)
			}
			r.Supervisor, r.Command, state.Supervisor = id, id, id
			if err := state.Dir.SetRunning(r); err != nil {
				t.Fatal(err)
			}
			h.DriverState = []byte(asJSON(t, state))

			n.launch()
			if err := n.recover(h); err == nil {
				t.Error("a stranger was recovered as the task")
			}
			if err := n.driver().StopTask(n.ctx(), c.ID, time.Second, "SIGKILL"); err != nil {
				t.Error(err)
			}
			if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
				t.Error(err)
			}
			if p, err := process.Of(stranger.Process.Pid); err != nil || !p.Alive() {
				t.Error("the stranger is dead")
			}
		})
	}
}

func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("true"))
	for _, test := range []struct {
		name string
		h    nomad.Handle
		want string
	}{
		{"unknown version", nomad.Handle{Version: 99, Config: c}, "version 99"},
		{"no state", nomad.Handle{Version: 1, Config: c}, "handle"},
		{"state folder gone", nomad.Handle{Version: 1, Config: c, DriverState: []byte(`{"dir":"/no/such/dir"}`)}, "lost"},
		{"relative folder", nomad.Handle{Version: 1, Config: c, DriverState: []byte(`{"dir":"tasks/x"}`)}, "state folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := n.recover(&test.h); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q in it", err, test.want)
			}
		})
	}
}

// A plugin killed at any moment of StartTask, and asked again, starts the
// command once.
func TestKilledWhileStarting(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	for i := range 20 {
		c := n.task(shell(slow))
		started := make(chan error, 1)
		go func() {
			_, _, err := n.driver().StartTask(n.ctx(), c)
			started <- err
		}()
		time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond)))) // the moment is the test's subject
		n.crash()
		<-started
		n.launch()
		n.start(c)
		release(t, c)
		if exit := n.wait(c); exit.ExitCode != 42 {
			t.Fatalf("attempt %d: exit = %+v\n%s", i, exit, n.log(c))
		}
		ranOnce(t, c)
		if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
			t.Fatal(err)
		}
	}
}

// An agent that was killed before it stored a handle starts the task again
// under a new ID. The start that it does not know of ends first.
func TestForgottenStart(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(slow))
	n.start(c)
	started(t, c)
	command, _ := n.pids(c)
	n.crash()
	n.launch()
	n.next(c)
	n.start(c)
	if alive(command) {
		t.Error("the forgotten start still runs")
	}
	release(t, c)
	if exit := n.wait(c); exit.ExitCode != 42 {
		t.Errorf("exit = %+v, want 42", exit)
	}
}

// Each event is shown once, over restarts of the plugin.
func TestEventsOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(with(shell(`
		for step in 1 2 3 4 5 6; do
			while [ ! -e "go-$step" ]; do sleep 0.02; done
			mkdir "$DROVER_CHECKPOINT_DIR/step-$step.tmp"; mv "$DROVER_CHECKPOINT_DIR/step-$step.tmp" "$DROVER_CHECKPOINT_DIR/step-$step"
		done`), map[string]any{"checkpoint": []any{map[string]any{"keep": 2}}}))
	h := n.start(c)
	for step := 1; step <= 6; step++ {
		if err := os.WriteFile(file(c, fmt.Sprintf("local/go-%d", step)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		n.shown(c, fmt.Sprintf("Checkpoint %d sealed", step))
		// A plugin that is killed between showing an event and noting that
		// shows it again; that moment is not this test's.
		eventually(t, "the note", func() bool {
			seen, _ := strconv.Atoi(readIf(n.stateFile(c, "events.seen")))
			return seen == len(readIf(n.stateFile(c, "events.jsonl")))
		})
		n.crash()
		n.launch()
		if err := n.recover(h); err != nil {
			t.Fatal(err)
		}
	}
	n.wait(c)
	for step := 1; step <= 6; step++ {
		if got := n.count(c, fmt.Sprintf("Checkpoint %d sealed", step)); got != 1 {
			t.Errorf("checkpoint %d was shown as sealed %d times", step, got)
		}
	}
}

// What the task writes after its log collector's death waits for the next one.
func TestLogCollectorRestarts(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(`echo one; while [ ! -e go ]; do sleep 0.02; done; echo two`))
	if err := os.Remove(c.StdoutPath); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(c.StdoutPath, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *bufio.Reader {
		f, err := os.OpenFile(c.StdoutPath, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return bufio.NewReader(f)
	}
	first, err := os.OpenFile(c.StdoutPath, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.start(c)
	if line, _ := bufio.NewReader(first).ReadString('\n'); line != "one\n" {
		t.Errorf("first line = %q", line)
	}
	first.Close()
	second := open()
	release(t, c)
	if exit := n.wait(c); exit.ExitCode != 0 {
		t.Errorf("exit = %+v", exit)
	}
	if line, _ := second.ReadString('\n'); line != "two\n" {
		t.Errorf("second line = %q", line)
	}
}
