package reslice

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// Phase is where a board is on its way to a layout.
type Phase string

// The phases.
const (
	Desired   Phase = "desired"   // asked for; the board was not looked at yet
	Cordoned  Phase = "cordoned"  // no new work; work that was just placed there may still begin
	Waiting   Phase = "waiting"   // for processes to end, or for a reset
	Moving    Phase = "moving"    // as Waiting, and the processes were asked to leave
	Slicing   Phase = "slicing"   // instances are destroyed and created
	Verifying Phase = "verifying" // all is done, and looked at once more
	Done      Phase = "done"      // the board is as it should be
	Failed    Phase = "failed"    // given up; Reason says why
)

// Settled reports whether nothing more happens by itself.
func (p Phase) Settled() bool { return p == Done || p == Failed }

// Task is what is wanted of one board, and how far that is.
type Task struct {
	// ID tells this task from an earlier one for the same board.
	ID string `json:"id"`
	// Name is what the layout was called when it was asked for.
	Name   string     `json:"name"`
	Layout mig.Layout `json:"layout"`
	// Evict asks the work that is in the way to leave, instead of waiting for
	// its end.
	Evict bool      `json:"evict,omitempty"`
	Asked time.Time `json:"asked"`
	// Deadline is until when it waits for processes or a reset; zero is for
	// ever.
	Deadline time.Time `json:"deadline,omitzero"`

	Phase Phase     `json:"phase"`
	Since time.Time `json:"since"` // of the phase
	// Reason is what it waits for, why it failed, or what came after.
	Reason string `json:"reason,omitempty"`
	// Cordon are the devices that get no new work, since CordonedSince.
	Cordon        []string  `json:"cordon,omitempty"`
	CordonedSince time.Time `json:"cordoned_since,omitzero"`
	// Touched is stored before the first step: from then on the board may be
	// anything between what it was and the layout.
	Touched bool `json:"touched,omitempty"`
	// Steps are how many were tried since the last failure.
	Steps int `json:"steps,omitempty"`
	// Failures are how often a step failed; the next try is not before Retry.
	Failures int       `json:"failures,omitempty"`
	Retry    time.Time `json:"retry,omitzero"`
}

// Limits are how patient a task is. Zero fields are the defaults.
type Limits struct {
	// Settle is how long a device is cordoned before anything is done, so that
	// work which was placed on it just before has begun and is seen. Default
	// 5 s.
	Settle time.Duration
	// Poll is how often a board that waits is looked at. Default 2 s.
	Poll time.Duration
	// Attempts are how often a step may fail before the task does. Default 5.
	Attempts int
	// Backoff is the time before the second attempt; it doubles with each.
	// Default 5 s.
	Backoff time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Settle == 0 {
		l.Settle = 5 * time.Second
	}
	if l.Poll == 0 {
		l.Poll = 2 * time.Second
	}
	if l.Attempts == 0 {
		l.Attempts = 5
	}
	if l.Backoff == 0 {
		l.Backoff = 5 * time.Second
	}
	return l
}

// mostSteps is more than any way between two layouts has: every instance is
// destroyed, the mode changed and every instance created.
const mostSteps = 20

// Action is what is to be done next for a board: a step, or else nothing for
// a while.
type Action struct {
	Step *mig.Step
	// Wait is when to look again. Zero with no step: at once, with a new
	// reading.
	Wait time.Duration
}

// Next is what becomes of a task when its board is read; nil is a board that
// the driver does not list. The new task must be stored before the action is
// carried out.
func (t Task) Next(b *mig.Board, now time.Time, l Limits) (Task, Action) {
	l = l.withDefaults()
	if b == nil {
		if t.Phase.Settled() {
			return t, Action{Wait: l.Poll}
		}
		return t.wait(now, l, "waits for the driver to list the board")
	}
	plan, err := mig.NewPlan(*b, t.Layout)
	if err != nil {
		if t.Phase.Settled() {
			return t, Action{Wait: l.Poll}
		}
		return t.to(Failed, now, err.Error()), Action{Wait: l.Poll}
	}
	if len(plan.Steps) == 0 {
		return t.complete(now, l)
	}
	switch t.Phase {
	case Done:
		// Instances do not survive a restart of the machine or a reset of the
		// board: they are made again. Somebody's own are left alone.
		if destroys(plan) {
			return t.to(Done, now, "reached, and changed by somebody since"), Action{Wait: l.Poll}
		}
		t.Deadline = time.Time{}
		t = t.to(Desired, now, "")
	case Failed:
		return t, Action{Wait: l.Poll}
	case Verifying:
		t = t.failure(now, l, fmt.Errorf("the board is not as it should be after all was done: %s is left to do", plan.Steps[0]))
		if t.Phase == Failed {
			return t, Action{Wait: l.Poll}
		}
	}
	return t.advance(*b, plan, now, l)
}

func destroys(p mig.Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s mig.Step) bool { return s.Op == mig.Destroy || s.Op == mig.Disable })
}

