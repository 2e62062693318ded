package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/drover-ml/drover/nomadplugin/driver"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	for _, test := range []struct {
		name, script string
		want         nomad.ExitResult
	}{
		{"success", "exit 0", nomad.ExitResult{}},
		{"failure", "exit 7", nomad.ExitResult{ExitCode: 7}},
		{"killed", "kill -9 $$", nomad.ExitResult{ExitCode: 137, Signal: 9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := n.task(shell(test.script))
			if got := n.run(c); *got != test.want {
				t.Errorf("exit = %+v, want %+v\n%s", *got, test.want, n.log(c))
			}
		})
	}
}

func TestTaskState(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("echo hello; exit 3"))
	n.start(c)
	n.wait(c)
	st, err := n.driver().InspectTask(n.ctx(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if st.State != nomad.StateExited || st.Exit == nil || st.Exit.ExitCode != 3 || st.CompletedAt.Before(st.StartedAt) {
		t.Errorf("status = %+v", st)
	}
	if got := n.stdout(c); got != "hello\n" {
		t.Errorf("stdout = %q", got)
	}
	if err := n.driver().DestroyTask(n.ctx(), c.ID, false); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(n.dir, "state/tasks"))
	if err != nil || len(left) != 0 {
		t.Errorf("state after destroy = %v, %v", left, err)
	}
	if _, err := n.driver().WaitTask(n.ctx(), c.ID); err == nil {
		t.Error("WaitTask knows a destroyed task")
	}
}

// B15: all of the tree ends, in order: SIGTERM, and SIGKILL after the timeout.
func TestStopEndsTheTree(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(with(shell(scriptOfStop), map[string]any{"work_dir": "."}))
			n.start(c)
			pids := func() []string { return strings.Fields(readIf(file(c, "local/pids"))) }
			eventually(t, "five processes", func() bool { return len(pids()) == 5 })

			began := time.Now()
			if err := n.driver().StopTask(n.ctx(), c.ID, time.Second, "SIGTERM"); err != nil {
				t.Fatal(err)
			}
			exit := n.wait(c)
			if took := time.Since(began); took < time.Second || took > 4*time.Second {
				t.Errorf("stop took %v, want a little more than the timeout of 1s", took)
			}
			if exit.Signal != 9 || exit.ExitCode != 137 || exit.OOMKilled {
				t.Errorf("exit = %+v, want signal 9 and not out of memory", exit)
			}
			if got := n.stdout(c); !strings.Contains(got, "TERM") {
				t.Errorf("stdout = %q, want the sign of SIGTERM", got)
			}
			for _, p := range pids() {
				if pid, _ := strconv.Atoi(p); alive(pid) {
					t.Errorf("process %d is still there", pid)
				}
			}
			if left, _ := filepath.Glob("/sys/fs/cgroup/*/drover/" + c.AllocID + "*"); len(left) > 0 {
				t.Errorf("control groups are still there: %v", left)
			}
		})
	}
}

const scriptOfStop = `
trap 'echo TERM' TERM
sleep 1000 & echo $! > local/pids
setsid sh -c 'trap "" TERM; sleep 1000 & echo $! >> local/pids; echo $$ >> local/pids; wait' &
(sh -c 'sleep 1000 & echo $! >> local/pids' &)
echo $$ >> local/pids
while true; do sleep 0.1; done`

func readIf(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// The command's own end ends what it left behind, too.
func TestExitEndsTheTree(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(shell(`setsid sh -c 'echo $$ > pid; sleep 1000' & while [ ! -s pid ]; do sleep 0.01; done; exit 5`))
			if exit := n.run(c); exit.ExitCode != 5 {
				t.Errorf("exit = %+v, want 5", exit)
			}
			pid, _ := strconv.Atoi(strings.TrimSpace(read(t, file(c, "local/pid"))))
			if pid == 0 || alive(pid) {
				t.Errorf("process %d is still there", pid)
			}
		})
	}
}

func TestStopWithinGrace(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(`trap 'exit 4' USR2; touch ready; while true; do sleep 0.05; done`))
	n.start(c)
	eventually(t, "the trap", func() bool { return exists(file(c, "local/ready")) })
	began := time.Now()
	if err := n.driver().StopTask(n.ctx(), c.ID, 20*time.Second, "SIGUSR2"); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(c); exit.ExitCode != 4 || exit.Signal != 0 {
		t.Errorf("exit = %+v, want 4", exit)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stop took %v", took)
	}
}

func TestSignal(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(`trap 'exit 9' USR1; touch ready; while true; do sleep 0.05; done`))
	n.start(c)
	eventually(t, "the trap", func() bool { return exists(file(c, "local/ready")) })
	if err := n.driver().SignalTask(n.ctx(), c.ID, "SIGNONSENSE"); err == nil {
		t.Error("an unknown signal was sent")
	}
	if err := n.driver().SignalTask(n.ctx(), c.ID, "SIGUSR1"); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(c); exit.ExitCode != 9 {
		t.Errorf("exit = %+v, want 9", exit)
	}
}

