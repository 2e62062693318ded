package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

// handleVersion is the version of driverState.
const handleVersion = 1

// driverState is what the agent keeps of a task, for RecoverTask:
//
//	{"dir":"/var/lib/nomad-driver-ml/tasks/8f3c…","supervisor":{"pid":310,"start":5512,"boot":"9c2f…"}}
type driverState struct {
	Dir        task.Dir   `json:"dir"`
	Supervisor process.ID `json:"supervisor"`
}

// handle is a task that the driver watches.
type handle struct {
	id, alloc, name string
	dir             task.Dir
	running         task.Running

	ended chan struct{} // closed once exit is known and no process is left
	exit  driver.ExitResult
	at    time.Time // when it ended

	shown     chan struct{} // closed when no more events will be shown
	destroyed chan struct{}
}

const (
	eventInterval = 250 * time.Millisecond
	cleanLimit    = 10 * time.Second // for what a task left behind
)

// watch begins to watch a task.
func (d *Driver) watch(c *driver.TaskConfig, dir task.Dir, r task.Running) *handle {
	h := &handle{
		id: c.ID, alloc: c.AllocID, name: c.Name, dir: dir, running: r,
		ended: make(chan struct{}), shown: make(chan struct{}), destroyed: make(chan struct{}),
	}
	d.mu.Lock()
	d.tasks[h.id] = h
	delete(d.lost, h.id)
	d.mu.Unlock()
	go d.awaitEnd(h)
	go d.showEvents(h)
	return h
}

// awaitEnd learns how the task ended from what its supervisor stored.
func (d *Driver) awaitEnd(h *handle) {
	for {
		err := h.running.Supervisor.Wait(context.Background())
		if err == nil {
			break
		}
		d.log.Error("awaiting the task's supervisor", "task_id", h.id, "error", err)
		time.Sleep(time.Second) // the task's death must not be missed, nor made up
	}
	e, err := h.dir.Exit()
	if err != nil {
		e = d.abandoned(h, err)
	}
	// A supervisor that was killed has left its task's processes behind.
	if err := cleanUp(h.running); err != nil {
		d.log.Error("ending what the task left behind", "task_id", h.id, "error", err)
	}
	h.exit = driver.ExitResult{ExitCode: e.ExitCode, Signal: e.Signal, OOMKilled: e.OOM}
	// Nomad shows an error as the reason of the end, but then no exit code. So
	// only what is not the command's own doing goes there.
	if errors.Is(err, fs.ErrNotExist) || gpustatus.IsTaskError(e.Error) || mltask.IsGangIncomplete(e.Error) || mltask.IsGangBroken(e.Error) {
		h.exit.Err = errors.New(e.Error)
	}
	h.at = e.Finished
	close(h.ended)
	d.log.Info("task ended", "task_id", h.id, "exit_code", e.ExitCode, "signal", e.Signal, "oom", e.OOM, "error", e.Error)
}

// abandoned is how a task ends whose supervisor ended without its exit status.
func (d *Driver) abandoned(h *handle, err error) task.Exit {
	reason := fmt.Sprintf("the task's supervisor (PID %d) was killed, so the task was, too, and how far it got is not known", h.running.Supervisor.PID)
	if !errors.Is(err, fs.ErrNotExist) {
		reason = err.Error()
	}
	if j, jerr := h.dir.Journal(); jerr == nil {
		_ = j.Add("abandoned", "Task failed: "+reason, nil)
	}
	go d.tellGang(h) // the task's end does not wait for the store
	return task.Exit{
		ExitCode: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL), OOM: h.running.Group.OOMKills() > 0,
		Error: reason, Finished: time.Now().UTC(),
	}
}

