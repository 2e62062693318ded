package client

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

// Error is a refusal, with the HTTP status that Nomad gives it.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// HTTPStatus is the status to answer with.
func (e *Error) HTTPStatus() int { return e.Status }

func refused(status int, format string, args ...any) error {
	return &Error{status, fmt.Sprintf(format, args...)}
}

// AllocDir is an allocation's folder, which may be gone.
func (n *Node) AllocDir(id string) (string, error) {
	if strings.ContainsAny(id, `/\`) || !filepath.IsLocal(id) {
		return "", refused(http.StatusNotFound, "Unknown allocation: %s", id)
	}
	return filepath.Join(n.cfg.Dir, allocsDir, id), nil
}

func (n *Node) live(id string) (*allocRunner, error) {
	if r := n.runner(id); r != nil {
		return r, nil
	}
	return nil, refused(http.StatusNotFound, "Unknown allocation %q", id)
}

// AllocChecks is the status of an allocation's checks, by ID.
func (n *Node) AllocChecks(id string) (map[string]api.AllocCheckStatus, error) {
	r, err := n.live(id)
	if err != nil {
		return nil, err
	}
	checks, _ := r.services.checks()
	return checks, nil
}

// RestartAlloc has a task restarted, or with task "" all that run.
func (n *Node) RestartAlloc(id, task string, all bool) error {
	r, err := n.live(id)
	if err != nil {
		return err
	}
	if a := r.current(); r.ended() || a.DesiredStatus != api.AllocDesiredStatusRun {
		return refused(http.StatusInternalServerError, "restart of an alloc that should not run")
	}
	if task != "" {
		t, err := r.mustTask(task)
		if err != nil {
			return refused(http.StatusBadRequest, "Could not find task runner for task: %s", task)
		}
		if s := t.snapshot(); s.State != "running" {
			return refused(http.StatusInternalServerError, "Task not running")
		}
		t.askRestart("User requested task to restart")
		return nil
	}
	if all {
		for _, t := range r.tasks {
			if t.snapshot().State == "dead" {
				return refused(http.StatusNotImplemented, "restarting tasks that have ended is not part of this development cluster")
			}
		}
	}
	for _, t := range r.tasks {
		if t.snapshot().State == "running" {
			t.askRestart("User requested running tasks to restart")
		}
	}
	return nil
}

// askRestart has a running task stopped and started again.
func (t *taskRunner) askRestart(reason string) {
	select {
	case t.restart <- reason:
	default: // one is under way
	}
}

// SignalAlloc sends a signal to a task, or with task "" to all that run.
func (n *Node) SignalAlloc(id, task, signal string) error {
	r, err := n.live(id)
	if err != nil {
		return err
	}
	if signal == "" {
		return refused(http.StatusBadRequest, "must provide a signal")
	}
	found := false
	for _, t := range r.tasks {
		if task != "" && t.task.Name != task {
			continue
		}
		found = true
		if t.snapshot().State != "running" {
			if task == "" {
				continue
			}
			return refused(http.StatusInternalServerError, "Task not running")
		}
		p := n.plugins[t.task.Driver].Current()
		if p == nil {
			return refused(http.StatusInternalServerError, "the driver %q is being restarted", t.task.Driver)
		}
		t.event(signalingEvent(signal, "User requested to signal the task"))
		if err := p.Driver().SignalTask(n.ctx, t.taskID(), signal); err != nil {
			return err
		}
	}
	if !found {
		return refused(http.StatusBadRequest, "Task not found")
	}
	return nil
}

// ExecAlloc runs a command beside a task and returns its exit code.
func (n *Node) ExecAlloc(ctx context.Context, id, task string, x driver.ExecStreams) (int, error) {
	r, err := n.live(id)
	if err != nil {
		return 0, err
	}
	t, err := r.mustTask(task)
	if err != nil {
		return 0, refused(http.StatusBadRequest, "unknown task name %q", task)
	}
	if s := t.snapshot(); s.State != "running" {
		return 0, refused(http.StatusNotFound, "task %q is not running.", task)
	}
	p, err := n.plugins[t.task.Driver].Process(ctx)
	if err != nil {
		return 0, err
	}
	exit, err := p.Driver().ExecTaskStreaming(ctx, t.taskID(), x)
	if err != nil {
		return 0, err
	}
	if exit.Err != nil {
		return 0, exit.Err
	}
	return exit.ExitCode, nil
}

// CollectAlloc removes an ended allocation's files.
func (n *Node) CollectAlloc(id string) error {
	if r := n.runner(id); r != nil && !r.ended() {
		return refused(http.StatusInternalServerError, "alloc %q has not ended and cannot be collected", id)
	}
	return n.collectAlloc(id)
}

// AllocStats is what an allocation's tasks use.
func (n *Node) AllocStats(id string) (*api.AllocResourceUsage, error) {
	r, err := n.live(id)
	if err != nil {
		return nil, err
	}
	sum := &api.AllocResourceUsage{Tasks: map[string]*api.TaskResourceUsage{}, Timestamp: time.Now().UnixNano(),
		ResourceUsage: &api.ResourceUsage{MemoryStats: &api.MemoryStats{}, CpuStats: &api.CpuStats{}}}
	given := r.current().AllocatedResources
	for _, t := range r.tasks {
		t.mu.Lock()
		st := t.stats
		t.mu.Unlock()
		if st == nil {
			continue
		}
		u := &api.TaskResourceUsage{ResourceUsage: usage(st.Total), Timestamp: st.Time.UnixNano(), Pids: map[string]*api.ResourceUsage{}}
		for pid, p := range st.Processes {
			u.Pids[pid] = usage(p)
		}
		if given != nil && given.Tasks[t.task.Name] != nil {
			u.ResourceUsage.DeviceStats = n.statsOf(given.Tasks[t.task.Name].Devices, false)
		}
		sum.Tasks[t.task.Name] = u
		addUsage(sum.ResourceUsage, u.ResourceUsage)
	}
	return sum, nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func usage(u driver.Usage) *api.ResourceUsage {
	r := &api.ResourceUsage{
		MemoryStats: &api.MemoryStats{RSS: value(u.Memory.RSS), Cache: value(u.Memory.Cache), Swap: value(u.Memory.Swap), Usage: value(u.Memory.Usage),
			MaxUsage: value(u.Memory.MaxUsage), KernelUsage: value(u.Memory.KernelUsage), KernelMaxUsage: value(u.Memory.KernelMaxUsage)},
		CpuStats: &api.CpuStats{SystemMode: value(u.CPU.SystemMode), UserMode: value(u.CPU.UserMode), TotalTicks: value(u.CPU.TotalTicks),
			Percent: value(u.CPU.Percent), ThrottledPeriods: value(u.CPU.ThrottledPeriods), ThrottledTime: value(u.CPU.ThrottledTime)},
	}
	for name, set := range map[string]bool{"RSS": u.Memory.RSS != nil, "Cache": u.Memory.Cache != nil, "Swap": u.Memory.Swap != nil,
		"Usage": u.Memory.Usage != nil, "Max Usage": u.Memory.MaxUsage != nil} {
		if set {
			r.MemoryStats.Measured = append(r.MemoryStats.Measured, name)
		}
	}
	for name, set := range map[string]bool{"System Mode": u.CPU.SystemMode != nil, "User Mode": u.CPU.UserMode != nil,
		"Percent": u.CPU.Percent != nil, "Throttled Periods": u.CPU.ThrottledPeriods != nil, "Throttled Time": u.CPU.ThrottledTime != nil} {
		if set {
			r.CpuStats.Measured = append(r.CpuStats.Measured, name)
		}
	}
	return r
}

func addUsage(sum, u *api.ResourceUsage) {
	sum.MemoryStats.RSS += u.MemoryStats.RSS
	sum.MemoryStats.Cache += u.MemoryStats.Cache
	sum.MemoryStats.Usage += u.MemoryStats.Usage
	sum.MemoryStats.MaxUsage += u.MemoryStats.MaxUsage
	sum.CpuStats.SystemMode += u.CpuStats.SystemMode
	sum.CpuStats.UserMode += u.CpuStats.UserMode
	sum.CpuStats.TotalTicks += u.CpuStats.TotalTicks
	sum.CpuStats.Percent += u.CpuStats.Percent
	sum.DeviceStats = append(sum.DeviceStats, u.DeviceStats...)
}

func (n *Node) setStats(plugin string, groups []device.GroupStats) {
	if len(groups) == 0 {
		return // keeps what was there
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.devStats[plugin] = groups
}

// statsOf are the device statistics of given instances, or of all.
func (n *Node) statsOf(devices []*api.AllocatedDeviceResource, all bool) []*api.DeviceGroupStats {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := func(g device.GroupStats, id string) bool {
		for _, d := range devices {
			if d.Vendor != g.Vendor || d.Type != g.Type || d.Name != g.Name {
				continue
			}
			for _, have := range d.DeviceIDs {
				if have == id {
					return true
				}
			}
		}
		return false
	}
	var out []*api.DeviceGroupStats
	for _, groups := range n.devStats {
		for _, g := range groups {
			og := &api.DeviceGroupStats{Vendor: g.Vendor, Type: g.Type, Name: g.Name, InstanceStats: map[string]*api.DeviceStats{}}
			for id, st := range g.Instances {
				if all || wanted(g, id) {
					og.InstanceStats[id] = deviceStats(st)
				}
			}
			if len(og.InstanceStats) > 0 {
				out = append(out, og)
			}
		}
	}
	return out
}

func deviceStats(st device.InstanceStats) *api.DeviceStats {
	d := &api.DeviceStats{Timestamp: st.Time, Stats: statObject(st.Stats)}
	if st.Summary != nil {
		d.Summary = statValue(*st.Summary)
	}
	for name, nested := range st.Nested {
		if d.Stats.Nested == nil {
			d.Stats.Nested = map[string]*api.StatObject{}
		}
		d.Stats.Nested[name] = statObject(nested)
	}
	return d
}

func statObject(m map[string]device.Stat) *api.StatObject {
	o := &api.StatObject{Attributes: map[string]*api.StatValue{}}
	for k, v := range m {
		o.Attributes[k] = statValue(v)
	}
	return o
}

func statValue(s device.Stat) *api.StatValue {
	return &api.StatValue{FloatNumeratorVal: s.Float, FloatDenominatorVal: s.FloatDenominator, IntNumeratorVal: s.Int,
		IntDenominatorVal: s.IntDenominator, StringVal: s.String, BoolVal: s.Bool, Unit: s.Unit, Desc: s.Description}
}

// HostStats is the node's device statistics, and what this machine tells of
// its memory.
func (n *Node) HostStats() *api.HostStats {
	h := &api.HostStats{Memory: &api.HostMemoryStats{}, DeviceStats: n.statsOf(nil, true)}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return h
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			h.Memory.Total = kib << 10
		case "MemAvailable:":
			h.Memory.Available = kib << 10
		case "MemFree:":
			h.Memory.Free = kib << 10
		}
	}
	h.Memory.Used = h.Memory.Total - h.Memory.Available
	return h
}