// Who asks for a checkpoint does not end a task that makes none when asked.
func TestSignalForACheckpointIsHarmless(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell(`exec sleep 1000`))
	n.start(c)
	if err := n.driver().SignalTask(n.ctx(), c.ID, "SIGUSR1"); err == nil || !strings.Contains(err.Error(), "handles no SIGUSR1") {
		t.Errorf("SIGUSR1: %v, want a refusal", err)
	}
	if pid, _ := n.pids(c); !alive(pid) {
		t.Error("the task has ended")
	}
}

func TestDestroy(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("sleep 1000"))
	n.start(c)
	command, _ := n.pids(c)
	if err := n.driver().DestroyTask(n.ctx(), c.ID, false); err == nil {
		t.Fatal("a running task was destroyed without force")
	}
	if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
		t.Fatal(err)
	}
	if alive(command) {
		t.Error("the command is still there")
	}
	if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
		t.Errorf("destroying again: %v", err)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(map[string]any{"command": "python3", "args": []any{"-c", "b = b'x' * (64 << 20)\nwhile True: pass"}})
			n.start(c)
			err := n.driver().TaskStats(n.ctx(), c.ID, 100*time.Millisecond, func(s nomad.TaskStats) error {
				cpu, rss := s.Total.CPU.Percent, s.Total.Memory.RSS
				if cpu == nil || rss == nil {
					t.Errorf("CPU = %v, RSS = %v: not measured", cpu, rss)
					return os.ErrClosed
				}
				if *cpu > 5 && *cpu < 150 && *rss > 64<<20 && *rss < 256<<20 {
					return os.ErrClosed // as it should be
				}
				return nil // Python is still starting
			})
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("no reading of about 100%% CPU and 64 MiB RSS: %v", err)
			}
		})
	}
}

// B17: out of memory is what the kernel counted, not what the exit code looks
// like.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	needGroups(t)
	hog := `python3 -c 'b = bytearray(300 << 20); b[::4096] = b"x" * len(b[::4096])'`
	for _, test := range []struct {
		name, script string
		want         nomad.ExitResult
	}{
		{"the command", "exec " + hog, nomad.ExitResult{ExitCode: 137, Signal: 9, OOMKilled: true}},
		{"a child, and the parent exits with 1", hog + "; exit 1", nomad.ExitResult{ExitCode: 1, OOMKilled: true}},
		{"no memory trouble", "kill -9 $$", nomad.ExitResult{ExitCode: 137, Signal: 9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, nil)
			c := n.task(shell(test.script))
			c.Resources.MemoryMB, c.Resources.MemoryLimit = 64, 64<<20
			n.start(c)
			if got := n.wait(c); *got != test.want {
				t.Errorf("exit = %+v, want %+v\n%s", *got, test.want, n.log(c))
			}
			if test.want.OOMKilled {
				n.shown(c, "Out of memory")
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	for _, test := range []struct {
		name   string
		config map[string]any
		want   string
	}{
		{"unknown command", map[string]any{"command": "no-such-program"}, `command "no-such-program" is not on the task's PATH`},
		{"no such file", map[string]any{"command": "/no/such/file"}, `command "/no/such/file"`},
		{"not executable", map[string]any{"command": "/etc/passwd"}, "permission denied"},
		{"no store for a digest", with(shell("true"), map[string]any{"input": []any{map[string]any{
			"name": "data", "source": "sha256:" + strings.Repeat("0", 64)}}}), "no artifact store"},
		{"missing store", with(shell("true"), map[string]any{"store": "file:///no/such/store"}), `"file:///no/such/store"`},
		{"unknown scheme", with(shell("true"), map[string]any{"store": "s3://bucket"}), "not supported in this version"},
		{"bad params", with(shell("true"), map[string]any{"params": "{"}), "params: not a JSON object"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := n.driver().StartTask(n.ctx(), n.task(test.config))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q in it", err, test.want)
			}
			if nomad.IsRecoverable(err) {
				t.Errorf("error %v is marked as recoverable", err)
			}
		})
	}
	left, err := os.ReadDir(filepath.Join(n.dir, "state/tasks"))
	if err != nil || len(left) != 0 {
		t.Errorf("state of tasks that did not start = %v, %v", left, err)
	}
}

// B16 d: a log FIFO that nobody reads, or that is gone, is an error in bounded
// time. (A task in operation keeps the files that it has.)
func TestLogFIFO(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("echo out; echo err >&2"))
	for _, f := range []string{c.StdoutPath, c.StderrPath} {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := n.driver().StartTask(n.ctx(), c); err == nil || !nomad.IsRecoverable(err) {
		t.Errorf("error = %v, want a recoverable one", err)
	}
	for _, f := range []string{c.StdoutPath, c.StderrPath} {
		if err := syscall.Mkfifo(f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.OpenFile(c.StdoutPath, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.OpenFile(c.StderrPath, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	if exit := n.run(c); exit.ExitCode != 0 {
		t.Errorf("exit = %+v", exit)
	}
	line := make([]byte, 64)
	if k, _ := out.Read(line); string(line[:k]) != "out\n" {
		t.Errorf("stdout = %q", line[:k])
	}
	if k, _ := errs.Read(line); string(line[:k]) != "err\n" {
		t.Errorf("stderr = %q", line[:k])
	}
}