// complete is for a board that is as it should be.
func (t Task) complete(now time.Time, l Limits) (Task, Action) {
	switch t.Phase {
	case Slicing:
		return t.to(Verifying, now, ""), Action{}
	case Done:
		return t.to(Done, now, ""), Action{Wait: l.Poll}
	}
	t.Cordon, t.Touched, t.Steps, t.Failures = nil, false, 0, 0
	t.CordonedSince, t.Retry = time.Time{}, time.Time{}
	return t.to(Done, now, ""), Action{Wait: l.Poll}
}

// advance is for a board where something is left to do.
func (t Task) advance(b mig.Board, plan mig.Plan, now time.Time, l Limits) (Task, Action) {
	affected := plan.Affected(b)
	fresh := slices.ContainsFunc(affected, func(id string) bool { return !slices.Contains(t.Cordon, id) })
	if fresh && !t.Touched {
		t.Cordon, t.CordonedSince = affected, now
		return t.to(Cordoned, now, ""), Action{Wait: l.Settle}
	}
	t.Cordon = affected
	if left := t.CordonedSince.Add(l.Settle).Sub(now); left > 0 && len(affected) > 0 {
		return t, Action{Wait: left}
	}
	if n := len(plan.InTheWay(b)); n > 0 {
		return t.wait(now, l, "waits for "+count(n, "process", "processes"))
	}
	if plan.Steps[0].Op == mig.Reset {
		return t.wait(now, l, "waits for a reset of the board, without which its MIG mode does not change (nvidia-smi --gpu-reset -i "+b.ID+")")
	}
	if left := t.Retry.Sub(now); left > 0 {
		return t, Action{Wait: left}
	}
	if t.Steps >= mostSteps {
		t = t.failure(now, l, fmt.Errorf("the driver reports success, but the board does not change: %s is still left to do", plan.Steps[0]))
		return t, Action{Wait: l.Poll}
	}
	t = t.to(Slicing, now, "")
	t.Touched = true
	t.Steps++
	step := plan.Steps[0]
	return t, Action{Step: &step}
}

// wait is for something that others must do, until the deadline.
func (t Task) wait(now time.Time, l Limits, reason string) (Task, Action) {
	if !t.Deadline.IsZero() && !now.Before(t.Deadline) {
		waited := t.Deadline.Sub(t.Asked).Round(time.Second)
		if !t.Touched {
			t.Cordon = nil
			return t.to(Failed, now, fmt.Sprintf("given up after %s: it %s; nothing was changed", waited, reason)), Action{Wait: l.Poll}
		}
		return t.to(Failed, now, fmt.Sprintf("given up after %s: it %s", waited, reason)), Action{Wait: l.Poll}
	}
	phase := Waiting
	if t.Evict {
		phase = Moving
	}
	return t.to(phase, now, reason), Action{Wait: l.Poll}
}

// StepDone is what becomes of a task when a step returned.
func (t Task) StepDone(err error, now time.Time, l Limits) Task {
	l = l.withDefaults()
	switch {
	case err == nil:
		return t
	case errors.Is(err, mig.ErrInUse):
		// The driver noticed a process that it does not list, or one that came
		// just now. That is no failure; it is waited for.
		t.Retry = now.Add(l.Poll)
		t, _ = t.wait(now, l, "waits for a process that has it open")
		return t
	}
	return t.failure(now, l, err)
}

// failure counts a failed attempt, after which there may be another.
func (t Task) failure(now time.Time, l Limits, err error) Task {
	t.Failures++
	t.Steps = 0
	if t.Failures >= l.Attempts {
		return t.to(Failed, now, fmt.Sprintf("given up after %s: %v", count(t.Failures, "attempt", "attempts"), err))
	}
	t.Retry = now.Add(l.Backoff << (t.Failures - 1))
	return t.to(Slicing, now, fmt.Sprintf("attempt %d of %d failed: %v", t.Failures, l.Attempts, err))
}

func (t Task) to(p Phase, now time.Time, reason string) Task {
	if t.Phase != p {
		t.Phase, t.Since = p, now
	}
	t.Reason = reason
	return t
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Faults are those of the devices that must not get new work.
func (t Task) Faults(board string) map[gpu.ID]gpu.Fault {
	faults := make(map[gpu.ID]gpu.Fault)
	what := "MIG layout " + t.Name
	if t.Phase == Done || t.Phase == Failed && !t.Touched {
		return faults
	}
	if t.Phase == Failed {
		faults[gpu.ID(board)] = gpu.Fault{
			Reason: fmt.Sprintf("cordoned: %s failed: %s; apply a layout again to retry", what, t.Reason),
			Action: gpustatus.Keep,
		}
		return faults
	}
	reason := fmt.Sprintf("cordoned: %s is being applied", what)
	if t.Reason != "" {
		reason = fmt.Sprintf("cordoned: %s %s", what, t.Reason)
	}
	action := gpustatus.Keep
	if t.Evict {
		action = gpustatus.Move
	}
	for _, id := range t.Cordon {
		faults[gpu.ID(id)] = gpu.Fault{Reason: reason, Action: action}
	}
	// New slices are not for use before all is verified. Those that the layout
	// keeps are the board's too; what runs there stays.
	if _, whole := faults[gpu.ID(board)]; t.Touched && !whole {
		faults[gpu.ID(board)] = gpu.Fault{Reason: reason, Action: gpustatus.Keep}
	}
	return faults
}
