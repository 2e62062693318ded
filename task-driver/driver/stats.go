package driver

import (
	"context"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

// TaskStats implements driver.Plugin.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration, publish func(driver.TaskStats) error) error {
	h, err := d.find(id)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	before := measure(h.running)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ended:
			return nil
		case <-tick.C:
		}
		now := measure(h.running)
		if err := publish(driver.TaskStats{ID: id, Time: now.at, Total: now.since(before, d.coreMHz())}); err != nil {
			return err
		}
		before = now
	}
}

// reading is a task's use at a moment.
type reading struct {
	at           time.Time
	user, system *time.Duration
	usage        driver.Usage
}

// measure reads the control group's counters, or adds up the processes where
// there is none.
func measure(r task.Running) reading {
	now := reading{at: time.Now()}
	if u, ok := r.Group.Usage(); ok {
		now.user, now.system = u.User, u.System
		now.usage.Memory = driver.MemoryUsage{RSS: u.RSS, Cache: u.Cache, Usage: u.Usage, MaxUsage: u.MaxUsage, Swap: u.Swap}
		now.usage.CPU.ThrottledPeriods = u.ThrottledPeriods
		if u.Throttled != nil {
			ns := uint64(u.Throttled.Nanoseconds())
			now.usage.CPU.ThrottledTime = &ns
		}
		return now
	}
	u := process.UsageOf(process.Descendants(r.Supervisor.PID))
	now.user, now.system = &u.User, &u.System
	now.usage.Memory = driver.MemoryUsage{RSS: &u.RSSBytes, Usage: &u.RSSBytes}
	return now
}

// since is the use with the CPU time since an earlier reading. MHz is the speed
// of a core, 0 if it is not known.
func (r reading) since(before reading, mhz float64) driver.Usage {
	u := r.usage
	elapsed := r.at.Sub(before.at)
	if elapsed <= 0 || r.user == nil || r.system == nil || before.user == nil || before.system == nil {
		return u
	}
	percent := func(now, then time.Duration) *float64 {
		// Processes that end take their time with them where there is no group.
		p := 100 * float64(max(now-then, 0)) / float64(elapsed)
		return &p
	}
	u.CPU.UserMode, u.CPU.SystemMode = percent(*r.user, *before.user), percent(*r.system, *before.system)
	total := *u.CPU.UserMode + *u.CPU.SystemMode
	u.CPU.Percent = &total
	if mhz > 0 {
		ticks := total / 100 * mhz
		u.CPU.TotalTicks = &ticks
	}
	return u
}

// coreMHz is the mean speed of the node's cores as the agent sees it, 0 if it
// has not said.
func (d *Driver) coreMHz() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.agent == nil || d.agent.Topology == nil {
		return 0
	}
	var sum, n float64
	for _, c := range d.agent.Topology.Cores {
		if s := speed(c); s > 0 && !c.Disabled {
			sum += s
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

func speed(c base.Core) float64 {
	for _, s := range []uint64{c.BaseSpeed, c.MaxSpeed, c.GuessSpeed} {
		if s > 0 {
			return float64(s)
		}
	}
	return 0
}
