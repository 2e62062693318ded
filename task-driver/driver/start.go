package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/stage"
	"github.com/drover-ml/drover/task-driver/supervisor"
	"github.com/drover-ml/drover/task-driver/task"
)

const (
	// logLimit is how long a task's log may have no reader at its start.
	logLimit = 30 * time.Second
	// claimLimit is how long a supervisor that an earlier call started may take
	// to start its command.
	claimLimit = 10 * time.Second
)

// StartTask implements driver.Plugin. If an earlier call for the same ID has
// started the task before the driver was killed, that task is taken up.
func (d *Driver) StartTask(ctx context.Context, c *driver.TaskConfig) (*driver.Handle, *driver.NetworkOverride, error) {
	lock := d.startLock(c.ID)
	lock.Lock()
	defer lock.Unlock()
	h, err := d.start(ctx, c)
	if err != nil {
		d.log.Error("starting task", "task_id", c.ID, "error", err)
		return nil, nil, err
	}
	n, err := h.taskHandle(c)
	return n, nil, err
}

func (d *Driver) start(ctx context.Context, c *driver.TaskConfig) (*handle, error) {
	if h, err := d.find(c.ID); err == nil {
		return h, nil
	}
	dir := task.DirOf(d.current().StateDir, c.ID)
	lock, h, err := d.claim(ctx, c, dir)
	if err != nil || h != nil {
		return h, err
	}
	defer lock.Close()
	r, err := d.launch(ctx, c, dir, lock)
	if err != nil {
		if rerr := dir.Remove(); rerr != nil {
			d.log.Warn("removing the state of a task that did not start", "task_id", c.ID, "error", rerr)
		}
		return nil, err
	}
	d.log.Info("task started", "task_id", c.ID, "pid", r.Command.PID, "supervisor", r.Supervisor.PID)
	return d.watch(c, dir, r), nil
}

// endEarlier ends another start of the same task.
func (d *Driver) endEarlier(ctx context.Context, dir task.Dir) error {
	r, err := dir.Running()
	if err == nil {
		if _, err := d.find(r.TaskID); err == nil {
			return d.DestroyTask(ctx, r.TaskID, true)
		}
	}
	d.log.Warn("ending an earlier start that no agent knows", "dir", dir)
	return destroyDir(dir)
}

