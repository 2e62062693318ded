package driver

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/supervisor"
	"github.com/drover-ml/drover/task-driver/task"
)

const (
	// stopWait is how long StopTask waits for a killed task before it leaves
	// the rest to WaitTask.
	stopWait = 5 * time.Second
	// lastResort is when a supervisor that does not end is killed.
	lastResort = 75 * time.Second
	// showLimit is how long a task that is destroyed waits for its last events
	// to be shown.
	showLimit = 2 * time.Second
)

// WaitTask implements driver.Plugin.
func (d *Driver) WaitTask(ctx context.Context, id string) (*driver.ExitResult, error) {
	h, err := d.find(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-h.ended:
		exit := h.exit
		return &exit, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// StopTask implements driver.Plugin. The signal, SIGTERM by default, goes to
// the command's process group; when the timeout is over, the whole process tree
// is killed.
func (d *Driver) StopTask(ctx context.Context, id string, timeout time.Duration, signal string) error {
	h, err := d.find(id)
	if err != nil {
		return err
	}
	sig, err := parseSignal(signal)
	if err != nil {
		d.log.Warn("stopping with SIGTERM instead", "task_id", id, "error", err)
		sig = syscall.SIGTERM
	}
	d.log.Info("stopping task", "task_id", id, "signal", unix.SignalName(sig), "timeout", timeout.String())
	deadline := time.Now().Add(timeout)
	// A command that has ended already may still have its outputs stored.
	if err := h.askToEnd(ctx, sig, deadline); err != nil {
		d.log.Debug("signalling the task", "task_id", id, "error", err)
	}
	if h.endedWithin(ctx, time.Until(deadline)) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err // the agent is gone; the next one stops the task again
	}
	d.kill(h)
	h.endedWithin(ctx, stopWait)
	return nil
}

// endedWithin waits for the task's end.
func (h *handle) endedWithin(ctx context.Context, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-h.ended:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// kill tells the supervisor that the task's time is up, and sees to it that the
// supervisor obeys.
func (d *Driver) kill(h *handle) {
	if err := h.running.Supervisor.Signal(supervisor.TimeUp); err != nil {
		return // it has ended
	}
	go func() {
		if !h.endedWithin(context.Background(), lastResort) {
			d.log.Error("the task's supervisor does not end, killing it", "task_id", h.id)
			_ = h.running.Supervisor.Signal(syscall.SIGKILL)
		}
	}()
}

// DestroyTask implements driver.Plugin.
func (d *Driver) DestroyTask(ctx context.Context, id string, force bool) error {
	h, err := d.find(id)
	if err != nil {
		return d.destroyUnknown(id)
	}
	if !h.hasEnded() {
		if !force {
			return fmt.Errorf("task %s is still running: stop it first", id)
		}
		d.kill(h)
		if !h.endedWithin(ctx, stopWait) {
			_ = h.running.Supervisor.Signal(syscall.SIGKILL)
			if !h.endedWithin(ctx, cleanLimit) {
				return fmt.Errorf("task %s was killed but has not ended", id)
			}
		}
	}
	select {
	case <-h.shown:
	case <-time.After(showLimit):
	case <-ctx.Done():
	}
	d.mu.Lock()
	gone := d.tasks[id] != h
	delete(d.tasks, id)
	delete(d.starting, id)
	d.mu.Unlock()
	if gone { // by another call
		return nil
	}
	close(h.destroyed)
	select {
	case <-h.shown: // nothing is written to the folder any more
	case <-time.After(showLimit):
	}
	return h.dir.Remove()
}

// destroyUnknown ends and removes a task that was never recovered.
func (d *Driver) destroyUnknown(id string) error {
	d.mu.Lock()
	dir, ok := d.lost[id]
	if !ok {
		dir = task.DirOf(d.settings.StateDir, id)
	}
	delete(d.lost, id)
	d.mu.Unlock()
	return destroyDir(dir)
}

// destroyDir ends whatever the state folder tells of, and removes it.
func destroyDir(dir task.Dir) error {
	// A state that can't be read, such as one cut short by a loss of power,
	// tells of nothing that could be ended.
	if r, err := dir.Running(); err == nil {
		if err := r.Supervisor.Signal(syscall.SIGKILL); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
			defer cancel()
			if err := r.Supervisor.Wait(ctx); err != nil {
				return fmt.Errorf("ending the task's supervisor: %w", err)
			}
		}
		if err := cleanUp(r); err != nil {
			return err
		}
	}
	return dir.Remove()
}

func (h *handle) hasEnded() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// InspectTask implements driver.Plugin.
func (d *Driver) InspectTask(_ context.Context, id string) (*driver.TaskStatus, error) {
	h, err := d.find(id)
	if err != nil {
		return nil, err
	}
	s := &driver.TaskStatus{
		ID: h.id, Name: h.name, State: driver.StateRunning, StartedAt: h.running.Started,
		Attributes: map[string]string{
			"pid":        strconv.Itoa(h.command().PID),
			"supervisor": strconv.Itoa(h.running.Supervisor.PID),
			"state_dir":  string(h.dir),
		},
	}
	if h.hasEnded() {
		exit := h.exit
		s.State, s.CompletedAt, s.Exit = driver.StateExited, h.at, &exit
	}
	return s, nil
}

// SignalTask implements driver.Plugin. The signal goes to the command itself,
// not to its children: many a child would die of a SIGUSR1 that asks its parent
// for a checkpoint.
func (d *Driver) SignalTask(_ context.Context, id string, signal string) error {
	h, err := d.find(id)
	if err != nil {
		return err
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	command := h.command()
	if command == (process.ID{}) {
		return fmt.Errorf("sending %s to the task: %w", signal, errWaiting)
	}
	// SIGUSR1 asks for a checkpoint. It ends a command that does not know it,
	// which nobody wants who asks for that.
	if sig == syscall.SIGUSR1 && command.Alive() && !command.Catches(sig) {
		return fmt.Errorf("sending %s to the task: its command handles no SIGUSR1, so it was not sent; it would have ended the command", signal)
	}
	if err := command.Signal(sig); err != nil {
		return fmt.Errorf("sending %s to the task: %w", signal, err)
	}
	return nil
}

// parseSignal reads a name such as SIGUSR1; "" is SIGTERM.
func parseSignal(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%q is not a signal such as SIGUSR1", name)
}
