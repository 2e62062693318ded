package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/client/logmon"
	"github.com/drover-ml/drover/devcluster/client/plugins"
	"github.com/drover-ml/drover/devcluster/client/taskenv"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// instance is a driver's running plugin.
type instance = *plugins.Instance

// prepare does what comes before the driver: log collection, payload,
// artifacts, devices, templates, and the configuration of the start, which is
// stored.
func (t *taskRunner) prepare() error {
	if !t.row.Prepared {
		t.event(messageEvent(api.TaskSetup, "Building Task Directory"))
	}
	ctx, cancel := t.untilStopped()
	defer cancel()
	if err := t.writePayload(); err != nil {
		return t.hookError("dispatch_payload", err)
	}
	env := t.environment(nil)
	if err := t.fetchArtifacts(ctx, env); err != nil {
		return err
	}
	reservation, err := t.reserve(ctx)
	if err != nil {
		return t.hookError("devices", err)
	}
	env = t.environment(nil)
	vars, err := taskenv.Render(t.task.Templates, env, t.r.dirs, t.task.Name, func(path string) *api.Variable {
		return t.r.n.link.Variable(t.r.current().Namespace, path)
	})
	if err != nil {
		return t.hookError("template", err)
	}
	env = t.environment(vars)
	c, err := t.config(ctx, env, reservation)
	if err != nil {
		return t.hookError("config", err)
	}
	if err := t.collectLogs(c); err != nil {
		return t.hookError("logmon", err)
	}
	t.keep(func(row *taskRow) { row.Config, row.Prepared = c, true })
	return nil
}

// untilStopped is a context that also ends when the task has to stop.
func (t *taskRunner) untilStopped() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.r.n.ctx)
	go func() {
		select {
		case <-t.stopSignal():
		case <-t.ending:
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

// hookError records what failed before the start. It is final, as in Nomad.
func (t *taskRunner) hookError(hook string, err error) error {
	t.event(hookFailedEvent(hook, err))
	return fmt.Errorf("prestart hook %q: %w", hook, err)
}

func (t *taskRunner) environment(template map[string]string) *taskenv.Env {
	t.mu.Lock()
	dev := maps.Clone(t.row.DeviceEnv)
	t.mu.Unlock()
	return taskenv.Build(taskenv.Input{Node: t.r.n.describe(), Alloc: t.r.current(), Task: t.task, Dirs: t.r.dirs,
		Host: taskenv.HostEnv(), Device: dev, Template: template})
}

func (t *taskRunner) writePayload() error {
	job := t.r.current().Job
	if t.task.DispatchPayload == nil || t.task.DispatchPayload.File == "" || len(job.Payload) == 0 {
		return nil
	}
	path, err := taskenv.Inside(t.r.dirs, t.task.Name, filepath.Join("local", t.task.DispatchPayload.File))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, job.Payload, 0o644)
}

func (t *taskRunner) fetchArtifacts(ctx context.Context, env *taskenv.Env) error {
	if len(t.task.Artifacts) == 0 || t.row.Prepared {
		return nil
	}
	e := newEvent(api.TaskDownloadingArtifacts, "")
	e.DisplayMessage = "Client is downloading artifacts"
	t.event(e)
	if err := taskenv.Fetch(ctx, t.task.Artifacts, env, t.r.dirs, t.task.Name); err != nil {
		t.event(artifactFailureEvent(err))
		return driver.Recoverable(err)
	}
	return nil
}

// reserve asks the device plugins for what the task was given, once in an
// allocation's life.
func (t *taskRunner) reserve(ctx context.Context) (*device.Reservation, error) {
	all := &device.Reservation{}
	given := t.r.current().AllocatedResources
	if given == nil || given.Tasks[t.task.Name] == nil {
		return all, nil
	}
	t.mu.Lock()
	cached, env := t.reserved, t.row.DeviceEnv
	t.mu.Unlock()
	if cached != nil {
		return cached, nil
	}
	if env != nil {
		return &device.Reservation{Env: env}, nil // from before a restart of the cluster
	}
	for _, d := range given.Tasks[t.task.Name].Devices {
		inst := t.r.n.deviceOwner(d)
		if inst == nil {
			return nil, fmt.Errorf("failed to reserve device %s/%s/%s: no plugin of this node has it", d.Vendor, d.Type, d.Name)
		}
		res, err := reserveOn(ctx, inst, d.DeviceIDs)
		if err != nil {
			return nil, fmt.Errorf("failed to reserve device %s/%s/%s: %w", d.Vendor, d.Type, d.Name, err)
		}
		if all.Env == nil {
			all.Env = map[string]string{}
		}
		maps.Copy(all.Env, res.Env)
		all.Mounts = append(all.Mounts, res.Mounts...)
		all.Devices = append(all.Devices, res.Devices...)
	}
	t.mu.Lock()
	t.reserved = all
	t.row.DeviceEnv = all.Env
	t.mu.Unlock()
	return all, nil
}

func reserveOn(ctx context.Context, inst instance, ids []string) (*device.Reservation, error) {
	for {
		p, err := inst.Process(ctx)
		if err != nil {
			return nil, err
		}
		res, err := p.Device().Reserve(ctx, ids)
		if err != nil && ctx.Err() == nil && plugins.Died(p, err) {
			continue
		}
		return res, err
	}
}

// deviceOwner finds the plugin that told of a device group.
func (n *Node) deviceOwner(d *api.AllocatedDeviceResource) instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, groups := range n.print.devices {
		for _, g := range groups {
			if g.Vendor == d.Vendor && g.Type == d.Type && g.Name == d.Name {
				return n.plugins[name]
			}
		}
	}
	return nil
}

