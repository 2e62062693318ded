package simulated

import (
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// timeline is a script with the times at which its blocks were first read: what
// is so at any moment follows from it. It is never changed.
type timeline struct {
	booted time.Time // when the driver was first loaded
	steps  []placedStep
}

type placedStep struct {
	step
	origin time.Time
}

// elapsed is how long a step's clock has run.
func (s placedStep) elapsed(now time.Time) time.Duration { return now.Sub(s.origin) }

// active tells whether a step goes on at a moment, and since when.
func (s placedStep) active(now time.Time) (since time.Time, ok bool) {
	after, ok := s.schedule.active(s.elapsed(now))
	return s.origin.Add(after), ok
}

// subject is what a step may be about.
type subject struct {
	id    gpu.ID
	index int
}

// next is when something next begins or ends.
func (t timeline) next(now time.Time) (time.Time, bool) {
	var next time.Time
	for _, s := range t.steps {
		if after, ok := s.schedule.next(s.elapsed(now)); ok {
			if at := s.origin.Add(after); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	return next, !next.IsZero()
}

// loaded is when a board last began anew: with the driver, or by a reset.
func (t timeline) loaded(b subject, now time.Time) time.Time {
	last := t.booted
	for _, s := range t.steps {
		var at time.Time
		n := s.started(s.elapsed(now))
		switch {
		case n == 0:
			continue
		case s.reset && s.isBoard(b.id, b.index):
			at = s.origin.Add(s.start(n - 1))
		case s.driver != nil && s.driver.reload:
			if _, unloaded := s.active(now); unloaded {
				n--
			}
			if n == 0 {
				continue
			}
			at = s.origin.Add(s.start(n-1) + s.lasts)
		default:
			continue
		}
		if at.After(last) {
			last = at
		}
	}
	return last
}

// driver is what is wrong with the driver as a whole.
func (t timeline) driver(now time.Time) driverTrouble {
	var all driverTrouble
	for _, s := range t.steps {
		if s.driver == nil {
			continue
		}
		if _, ok := s.active(now); !ok {
			continue
		}
		all.hang = all.hang || s.driver.hang
		all.delay += s.driver.delay
		switch {
		case s.driver.reload:
			all.reload, all.err = true, reasonUnloaded
		case all.err == "":
			all.err = s.driver.err
		}
	}
	return all
}

// condition is what is wrong with a board at a moment.
type condition struct {
	// reason, gone, lost and hung are as in a fault.
	reason           string
	gone, lost, hung bool
	stalled          time.Time // since when; zero is not
	loaded           time.Time

	temperatureC, memoryTemperatureC, powerW *int64
	throttle                                 []gpu.ThrottleReason
	pcieGeneration, pcieWidth                *int64
	remapPending, remapFailed                bool
	retirementPending                        bool
	fabricState, recoveryAction              string

	// volatile are counts since the board began anew, aggregate all.
	volatile, aggregate              counters
	powerViolation, thermalViolation time.Duration
	nvlink                           []*fault // that count errors of links, or take them down
	nvlinkTimes                      []int64  // how often each of them began since the board began anew
	nvlinkDown                       []bool   // whether each of them has its links down
}

// condition is that of a board.
func (t timeline) condition(b subject, now time.Time) condition {
	c := condition{loaded: t.loaded(b, now)}
	for _, s := range t.steps {
		if s.fault == nil || !s.isBoard(b.id, b.index) {
			continue
		}
		f := s.fault
		n := int64(s.started(s.elapsed(now)))
		// What began before the board did is forgotten.
		fresh := n - int64(s.startedBefore(c.loaded))
		c.aggregate.add(f, n)
		c.volatile.add(f, fresh)
		since, active := s.active(now)
		active = active && !since.Before(c.loaded)
		if active {
			c.lasting(f, since)
		}
		if f.NVLinkDown || f.nvlinkErrors() {
			c.nvlink = append(c.nvlink, f)
			c.nvlinkTimes = append(c.nvlinkTimes, fresh)
			c.nvlinkDown = append(c.nvlinkDown, active && f.NVLinkDown)
		}
		c.violation(s, now)
	}
	return c
}

// startedBefore is how often a step began before a moment.
func (s placedStep) startedBefore(at time.Time) int {
	return s.started(s.elapsed(at) - 1)
}

// lasting adds what a fault does while it lasts.
func (c *condition) lasting(f *fault, since time.Time) {
	last := func(to **int64, v *int64) {
		if v != nil {
			*to = v
		}
	}
	if f.Reason != "" {
		c.reason = f.Reason
	}
	c.gone, c.lost, c.hung = c.gone || f.Gone, c.lost || f.Lost, c.hung || f.Hang
	if f.Stalled && (c.stalled.IsZero() || since.Before(c.stalled)) {
		c.stalled = since
	}
	last(&c.temperatureC, f.TemperatureC)
	last(&c.memoryTemperatureC, f.MemoryTemperatureC)
	last(&c.powerW, f.PowerW)
	last(&c.pcieGeneration, f.PCIeGeneration)
	last(&c.pcieWidth, f.PCIeWidth)
	for _, t := range f.Throttle {
		if reason := gpu.ThrottleReason(t); !slices.Contains(c.throttle, reason) {
			c.throttle = append(c.throttle, reason)
		}
	}
	c.remapPending, c.remapFailed = c.remapPending || f.RemapPending, c.remapFailed || f.RemapFailed
	c.retirementPending = c.retirementPending || f.RetirementPending
	if f.FabricState != "" {
		c.fabricState = f.FabricState
	}
	if f.RecoveryAction != "" {
		c.recoveryAction = f.RecoveryAction
	}
}

// violation adds for how long a fault has held clocks down.
func (c *condition) violation(s placedStep, now time.Time) {
	if len(s.fault.Throttle) == 0 {
		return
	}
	d := s.total(s.startedBefore(c.loaded), s.elapsed(now))
	for _, t := range s.fault.Throttle {
		switch gpu.ThrottleReason(t) {
		case gpu.ThrottleSWPowerCap, gpu.ThrottleHWPowerBrake:
			c.powerViolation += d
		case gpu.ThrottleSWThermal, gpu.ThrottleHWThermal:
			c.thermalViolation += d
		}
	}
}

// linkDown reports whether a link is down.
func (c condition) linkDown(link int) bool {
	for i, f := range c.nvlink {
		if c.nvlinkDown[i] && f.isAbout(link) {
			return true
		}
	}
	return false
}

// sliceCondition is what is wrong with a slice beside its board's trouble.
type sliceCondition struct {
	reason  string
	gone    bool
	stalled time.Time
}

// slice is the condition of a slice of a board that began anew at a time.
func (t timeline) slice(id gpu.ID, loaded, now time.Time) sliceCondition {
	var c sliceCondition
	for _, s := range t.steps {
		if s.fault == nil || s.target != string(id) {
			continue
		}
		since, ok := s.active(now)
		if !ok || since.Before(loaded) {
			continue
		}
		if s.fault.Reason != "" {
			c.reason = s.fault.Reason
		}
		c.gone = c.gone || s.fault.Gone
		if s.fault.Stalled {
			c.stalled = since
		}
	}
	return c
}
