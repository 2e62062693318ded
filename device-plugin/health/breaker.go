package health

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// breaker is the circuit breaker of one soft signal.
type breaker struct {
	condemned map[gpu.ID]time.Time // boards, and when the signal condemned each last
	tripped   bool
	since     time.Time // of tripped
	last      time.Time // when the signal was last kept from condemning
}

// bound is how many boards one soft signal may condemn within a window.
func (t *Tracker) bound() int {
	return max(1, int(t.config.BreakerShare*float64(len(t.boards))))
}

// admit asks whether a soft signal may condemn a board.
func (t *Tracker) admit(now time.Time, s Signal, board gpu.ID) bool {
	b := t.breakers[s]
	if b == nil {
		b = &breaker{condemned: map[gpu.ID]time.Time{}}
		t.breakers[s] = b
	}
	if b.tripped {
		b.last = now
		return false
	}
	for id, at := range b.condemned {
		if now.Sub(at) >= t.config.BreakerWindow {
			delete(b.condemned, id)
		}
	}
	if _, again := b.condemned[board]; !again && len(b.condemned) >= t.bound() {
		b.tripped, b.since, b.last = true, now, now
		return false
	}
	b.condemned[board] = now
	return true
}

// closeBreakers lets signals condemn again that were quiet for a window and
// are not on any board unbelieved.
func (t *Tracker) closeBreakers(now time.Time) {
	for s, b := range t.breakers {
		if b.tripped && now.Sub(b.last) >= t.config.BreakerWindow && !t.suppresses(s) {
			delete(t.breakers, s)
		}
	}
}

func (t *Tracker) suppresses(s Signal) bool {
	for _, u := range t.units {
		if c := u.conditions[s]; c != nil && c.suppressed {
			return true
		}
	}
	return false
}

func (t *Tracker) describeBreaker(s Signal, b *breaker) string {
	r, _ := lookup(s)
	return fmt.Sprintf("circuit breaker: %s (%s) was seen on more than %d of %d GPUs within %s, so it is more likely a common cause than so many broken GPUs; since %s it condemns no further GPU, until it has not been seen for %s",
		s, r.meaning, t.bound(), len(t.boards), t.config.BreakerWindow, stamp(b.since), t.config.BreakerWindow)
}