// config is what the driver is asked to start.
func (t *taskRunner) config(ctx context.Context, env *taskenv.Env, res *device.Reservation) (*driver.TaskConfig, error) {
	inst := t.r.n.plugins[t.task.Driver]
	if inst == nil || inst.Info.Type != base.TypeDriver {
		return nil, fmt.Errorf("this node has no driver %q", t.task.Driver)
	}
	encoded, err := t.encodeConfig(ctx, inst, env)
	if err != nil {
		return nil, err
	}
	a := t.r.current()
	vars := maps.Clone(env.Vars)
	vars[MarkEnv] = t.r.n.cfg.Dir
	c := &driver.TaskConfig{
		ID:   a.ID + "/" + t.task.Name + "/" + strings.ReplaceAll(uuid.NewString(), "-", "")[:8],
		Name: t.task.Name, DriverConfig: encoded, Env: vars, DeviceEnv: env.Device, User: t.task.User, AllocDir: t.r.dirs.Alloc,
		StdoutPath: "/dev/null", StderrPath: "/dev/null", Group: a.TaskGroup, JobName: *a.Job.Name, JobID: a.JobID, AllocID: a.ID,
		Namespace: a.Namespace, NodeName: t.r.n.cfg.Name, NodeID: t.r.n.id, Resources: t.resources(a),
	}
	if !t.logsDisabled() {
		c.StdoutPath, c.StderrPath = t.fifo("stdout"), t.fifo("stderr")
	}
	for _, m := range res.Mounts {
		c.Mounts = append(c.Mounts, driver.Mount{TaskPath: m.TaskPath, HostPath: m.HostPath, ReadOnly: m.ReadOnly})
	}
	for _, d := range res.Devices {
		c.Devices = append(c.Devices, driver.Device{TaskPath: d.TaskPath, HostPath: d.HostPath, Permissions: d.Permissions})
	}
	return c, nil
}

func (t *taskRunner) encodeConfig(ctx context.Context, inst instance, env *taskenv.Env) ([]byte, error) {
	for {
		p, err := inst.Process(ctx)
		if err != nil {
			return nil, err
		}
		spec, err := p.Driver().TaskSchema(ctx)
		if err != nil {
			if ctx.Err() == nil && plugins.Died(p, err) {
				continue
			}
			return nil, err
		}
		encoded, err := schema.EncodeTemplates(spec, t.task.Config, env.Variables())
		if err != nil {
			return nil, fmt.Errorf("the task's config block: %w", err)
		}
		return encoded, nil
	}
}

func (t *taskRunner) resources(a *api.Allocation) driver.Resources {
	var r driver.Resources
	if a.AllocatedResources == nil {
		return r
	}
	if got := a.AllocatedResources.Tasks[t.task.Name]; got != nil {
		r.CPUShares, r.LinuxShares = got.Cpu.CpuShares, got.Cpu.CpuShares
		r.MemoryMB, r.MemoryMaxMB = got.Memory.MemoryMB, got.Memory.MemoryMaxMB
		r.MemoryLimit = max(r.MemoryMB, r.MemoryMaxMB) << 20
		r.CPUFraction = float64(r.CPUShares) / float64(max(1, t.r.n.cfg.CPUMHz))
	}
	for _, p := range a.AllocatedResources.Shared.Ports {
		r.Ports = append(r.Ports, driver.Port{Label: p.Label, Value: int32(p.Value), To: int32(p.To), HostIP: p.HostIP})
	}
	return r
}

func (t *taskRunner) logsDisabled() bool {
	l := t.task.LogConfig
	return l != nil && l.Disabled != nil && *l.Disabled
}

func (t *taskRunner) fifo(kind string) string {
	return filepath.Join(t.r.dirs.Logs(), "."+t.task.Name+"."+kind+".fifo")
}

func (t *taskRunner) streams(c *driver.TaskConfig) []logmon.Stream {
	files, mib := 10, 10
	if l := t.task.LogConfig; l != nil {
		if l.MaxFiles != nil {
			files = *l.MaxFiles
		}
		if l.MaxFileSizeMB != nil {
			mib = *l.MaxFileSizeMB
		}
	}
	var list []logmon.Stream
	for kind, path := range map[string]string{"stdout": c.StdoutPath, "stderr": c.StderrPath} {
		if path != "/dev/null" {
			list = append(list, logmon.Stream{FIFO: path, Base: filepath.Join(t.r.dirs.Logs(), t.task.Name+"."+kind),
				MaxFiles: files, MaxBytes: int64(mib) << 20})
		}
	}
	return list
}

