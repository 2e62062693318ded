package scheduler

import (
	"time"

	"github.com/hashicorp/nomad/api"
)

// rescheduleSlack is how much too early a reschedule may be, so that a timer
// that fires a moment early does not wait for another round.
const rescheduleSlack = time.Second

// verdict says what becomes of a failed allocation.
type verdict int

const (
	keepFailed verdict = iota // its policy allows no replacement
	replaceNow
	replaceLater
)

// reschedule applies a group's policy to a failed allocation. at is when the
// replacement is due.
func (e *evaluation) reschedule(a *api.Allocation, policy *api.ReschedulePolicy) (v verdict, at time.Time) {
	if d := a.DesiredTransition; d.ForceReschedule != nil && *d.ForceReschedule {
		return replaceNow, e.Now
	}
	if !MayReschedule(a, policy) {
		return keepFailed, at
	}
	at = FailTime(a).Add(rescheduleDelay(a, policy))
	if a.FollowupEvalID == e.Eval.ID || !at.After(e.Now.Add(rescheduleSlack)) {
		return replaceNow, e.Now
	}
	return replaceLater, at
}

// MayReschedule reports whether a policy allows one more replacement of an
// allocation.
func MayReschedule(a *api.Allocation, policy *api.ReschedulePolicy) bool {
	if policy == nil {
		return false
	}
	return *policy.Unlimited || attemptsSince(a, FailTime(a).Add(-*policy.Interval)) < *policy.Attempts
}

// FailTime is when an allocation's last task ended, or when it was last changed.
func FailTime(a *api.Allocation) time.Time {
	var last time.Time
	for _, ts := range a.TaskStates {
		if ts.FinishedAt.After(last) {
			last = ts.FinishedAt
		}
	}
	if last.IsZero() {
		return time.Unix(0, a.ModifyTime)
	}
	return last
}

func attemptsSince(a *api.Allocation, since time.Time) int {
	if a.RescheduleTracker == nil {
		return 0
	}
	n := 0
	for _, ev := range a.RescheduleTracker.Events {
		if time.Unix(0, ev.RescheduleTime).After(since) {
			n++
		}
	}
	return n
}

// rescheduleDelay grows with the reschedules so far, as the policy's function
// says, up to its max_delay. An allocation that then ran for longer than
// max_delay starts over.
func rescheduleDelay(a *api.Allocation, p *api.ReschedulePolicy) time.Duration {
	var events []*api.RescheduleEvent
	if a.RescheduleTracker != nil {
		events = a.RescheduleTracker.Events
	}
	if n := len(events); n > 0 && *p.MaxDelay > 0 && *p.DelayFunction != "constant" &&
		FailTime(a).Sub(time.Unix(0, events[n-1].RescheduleTime)) > *p.MaxDelay {
		return *p.Delay
	}
	return backoff(*p.DelayFunction, *p.Delay, *p.MaxDelay, len(events))
}

func backoff(function string, delay, ceiling time.Duration, n int) time.Duration {
	if function == "constant" {
		return delay
	}
	last, d := delay, delay
	for range n {
		switch {
		case ceiling > 0 && d >= ceiling:
			return ceiling
		case function == "fibonacci":
			last, d = d, last+d
		default:
			d *= 2
		}
		if d <= 0 { // overflow
			return max(delay, ceiling)
		}
	}
	if ceiling > 0 && d > ceiling {
		return ceiling
	}
	return d
}

// followUp returns the evaluation that will look at an allocation again at a
// time, one for all that fall due together.
func (e *evaluation) followUp(at time.Time) *api.Evaluation {
	for _, f := range e.plan.FollowUps {
		if gap := at.Sub(f.WaitUntil); gap >= 0 && gap < 5*time.Second {
			return f
		}
	}
	f := &api.Evaluation{
		ID: e.NewID(), Namespace: e.Eval.Namespace, Priority: e.Eval.Priority, Type: *e.Job.Type,
		TriggeredBy: "alloc-failure", JobID: *e.Job.ID, JobModifyIndex: *e.Job.ModifyIndex,
		Status: "pending", StatusDescription: "created for delayed rescheduling", WaitUntil: at,
		PreviousEval: e.Eval.ID,
	}
	e.plan.FollowUps = append(e.plan.FollowUps, f)
	return f
}