// cleanUp kills what is left of a task whose supervisor is gone, and removes
// its control group.
func cleanUp(r task.Running) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	if r.Group.Version != 0 {
		if err := r.Group.Kill(ctx); err != nil {
			return err
		}
		return r.Group.Remove(ctx)
	}
	for {
		left := process.WithEnv(taskMark(r.TaskID))
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes of the task were killed but are still there", len(left))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// showEvents shows the task's events as they come, until all are shown after
// its end.
func (d *Driver) showEvents(h *handle) {
	defer close(h.shown)
	r, err := h.dir.Reader()
	if err != nil {
		d.log.Error("showing the task's events", "task_id", h.id, "error", err)
		return
	}
	show := func(e task.Event) error {
		return d.events.show(driver.TaskEvent{
			TaskID: h.id, AllocID: h.alloc, Task: h.name, Time: e.Time, Message: e.Message, Annotations: e.Details,
		}, h.destroyed)
	}
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-h.ended:
			last = true
		case <-h.destroyed:
			return
		case <-tick.C:
		}
		err := r.Next(show)
		if errors.Is(err, errEnded) {
			return
		}
		if err != nil { // the agent is gone; the next one gets it
			d.log.Debug("showing the task's events", "task_id", h.id, "error", err)
			last = false
			time.Sleep(eventInterval)
		}
	}
}

// taskHandle is what the agent has to remember of the task.
func (h *handle) taskHandle(c *driver.TaskConfig) (*driver.Handle, error) {
	state, err := json.Marshal(driverState{Dir: h.dir, Supervisor: h.running.Supervisor})
	if err != nil {
		return nil, err
	}
	return &driver.Handle{Version: handleVersion, Config: c, State: driver.StateRunning, DriverState: state}, nil
}

// RecoverTask implements driver.Plugin. A task whose supervisor has vanished on
// this boot is taken up, too, for WaitTask to say that it failed and why. One of
// another boot, or whose supervisor's PID somebody else has, is refused: its
// record is too old to tell what became of it, and starting it again is for the
// agent to decide.
func (d *Driver) RecoverTask(_ context.Context, n *driver.Handle) error {
	id := n.Config.ID
	lock := d.startLock(id)
	lock.Lock()
	defer lock.Unlock()
	if _, err := d.find(id); err == nil {
		return nil
	}
	if n.Version != handleVersion {
		return fmt.Errorf("recovering task: its handle has version %d, this driver knows version %d", n.Version, handleVersion)
	}
	var s driverState
	if err := json.Unmarshal(n.DriverState, &s); err != nil {
		return fmt.Errorf("recovering task: reading its handle: %w", err)
	}
	if !filepath.IsAbs(string(s.Dir)) {
		return fmt.Errorf("recovering task: its handle names no state folder")
	}
	r, err := s.Dir.Running()
	if err != nil {
		return fmt.Errorf("recovering task: it is lost: %w", err)
	}
	if r.Supervisor != s.Supervisor || r.TaskID != id {
		return fmt.Errorf("recovering task: it is lost: %s is the state of another start", s.Dir)
	}
	if !r.Supervisor.Alive() && !r.Supervisor.Vanished() {
		if _, err := s.Dir.Exit(); err != nil {
			d.giveUp(id, s.Dir, r)
			return fmt.Errorf("recovering task: it is lost: its supervisor (PID %d, boot %s) is gone and left no exit status: %w", r.Supervisor.PID, r.Supervisor.Boot, err)
		}
	}
	d.watch(n.Config, s.Dir, r)
	d.log.Info("task recovered", "task_id", id, "supervisor", r.Supervisor.PID)
	return nil
}

// giveUp ends what is left of a task that is lost.
func (d *Driver) giveUp(id string, dir task.Dir, r task.Running) {
	if err := cleanUp(r); err != nil {
		d.log.Error("ending what a lost task left behind", "task_id", id, "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost[id] = dir
}

// earlier lists the state folders of other starts of a task: of the same
// allocation and name. At most one start of them may run.
func (d *Driver) earlier(c *driver.TaskConfig) []task.Dir {
	own := task.DirOf(d.current().StateDir, c.ID)
	prefix := task.Name(c.AllocID + "/" + c.Name + "/")
	entries, err := os.ReadDir(filepath.Dir(string(own)))
	if err != nil || c.AllocID == "" {
		return nil
	}
	var dirs []task.Dir
	for _, e := range entries {
		dir := task.Dir(filepath.Join(filepath.Dir(string(own)), e.Name()))
		if len(e.Name()) > len(prefix) && e.Name()[:len(prefix)] == prefix && dir != own {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