func (t *taskRunner) collectLogs(c *driver.TaskConfig) error {
	for _, s := range t.streams(c) {
		if err := logmon.MakeFIFO(s.FIFO); err != nil {
			return err
		}
		if err := t.r.n.logs.call(t.r.n.ctx, func(l *logmon.Client) error { return l.Collect(s) }); err != nil {
			return err
		}
	}
	return nil
}

// startOrRecover has the driver start the task, or take it up again if it was
// started before this process was.
func (t *taskRunner) startOrRecover(inst instance) error {
	t.mu.Lock()
	c, h := t.row.Config, t.row.Handle
	t.mu.Unlock()
	if err := t.collectLogs(c); err != nil {
		return driver.Recoverable(err)
	}
	if h != nil {
		return t.recover(inst, h)
	}
	for {
		p, err := inst.Process(t.r.n.ctx)
		if err != nil {
			return err
		}
		handle, _, err := p.Driver().StartTask(t.r.n.ctx, c)
		if err == nil {
			t.change(func(row *taskRow) {
				row.Handle = handle
				row.State.State = "running"
				row.State.StartedAt = time.Now().UTC()
			}, startedEvent())
			return nil
		}
		if t.r.n.ctx.Err() != nil {
			return err
		}
		if plugins.Died(p, err) {
			continue // the next process gets the same configuration
		}
		t.event(driverFailureEvent(err))
		return err
	}
}

// errLost means that a task that ran before a restart of the cluster does not
// run any more, and nobody knows how it ended. It is started anew, which does
// not count as a restart.
var errLost = errors.New("the task was lost while the node was away")

// recover takes up a task after a restart of the cluster. The driver does not
// get its configuration again, as in Nomad.
func (t *taskRunner) recover(inst instance, h *driver.Handle) error {
	bare := *h
	if h.Config != nil {
		c := *h.Config
		c.DriverConfig = nil
		bare.Config = &c
	}
	for {
		p, err := inst.Process(t.r.n.ctx)
		if err != nil {
			return err
		}
		err = p.Driver().RecoverTask(t.r.n.ctx, &bare)
		if err == nil || t.r.n.ctx.Err() != nil {
			return err
		}
		if plugins.Died(p, err) {
			continue
		}
		t.event(messageEvent("Failed Restoring Task", "failed to restore task; will not run until server is contacted: "+err.Error()))
		_ = p.Driver().DestroyTask(t.r.n.ctx, h.Config.ID, true)
		return errLost
	}
}

// awaitExit waits for the task's exit through deaths of the plugin.
func (t *taskRunner) awaitExit(ctx context.Context, inst instance) *driver.ExitResult {
	id := t.taskID()
	for {
		p, err := inst.Process(ctx)
		if err != nil {
			return nil
		}
		exit, err := p.Driver().WaitTask(ctx, id)
		if err == nil {
			return exit
		}
		if ctx.Err() != nil {
			return nil
		}
		if !plugins.Died(p, err) {
			return &driver.ExitResult{Err: err}
		}
		if err := t.recoverAfterCrash(ctx, inst); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return &driver.ExitResult{Err: fmt.Errorf("the driver lost the task when its process ended: %w", err)}
		}
	}
}

func (t *taskRunner) recoverAfterCrash(ctx context.Context, inst instance) error {
	t.mu.Lock()
	h := t.row.Handle
	t.mu.Unlock()
	if h == nil {
		return errors.New("it has no handle")
	}
	for {
		p, err := inst.Process(ctx)
		if err != nil {
			return err
		}
		err = p.Driver().RecoverTask(ctx, h)
		if err == nil || ctx.Err() != nil || !plugins.Died(p, err) {
			return err
		}
	}
}

// destroy has the driver forget an ended task, and its logs read to the end.
func (t *taskRunner) destroy(inst instance) {
	t.mu.Lock()
	c := t.row.Config
	t.mu.Unlock()
	if p := inst.Current(); p != nil {
		if err := p.Driver().DestroyTask(t.r.n.ctx, c.ID, true); err != nil {
			t.log.Debug("destroying the task", "error", err)
		}
	}
	for _, s := range t.streams(c) {
		if err := t.r.n.logs.call(t.r.n.ctx, func(l *logmon.Client) error { return l.Finish(s) }); err != nil {
			t.log.Warn("the last log lines may be missing", "error", err)
		}
	}
}

func (t *taskRunner) collectStats(ctx context.Context, inst instance) {
	for ctx.Err() == nil {
		p, err := inst.Process(ctx)
		if err != nil {
			return
		}
		err = p.Driver().TaskStats(ctx, t.taskID(), time.Second, func(s driver.TaskStats) error {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.stats = &s
			return nil
		})
		if ctx.Err() == nil && !errors.Is(err, host.ErrExited) {
			t.log.Trace("statistics ended and are asked for again", "error", err)
		}
		t.r.n.pauseUntil(ctx, time.Second)
	}
}

func (n *Node) pauseUntil(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