// claim takes the task's lock. If an earlier call with the same ID has started
// the task, it returns that instead.
func (d *Driver) claim(ctx context.Context, c *driver.TaskConfig, dir task.Dir) (*os.File, *handle, error) {
	if err := dir.Create(); err != nil {
		return nil, nil, driver.Recoverable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	for {
		lock, lockErr := dir.Lock()
		// Who has the lock sees all that its earlier holders did.
		r, err := dir.Running()
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			if lock != nil {
				lock.Close()
			}
			if err != nil {
				return nil, nil, err
			}
			d.log.Info("taking up a task that was started before", "task_id", c.ID)
			return nil, d.watch(c, dir, r), nil
		}
		if !errors.Is(lockErr, task.ErrLocked) {
			return lock, nil, driver.Recoverable(lockErr)
		}
		select {
		case <-ctx.Done():
			return nil, nil, driver.Recoverable(fmt.Errorf("a supervisor has the task but does not start its command: see %s", dir.LogFile()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// decode reads and checks the job's config block.
func decode(c *driver.TaskConfig) (*mltask.Config, error) {
	var m mltask.Config
	if err := c.Decode(&m); err != nil {
		return nil, fmt.Errorf("task config: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("task config: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, dev := range c.Devices {
		if dev.TaskPath != "" && dev.TaskPath != dev.HostPath {
			return nil, fmt.Errorf("device %s is to be shown at %s, but this driver's tasks see the host's devices where they are", dev.HostPath, dev.TaskPath)
		}
	}
	for _, mount := range c.Mounts {
		if mount.TaskPath != mount.HostPath {
			return nil, fmt.Errorf("%s is to be shown at %s, but this driver's tasks see the host's files where they are", mount.HostPath, mount.TaskPath)
		}
	}
	return &m, nil
}

// launch prepares everything and starts the supervisor.
func (d *Driver) launch(ctx context.Context, c *driver.TaskConfig, dir task.Dir, lock *os.File) (task.Running, error) {
	m, err := decode(c)
	if err != nil {
		return task.Running{}, err
	}
	if err := checkGPUs(c); err != nil {
		return task.Running{}, err
	}
	user, err := findAccount(c.User)
	if err != nil {
		return task.Running{}, err
	}
	// An agent that was killed may have lost sight of an earlier start.
	for _, other := range d.earlier(c) {
		if err := d.endEarlier(ctx, other); err != nil {
			return task.Running{}, driver.Recoverable(fmt.Errorf("ending an earlier start of the task: %w", err))
		}
	}
	spec, err := d.prepare(ctx, c, m, dir, user)
	if err != nil {
		if stage.Transient(err) || ctx.Err() != nil {
			err = driver.Recoverable(err)
		}
		return task.Running{}, err
	}
	if spec.Group, err = d.host(d.current()).Create(task.Name(c.ID), c.Resources.CgroupPath, limits(c.Resources)); err != nil {
		return task.Running{}, driver.Recoverable(fmt.Errorf("limiting the task: %w", err))
	}
	if err := hideGPUs(c, spec.Group); err != nil {
		d.log.Warn("the task can open GPUs that are not reserved for it", "task_id", c.ID, "reason", err)
		if jerr := note(dir, "gpus-open", "The task can open GPUs that are not reserved for it: "+err.Error()); jerr != nil {
			return task.Running{}, driver.Recoverable(jerr)
		}
	}
	if err := d.startSupervisor(ctx, spec, dir, lock); err != nil {
		return task.Running{}, errors.Join(err, cleanUp(task.Running{TaskID: c.ID, Group: spec.Group}))
	}
	r, err := dir.Running()
	if err != nil {
		return task.Running{}, driver.Recoverable(fmt.Errorf("starting the task: %w", err))
	}
	return r, nil
}

func (d *Driver) startSupervisor(ctx context.Context, spec supervisor.Spec, dir task.Dir, lock *os.File) error {
	logs, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	stdout, err := supervisor.OpenOutput(logs, spec.Stdout)
	if err != nil {
		return driver.Recoverable(err)
	}
	defer stdout.Close()
	stderr, err := supervisor.OpenOutput(logs, spec.Stderr)
	if err != nil {
		return driver.Recoverable(err)
	}
	defer stderr.Close()
	err = supervisor.Launch(ctx, dir, spec, supervisor.Files{Lock: lock, Stdout: stdout, Stderr: stderr})
	var start *supervisor.StartError
	if errors.As(err, &start) && !start.Retry {
		return err
	}
	return driver.Recoverable(err)
}

// prepare stages the task's files and writes the supervisor's order.
func (d *Driver) prepare(ctx context.Context, c *driver.TaskConfig, m *mltask.Config, dir task.Dir, user *account) (supervisor.Spec, error) {
	journal, err := dir.Journal()
	if err != nil {
		return supervisor.Spec{}, err
	}
	stop := d.showWhileStaging(c, dir)
	defer stop()
	storeURL := m.Store
	if storeURL == "" {
		storeURL = d.current().Store
	}
	var store *artifact.Store
	if storeURL != "" {
		if store, err = stores(d.current()).Open(storeURL); err != nil {
			return supervisor.Spec{}, err
		}
		defer store.Close()
	}
	before, err := doneBefore(ctx, store, m)
	if err != nil {
		return supervisor.Spec{}, err
	}
	if before != nil {
		// Nomad places a task again whose node was lost just after its success.
		if err := journal.Add("done-before", "Done before, by allocation "+before.AllocID+": not run again", nil); err != nil {
			return supervisor.Spec{}, err
		}
		m = &mltask.Config{Command: "/bin/sh", Args: []string{"-c", ":"}}
	}
	var cache *stage.Cache
	if m.Code != "" || len(m.Inputs) > 0 {
		if cache, err = d.openCache(); err != nil {
			return supervisor.Spec{}, err
		}
	}
	member, err := gangOf(c, m, storeURL)
	if err != nil {
		return supervisor.Spec{}, err
	}
	keep := checkpointOf(c, m)
	req := stage.Request{
		TaskDir: filepath.Join(c.AllocDir, c.Name), Config: m, Store: store, Cache: cache, User: user.credential(),
		Event: func(key, message string, details map[string]string) {
			if err := journal.Add(key, message, details); err != nil {
				d.log.Warn("writing an event", "task_id", c.ID, "event", message, "error", err)
			}
		},
	}
	if keep != nil {
		req.CheckpointKey = keep.Key
	}
	staged, err := stage.Stage(ctx, req)
	if err != nil {
		return supervisor.Spec{}, err
	}
	env, err := environment(c, m, staged, user, d.environ)
	if err != nil {
		return supervisor.Spec{}, err
	}
	stall, err := m.Stall()
	if err != nil {
		return supervisor.Spec{}, err
	}
	spec := supervisor.Spec{
		TaskID: c.ID, AllocID: c.AllocID, NodeID: c.NodeID, NodeName: c.NodeName,
		Argv: append([]string{m.Command}, m.Args...), Env: task.Environ(env), WorkDir: staged.WorkDir, User: user.credential(),
		Stdout: c.StdoutPath, Stderr: c.StderrPath,
		Folder: staged.Folder, Store: storeURL, Outputs: m.Outputs, Checkpoint: keep, ResultKey: m.ResultKey,
		StallTimeout: stall, Devices: task.Devices(c.DeviceEnv), GPUStatus: c.DeviceEnv[gpustatus.Variable],
		ResumedFrom: staged.ResumedFrom, Gang: member,
	}
	if member != nil && member.Rank != 0 {
		spec.Checkpoint = nil // rank 0 keeps those of all
	}
	if c.Network != nil {
		spec.NetNS = c.Network.Path
	}
	return spec, nil
}

// note adds an event to the task's journal.
func note(dir task.Dir, key, message string) error {
	journal, err := dir.Journal()
	if err != nil {
		return err
	}
	return journal.Add(key, message, nil)
}

// doneBefore is the result record of an earlier start of the same attempt that
// succeeded, nil if there is none.
func doneBefore(ctx context.Context, store *artifact.Store, m *mltask.Config) (*mltask.Result, error) {
	if store == nil || m.ResultKey == "" {
		return nil, nil
	}
	var r mltask.Result
	err := store.GetRecord(ctx, "results/"+m.ResultKey, &r)
	switch {
	case errors.Is(err, artifact.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for the task's result record: %w", err)
	case !r.Succeeded():
		return nil, nil
	}
	return &r, nil
}

// showWhileStaging shows the events of a task that no handle watches yet, until
// the returned function is called, which waits for that.
func (d *Driver) showWhileStaging(c *driver.TaskConfig, dir task.Dir) (stop func()) {
	h := &handle{
		id: c.ID, alloc: c.AllocID, name: c.Name, dir: dir,
		ended: make(chan struct{}), shown: make(chan struct{}), destroyed: make(chan struct{}),
	}
	go d.showEvents(h)
	return func() {
		close(h.destroyed)
		<-h.shown
	}
}

// checkpointOf is nil for a task without checkpoints. Without a key, the
// training is that of the job's task at its allocation index, and ends with the
// first success.
func checkpointOf(c *driver.TaskConfig, m *mltask.Config) *supervisor.Checkpoint {
	if len(m.Checkpoint) == 0 {
		return nil
	}
	k := &supervisor.Checkpoint{Key: m.Checkpoint[0].Key, Keep: m.Checkpoint[0].Keep}
	if k.Keep == 0 {
		k.Keep = defaultKeep
	}
	if k.Key == "" {
		k.Forget = true
		index := c.Env["NOMAD_ALLOC_INDEX"]
		if index == "" {
			index = "0"
		}
		k.Key = strings.Join([]string{keyName(c.Namespace), keyName(c.JobID), keyName(c.Group), keyName(c.Name), keyName(index)}, "/")
	}
	return k
}

// keyName makes a name of a store key of any text, different ones of different
// texts.
func keyName(s string) string {
	var b strings.Builder
	b.WriteByte('_') // so that it is never empty, nor only dots
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, ".%02x", c)
		}
	}
	return b.String()
}

func limits(r driver.Resources) cgroup.Limits {
	const mib = 1 << 20
	l := cgroup.Limits{MemoryBytes: r.MemoryLimit, CPUShares: r.CPUShares}
	if l.MemoryBytes <= 0 {
		l.MemoryBytes = max(r.MemoryMB, r.MemoryMaxMB) * mib
	}
	switch {
	case r.MemoryMaxMB < 0: // no limit but the machine's
		l.MemoryBytes, l.MemoryLowBytes = 0, r.MemoryMB*mib
	case r.MemoryMaxMB > r.MemoryMB:
		l.MemoryLowBytes = r.MemoryMB * mib
	}
	return l
}
