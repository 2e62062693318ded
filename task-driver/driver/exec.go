package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/supervisor"
)

const (
	// maxExecOutput bounds what ExecTask keeps of each output; the rest is
	// dropped.
	maxExecOutput = 1 << 20
	// execDrain is how long output may follow the end of a command, from
	// processes that it left behind.
	execDrain = time.Second
)

// ExecTask implements driver.Plugin.
func (d *Driver) ExecTask(ctx context.Context, id string, command []string, timeout time.Duration) (*driver.ExecResult, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var stdout, stderr limited
	exit, err := d.exec(ctx, id, driver.ExecStreams{Command: command, Stdin: bytes.NewReader(nil), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return nil, err
	}
	return &driver.ExecResult{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Exit: *exit}, nil
}

// ExecTaskStreaming implements driver.Plugin.
func (d *Driver) ExecTaskStreaming(ctx context.Context, id string, x driver.ExecStreams) (*driver.ExitResult, error) {
	return d.exec(ctx, id, x)
}

// exec runs a command where the task's command runs, as its user, with its
// environment and within its limits. It ends with the task, with ctx, and with
// this process.
func (d *Driver) exec(ctx context.Context, id string, x driver.ExecStreams) (*driver.ExitResult, error) {
	h, err := d.find(id)
	if err != nil {
		return nil, err
	}
	command := h.command()
	if command == (process.ID{}) && !h.hasEnded() {
		return nil, errWaiting
	}
	env := process.Environ(command.PID)
	if h.hasEnded() || !command.Alive() || env == nil {
		return nil, errors.New("the task's command does not run any more")
	}
	place := supervisor.Place{
		Group: h.running.Group, User: h.running.User, NetNS: h.running.NetNS, WorkDir: h.running.WorkDir, Env: env,
	}
	cmd, err := place.Command(x.Command)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-h.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	run := runPiped
	if x.TTY {
		run = runOnTerminal
	}
	type result struct {
		exit *driver.ExitResult
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is in the task's network from now on, and the command
		// dies with it: it is never unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		exit, err := run(ctx, place, cmd, x)
		done <- result{exit, err}
	}()
	r := <-done
	return r.exit, r.err
}

// runPiped runs a command with three separate streams.
func runPiped(ctx context.Context, p supervisor.Place, cmd *exec.Cmd, x driver.ExecStreams) (*driver.ExitResult, error) {
	stdin, feed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = stdin, x.Stdout, x.Stderr, execDrain
	err = p.Start(cmd)
	stdin.Close()
	if err != nil {
		feed.Close()
		return nil, fmt.Errorf("starting %q: %w", x.Command[0], err)
	}
	go func() { // not waited for: a caller may never end its input
		_, _ = io.Copy(feed, x.Stdin)
		feed.Close()
	}()
	return wait(ctx, cmd)
}

// runOnTerminal runs a command on a terminal of its own.
func runOnTerminal(ctx context.Context, p supervisor.Place, cmd *exec.Cmd, x driver.ExecStreams) (*driver.ExitResult, error) {
	screen, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	defer screen.Close()
	if p.User != nil {
		if err := tty.Chown(int(p.User.UID), int(p.User.GID)); err != nil {
			tty.Close()
			return nil, fmt.Errorf("giving the terminal to the task's user: %w", err)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = false, true, true
	err = p.Start(cmd)
	tty.Close()
	if err != nil {
		return nil, fmt.Errorf("starting %q: %w", x.Command[0], err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case size := <-x.Resize:
				resize(screen, size)
			case <-ended:
				return
			}
		}
	}()
	go func() {
		_, _ = io.Copy(screen, x.Stdin)
		_, _ = screen.Write([]byte{4}) // end of input, on a terminal
	}()
	shown := make(chan struct{})
	go func() {
		_, _ = io.Copy(x.Stdout, screen) // ends when no process has the terminal
		close(shown)
	}()
	exit, err := wait(ctx, cmd)
	select {
	case <-shown:
	case <-time.After(execDrain):
	}
	return exit, err
}

// resize sets a terminal's size. Other than by the file's descriptor, this can't
// hit another file if the terminal is closed meanwhile.
func resize(screen *os.File, size driver.TerminalSize) {
	conn, err := screen.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)})
	})
}

// wait waits for a command; when ctx ends, its process group is killed.
func wait(ctx context.Context, cmd *exec.Cmd) (*driver.ExitResult, error) {
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) && !errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState == nil {
		return nil, err
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("the command was killed, because it took too long: %w", ctx.Err())
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return nil, fmt.Errorf("the command ended with %v", cmd.ProcessState)
	}
	if status.Signaled() {
		return &driver.ExitResult{ExitCode: 128 + int(status.Signal()), Signal: int(status.Signal())}, nil
	}
	return &driver.ExitResult{ExitCode: status.ExitStatus()}, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	room := max(maxExecOutput-l.Len(), 0)
	l.Buffer.Write(p[:min(room, len(p))])
	return len(p), nil
}
