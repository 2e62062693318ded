package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/task-driver/task"
)

// Arg is the first argument of a process that is to be a supervisor; the
// second is the task's state folder.
const Arg = "supervise"

// StartError says why a command did not start.
type StartError struct {
	Reason string
	// Retry says that another attempt may fare better.
	Retry bool
}

func (e *StartError) Error() string { return e.Reason }

// Files are what a supervisor inherits: the task's lock, and the command's
// output. The caller closes its own copies.
type Files struct{ Lock, Stdout, Stderr *os.File }

// Launch starts a supervisor, which outlives this process, and returns when the
// command runs. The error is a *StartError if the supervisor could not start
// it.
func Launch(ctx context.Context, dir task.Dir, s Spec, f Files) error {
	order, err := json.Marshal(s)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(dir.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the supervisor's log: %w", err)
	}
	defer log.Close()
	said, answer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	in, out, err := os.Pipe()
	if err != nil {
		answer.Close()
		return err
	}
	// The running image, even if the file was replaced by an upgrade.
	cmd := exec.Command("/proc/self/exe", Arg, string(dir))
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, log, log
	cmd.ExtraFiles = []*os.File{answer, f.Stdout, f.Stderr, f.Lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	in.Close()
	answer.Close()
	if err != nil {
		out.Close()
		return fmt.Errorf("starting the task's supervisor: %w", err)
	}
	reaped := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in the state folder
		close(reaped)
	}()
	go func() {
		_, _ = out.Write(order) // a supervisor that did not get all of it says so
		out.Close()
	}()
	if err := awaitReady(ctx, said, dir); err != nil {
		// It may be about to start the command, which dies with it.
		_ = cmd.Process.Kill()
		<-reaped
		return err
	}
	return nil
}

func awaitReady(ctx context.Context, said *os.File, dir task.Dir) error {
	stop := context.AfterFunc(ctx, func() { _ = said.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := io.ReadAll(said)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var r ready
	if err != nil || json.Unmarshal(b, &r) != nil {
		return &StartError{Reason: fmt.Sprintf("the task's supervisor ended before it started the command: see %s", dir.LogFile()), Retry: true}
	}
	if r.Error != "" {
		return &StartError{Reason: r.Error, Retry: r.Retry}
	}
	return nil
}

// OpenOutput opens where a task's output goes. A FIFO without a reader is given
// until ctx ends to get one.
func OpenOutput(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			// Commands expect writes that wait.
			if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
				f.Close()
				return nil, fmt.Errorf("opening the task's log %s: %w", path, err)
			}
			return f, nil
		}
		if !errors.Is(err, unix.ENXIO) {
			return nil, fmt.Errorf("opening the task's log: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("opening the task's log %s: nobody reads it; is Nomad's log collector alive?", path)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
