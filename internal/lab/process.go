package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// T is the part of testing.TB that a laboratory needs.
type T interface {
	Helper()
	Log(args ...any)
	Logf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Wait is how long a test waits for anything before it fails. It is generous,
// since it costs only failing tests.
const Wait = 5 * time.Minute

// Eventually calls ok until it returns "" and fails with its last word if it
// never does. It is for what only other processes can see change.
func Eventually(t T, what string, ok func() (problem string)) {
	t.Helper()
	deadline := time.Now().Add(Wait)
	for {
		problem := ok()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in %s: %s", what, Wait, problem)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Process is a child that a test may kill and start again.
type Process struct {
	Name string
	Argv []string
	Env  []string // beside this process's own
	Dir  string
	Log  string // file that gets its output

	cmd    *exec.Cmd
	done   chan struct{}
	killed bool
}

func (p *Process) Start(t T) {
	t.Helper()
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(p.Argv[0], p.Argv[1:]...)
	p.cmd.Dir = p.Dir
	p.cmd.Env = append(os.Environ(), p.Env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A group of its own: an interrupt at the terminal is the test's to handle.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.Name, err)
	}
	p.killed = false
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(p.cmd, p.done)
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill is kill -9.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	p.killed = true
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop ends the process in its own way, or by force after a while.
func (p *Process) Stop(sig os.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.Kill()
	}
}

func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Tail is the end of the process's output, for failing tests.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	if len(b) > 8000 {
		b = b[len(b)-8000:]
	}
	return fmt.Sprintf("--- end of the output of %s\n%s", p.Name, b)
}

// Tagged are the processes that carry tag in their environment and run the
// given binary, and whose arguments match.
func Tagged(tag, binary string, match func(args []string) bool) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || binary != "" && filepath.Base(exe) != binary {
			continue
		}
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), tag) {
			continue
		}
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		argv := strings.Split(string(bytes.TrimSuffix(args, []byte{0})), "\x00")
		if match == nil || match(argv) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Running are the processes whose command line contains text.
func Running(text string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(args), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Kill9 is kill -9. Processes that are gone already do not matter.
func Kill9(t T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("killing %d: %v", pid, err)
		}
	}
}

// FreePort is a port that was free a moment ago.
func FreePort(t T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
