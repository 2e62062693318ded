package client

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/driver"
)

// The reasons that restart events give.
const (
	reasonWithinPolicy  = "Restart within policy"
	reasonDelay         = "Exceeded allowed attempts, applying a delay"
	reasonNotAllowed    = "Policy allows no restarts"
	reasonUnrecoverable = "Error was unrecoverable"
	reasonUnnecessary   = "Restart unnecessary as task terminated successfully"
)

// decision says what happens after a task ended or did not start.
type decision struct {
	again  bool
	failed bool // for one that does not restart: it counts as failed
	delay  time.Duration
	reason string
}

// restarts applies a restart policy to the ends of one task.
type restarts struct {
	policy *api.RestartPolicy
	// onSuccess restarts also what ended well: services.
	onSuccess bool
	count     int
	since     time.Time
}

// exited decides after an exit, or after a start that failed with startErr.
func (r *restarts) next(exit *driver.ExitResult, startErr error, now time.Time) decision {
	ok := startErr == nil && successful(exit)
	if *r.policy.Attempts == 0 {
		if ok && !r.onSuccess {
			return decision{}
		}
		return decision{failed: !ok, reason: reasonNotAllowed}
	}
	if now.After(r.since.Add(*r.policy.Interval)) {
		r.count, r.since = 0, now
	}
	r.count++
	switch {
	case startErr != nil && !driver.IsRecoverable(startErr):
		return decision{failed: true, reason: reasonUnrecoverable}
	case ok && !r.onSuccess:
		return decision{reason: reasonUnnecessary}
	case r.count <= *r.policy.Attempts:
		return decision{again: true, delay: jitter(*r.policy.Delay), reason: reasonWithinPolicy}
	case *r.policy.Mode == "delay":
		return decision{again: true, delay: r.since.Add(*r.policy.Interval).Sub(now), reason: reasonDelay}
	}
	return decision{failed: true, reason: fmt.Sprintf("Exceeded allowed attempts %d in interval %v and mode is \"fail\"",
		*r.policy.Attempts, *r.policy.Interval)}
}

func successful(exit *driver.ExitResult) bool {
	return exit != nil && exit.ExitCode == 0 && exit.Signal == 0 && exit.Err == nil
}

// jitter adds up to a quarter, so that tasks that failed together do not come
// back together.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + time.Duration(rand.Int64N(int64(d)/4+1))
}
