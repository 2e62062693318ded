package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/mltask"
)

// agent is a real Nomad agent, server and client in one, that keeps its state
// over restarts, unlike one in dev mode.
type agent struct {
	t             *testing.T
	nomad, config string
	dir, addr     string
	client        *api.Client
	cmd           *exec.Cmd
	log           *os.File
}

// newAgent starts an agent with the plugin and waits for its node.
func newAgent(t *testing.T) *agent {
	t.Helper()
	nomad, err := exec.LookPath("nomad")
	switch {
	case err != nil:
		t.Skip("no nomad binary on the PATH")
	case os.Geteuid() != 0:
		t.Skip("a Nomad client needs root")
	}
	a := &agent{t: t, nomad: nomad, dir: t.TempDir()}
	plugins := filepath.Join(a.dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", binary, plugins).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a.writeConfig(plugins)
	if a.log, err = os.Create(filepath.Join(a.dir, "agent.log")); err != nil {
		t.Fatal(err)
	}
	if a.client, err = api.NewClient(&api.Config{Address: a.addr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	a.up()
	return a
}

func (a *agent) writeConfig(plugins string) {
	a.t.Helper()
	var ports [3]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			a.t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	a.addr = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	a.config = filepath.Join(a.dir, "agent.hcl")
	store := filepath.Join(a.dir, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		a.t.Fatal(err)
	}
	config := fmt.Sprintf(`
		data_dir   = %q
		plugin_dir = %q
		bind_addr  = "127.0.0.1"
		ports {
			http = %d
			rpc  = %d
			serf = %d
		}
		advertise {
			http = "127.0.0.1"
			rpc  = "127.0.0.1"
			serf = "127.0.0.1"
		}
		server {
			enabled          = true
			bootstrap_expect = 1
		}
		client {
			enabled = true
			options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean" }
		}
		plugin "nomad-driver-ml" {
			config {
				store     = "file://%s"
				state_dir = %q
			}
		}`, filepath.Join(a.dir, "data"), plugins, ports[0], ports[1], ports[2], store, filepath.Join(a.dir, "state"))
	if err := os.WriteFile(a.config, []byte(config), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// up starts the agent and waits until its node can run tasks of the driver.
func (a *agent) up() {
	a.t.Helper()
	a.cmd = exec.Command(a.nomad, "agent", "-config", a.config)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.Env = append(os.Environ(), "AGENT_SECRET=hush")
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.await("a node with the driver", func() bool {
		nodes, _, err := a.client.Nodes().List(nil)
		if err != nil || len(nodes) != 1 || nodes[0].Status != "ready" {
			return false
		}
		d := nodes[0].Drivers[mltask.DriverName]
		return d != nil && d.Healthy
	})
}

// down ends the agent with a signal.
func (a *agent) down(sig syscall.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(sig); err != nil {
		a.t.Fatal(err)
	}
	_ = a.cmd.Wait()
}

// plugin finds the driver's process.
func (a *agent) plugin() (pid int, ok bool) {
	out, _ := exec.Command("pgrep", "-f", "^"+filepath.Join(a.dir, "plugins/nomad-driver-ml")+"$").Output()
	_, err := fmt.Sscan(string(out), &pid)
	return pid, err == nil
}

func (a *agent) close() {
	jobs, _, err := a.client.Jobs().List(nil)
	for _, j := range jobs {
		_, _, _ = a.client.Jobs().Deregister(j.ID, true, nil)
	}
	if err == nil {
		a.await("the end of all tasks", func() bool {
			left, err := os.ReadDir(filepath.Join(a.dir, "state/tasks"))
			return err != nil || len(left) == 0
		})
	}
	_ = a.cmd.Process.Signal(syscall.SIGINT)
	_ = a.cmd.Wait()
	if a.t.Failed() {
		b, _ := os.ReadFile(a.log.Name())
		a.t.Logf("%s", b[max(0, len(b)-8000):])
	}
	mounts, _ := filepath.Glob(filepath.Join(a.dir, "data/alloc/*/*/*"))
	for _, m := range mounts {
		_ = syscall.Unmount(m, syscall.MNT_DETACH) // secrets folders of allocations
	}
}

func (a *agent) await(what string, ok func() bool) {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("waited a minute for %s", what)
		}
	}
}

// run registers a batch job of one task and returns its allocation.
func (a *agent) run(id string, config map[string]any) *api.Allocation {
	a.t.Helper()
	task := api.NewTask("main", mltask.DriverName)
	task.Config = config
	cpu, memory := 100, 64
	task.Resources = &api.Resources{CPU: &cpu, MemoryMB: &memory}
	group := api.NewTaskGroup("task", 1)
	none, fail := 0, "fail"
	group.RestartPolicy = &api.RestartPolicy{Attempts: &none, Mode: &fail}
	group.ReschedulePolicy = &api.ReschedulePolicy{Attempts: &none}
	group.Tasks = []*api.Task{task}
	job := api.NewBatchJob(id, id, "global", 50)
	job.TaskGroups = []*api.TaskGroup{group}
	if _, _, err := a.client.Jobs().Register(job, nil); err != nil {
		a.t.Fatal(err)
	}
	var alloc *api.Allocation
	a.await("the allocation", func() bool {
		list, _, err := a.client.Jobs().Allocations(id, true, nil)
		if err != nil || len(list) == 0 || list[0].ClientStatus == "pending" {
			return false
		}
		alloc, _, err = a.client.Allocations().Info(list[0].ID, nil)
		return err == nil
	})
	return alloc
}

func (a *agent) state(alloc *api.Allocation) *api.TaskState {
	info, _, err := a.client.Allocations().Info(alloc.ID, nil)
	if err != nil {
		return nil
	}
	return info.TaskStates["main"]
}

func (a *agent) file(alloc *api.Allocation, name string) string {
	return filepath.Join(a.dir, "data/alloc", alloc.ID, "main/local", name)
}

func events(s *api.TaskState) string {
	var b strings.Builder
	for _, e := range s.Events {
		fmt.Fprintf(&b, "%s: %s\n", e.Type, e.DisplayMessage)
	}
	return b.String()
}

// A task goes on while the plugin and the agent are killed and stopped around
// it, and its exit status reaches an agent that was not there.
func TestOnNomad(t *testing.T) {
	a := newAgent(t)
	alloc := a.run("long", shell(slow))
	marker := a.file(alloc, "marker")
	a.await("the command", func() bool { return exists(marker) })

	first, ok := a.plugin()
	if !ok {
		t.Fatal("no plugin process")
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.await("another plugin process", func() bool { pid, ok := a.plugin(); return ok && pid != first })
	a.down(syscall.SIGKILL)
	a.up()
	a.down(syscall.SIGINT)
	a.up()
	if s := a.state(alloc); s == nil || s.State != "running" {
		t.Errorf("state = %+v", s)
	}
	a.down(syscall.SIGKILL)
	if pid, ok := a.plugin(); ok {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := os.WriteFile(a.file(alloc, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a.up()
	a.await("the end of the task", func() bool { s := a.state(alloc); return s != nil && s.State == "dead" })
	s := a.state(alloc)
	if got := events(s); !s.Failed || !strings.Contains(got, "Exit Code: 42") || strings.Count(got, "Started") != 1 {
		t.Errorf("events:\n%s", got)
	}
	if got := read(t, marker); got != "ran\n" {
		t.Errorf("the command ran %d times", strings.Count(got, "\n"))
	}
}

// What a plain `nomad job run` gets: contract, limits, events, logs, exec,
// signals and statistics.
func TestJobsOnNomad(t *testing.T) {
	a := newAgent(t)
	end := func(alloc *api.Allocation) *api.TaskState {
		t.Helper()
		a.await("the end of "+alloc.JobID, func() bool { s := a.state(alloc); return s != nil && s.State == "dead" })
		return a.state(alloc)
	}
	t.Run("output", func(t *testing.T) {
		alloc := a.run("output", with(shell(`echo "hello $DROVER_PARAM_WHO [$AGENT_SECRET] $NVIDIA_VISIBLE_DEVICES"; echo x > "$DROVER_OUTPUT_DIR/x"`),
			map[string]any{"params": `{"who": "world"}`, "output": []any{map[string]any{"name": "x"}}}))
		if s := end(alloc); s.Failed || !strings.Contains(events(s), "Storing outputs: x") {
			t.Errorf("events:\n%s", events(s))
		}
		a.await("the log", func() bool {
			return strings.TrimSpace(a.fetch("/v1/client/fs/logs/"+alloc.ID+"?task=main&type=stdout&plain=true")) == "hello world [] void"
		})
	})
	t.Run("out of memory", func(t *testing.T) {
		needGroups(t)
		alloc := a.run("oom", map[string]any{"command": "python3", "args": []any{"-c", "b = b'x' * (300 << 20)"}})
		s := end(alloc)
		killed := slices.ContainsFunc(s.Events, func(e *api.TaskEvent) bool { return e.Details["oom_killed"] == "true" })
		if got := events(s); !killed || !strings.Contains(got, "Out of memory") {
			t.Errorf("out of memory for Nomad: %v; events:\n%s", killed, got)
		}
	})
	t.Run("checkpoints", func(t *testing.T) {
		alloc := a.run("train", with(shell(train), map[string]any{
			"params": `{"steps": 3}`, "checkpoint": []any{map[string]any{}}, "output": []any{map[string]any{"name": "sum"}}}))
		if s := end(alloc); s.Failed || !strings.Contains(events(s), "Checkpoint 3 sealed") {
			t.Errorf("events:\n%s", events(s))
		}
	})
	t.Run("unknown command", func(t *testing.T) {
		alloc := a.run("unknown", map[string]any{"command": "no-such-program"})
		if s := end(alloc); !s.Failed || !strings.Contains(events(s), "is not on the task's PATH") {
			t.Errorf("events:\n%s", events(s))
		}
	})
	t.Run("exec, signal and stop", func(t *testing.T) {
		alloc := a.run("interactive", shell(`trap 'touch got-usr1' USR1; touch ready; while true; do sleep 0.05; done`))
		a.await("the command", func() bool { return exists(a.file(alloc, "ready")) })
		var stdout, stderr bytes.Buffer
		code, err := a.client.Allocations().Exec(t.Context(), alloc, "main", false,
			[]string{"sh", "-c", "cat; pwd; exit 3"}, strings.NewReader("typed\n"), &stdout, &stderr, nil, nil)
		if want := "typed\n" + a.file(alloc, "") + "\n"; err != nil || code != 3 || stdout.String() != want {
			t.Errorf("exec = %d, %v, %q, %q; want %q", code, err, stdout.String(), stderr.String(), want)
		}
		if err := a.client.Allocations().Signal(alloc, nil, "main", "SIGUSR1"); err != nil {
			t.Fatal(err)
		}
		a.await("the signal", func() bool { return exists(a.file(alloc, "got-usr1")) })
		if _, err := a.client.Allocations().Stats(alloc, nil); err != nil {
			t.Error(err)
		}
		if _, _, err := a.client.Jobs().Deregister("interactive", false, nil); err != nil {
			t.Fatal(err)
		}
		s := end(alloc)
		if got := events(s); !strings.Contains(got, "Signal: 15") {
			t.Errorf("events:\n%s", got)
		}
	})
}

func (a *agent) fetch(path string) string {
	r, err := http.Get(a.addr + path)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b)
}
