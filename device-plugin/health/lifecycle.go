package health

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// sighting is one time that a signal was seen.
type sighting struct {
	signal Signal
	text   string // details for people; "" has none
	action gpustatus.Action
	event  bool // it is counted; a reading is not
	mild   bool
}

// unit finds or makes the record of a board or slice.
func (t *Tracker) unit(now time.Time, id, board gpu.ID) *unit {
	u := t.units[id]
	if u == nil {
		u = &unit{
			id: id, board: board, state: Healthy, since: now,
			conditions: map[Signal]*condition{}, tallies: map[int]tallied{}, slow: map[Signal]span{},
		}
		t.units[id] = u
	}
	return u
}

// rule is what is known of a signal, with the site's overrides.
func (t *Tracker) rule(s Signal) rule {
	r, _ := lookup(s)
	if v, ok := t.verdicts[s]; ok {
		r.verdict = v
		return r
	}
	if code, ok := s.xid(); ok {
		if _, known := LookupXID(code); !known {
			if v, ok := t.verdicts[unknownXID]; ok {
				r.verdict = v
			}
		}
	}
	return r
}

// verdict is what follows from a condition of a device.
func (t *Tracker) verdict(u *unit, s Signal, c *condition) Verdict {
	r := t.rule(s)
	v := r.verdict
	if _, overridden := t.verdicts[s]; !overridden && c.action != "" {
		v.Action = c.action
	}
	if v.condemns() && (c.suppressed || c.mild || r.peers && !t.hasPeers(u)) {
		return degraded
	}
	return v
}

// hasPeers reports whether work on several GPUs can involve a device.
func (t *Tracker) hasPeers(u *unit) bool {
	b := t.boards[u.board]
	return u.id == u.board && b != nil && !b.mig && len(t.boards) > 1
}

// begin begins a condition, or takes that it is still there.
func (t *Tracker) begin(now time.Time, u *unit, s sighting) {
	r := t.rule(s.signal)
	if r.verdict.Severity == Record {
		delete(u.conditions, s.signal)
		return
	}
	c := u.conditions[s.signal]
	if c == nil || c.mild && !s.mild {
		c = &condition{first: now, text: oneLine(s.text), action: s.action, mild: s.mild}
		u.conditions[s.signal] = c
	}
	if s.signal == Lost {
		c.text, c.action = oneLine(s.text), s.action // how it is lost may change
	}
	c.last = now
	if s.event || c.count == 0 {
		c.count++
	}
	if c.suppressed {
		t.breakers[s.signal].last = now
	}
}

// over ends a condition, and reports whether there was one.
func (u *unit) over(s Signal) bool {
	_, ok := u.conditions[s]
	delete(u.conditions, s)
	return ok
}

// reset ends what a reset of a board repairs.
func (t *Tracker) reset(id gpu.ID) {
	for _, u := range t.units {
		if u.board != id {
			continue
		}
		for s := range u.conditions {
			if r, _ := lookup(s); r.remedy == remedyReset {
				delete(u.conditions, s)
			}
		}
	}
}

// settleAll brings the states of all devices in line with their conditions.
// Boards go first to last: which of them the circuit breaker stops must not be
// left to chance.
func (t *Tracker) settleAll(now time.Time) {
	units := slices.SortedFunc(maps.Values(t.units), func(a, b *unit) int {
		return cmp.Or(t.indexOf(a)-t.indexOf(b), cmp.Compare(a.id, b.id))
	})
	for _, u := range units {
		t.judge(now, u)
		t.settle(now, u)
	}
}

func (t *Tracker) indexOf(u *unit) int {
	if b := t.boards[u.board]; b != nil {
		return b.index
	}
	return 0
}

// judge asks the circuit breaker about conditions that condemn a device from
// now on.
func (t *Tracker) judge(now time.Time, u *unit) {
	for _, s := range slices.Sorted(maps.Keys(u.conditions)) {
		c := u.conditions[s]
		if c.judged || !t.verdict(u, s, c).condemns() {
			continue
		}
		c.judged = true
		if !t.rule(s).hard {
			c.suppressed = !t.admit(now, s, u.board)
		}
	}
}

func (t *Tracker) settle(now time.Time, u *unit) {
	if u.state == Healthy && !u.returned.IsZero() && now.Sub(u.returned) >= t.config.Settle {
		u.attempts, u.returned, u.refusal = 0, time.Time{}, ""
	}
	worst, ok := t.worst(u)
	if !ok {
		if u.state == Condemned {
			t.await(now, u)
		}
		return
	}
	c, r := u.conditions[worst], t.rule(worst)
	u.cause, u.back, u.action = r.describe(c.text, c.first), r.back, t.verdict(u, worst, c).Action
	if u.state != Condemned {
		u.enter(now, Condemned)
		u.refusal = ""
	}
}

// worst is the condition that decides of a condemned device: the one that is
// worst for its work, and of those the first.
func (t *Tracker) worst(u *unit) (Signal, bool) {
	var all []Signal
	for s, c := range u.conditions {
		if t.verdict(u, s, c).condemns() {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return "", false
	}
	return slices.MinFunc(all, func(a, b Signal) int {
		ca, cb := u.conditions[a], u.conditions[b]
		va, vb := t.verdict(u, a, ca), t.verdict(u, b, cb)
		return cmp.Or(slices.Index(actions, vb.Action)-slices.Index(actions, va.Action), ca.first.Compare(cb.first), cmp.Compare(a, b))
	}), true
}

func (u *unit) enter(now time.Time, s State) {
	u.state, u.since = s, now
	u.round++
}

// await makes a device wait for its next check, if it has any left.
func (t *Tracker) await(now time.Time, u *unit) {
	if u.attempts >= t.config.MaxAttempts {
		u.enter(now, Out)
		return
	}
	u.enter(now, Waiting)
	u.holdUntil = now.Add(t.holdDown(u.attempts))
}

func (t *Tracker) holdDown(attempts int) time.Duration {
	hold := t.config.HoldDown
	for range attempts {
		if hold >= t.config.MaxHoldDown/2 {
			return t.config.MaxHoldDown
		}
		hold *= 2
	}
	return hold
}

// Tick does what is due because of the time alone.
func (t *Tracker) Tick(now time.Time) {
	for _, u := range t.units {
		for s, c := range u.conditions {
			if at, ok := t.quietAt(s, c); ok && !now.Before(at) {
				delete(u.conditions, s)
			}
		}
	}
	t.closeBreakers(now)
	t.settleAll(now)
}

// quietAt is when a condition ends because it has not been seen again. That
// is so of events that nothing else ends, and of those that were not believed.
func (t *Tracker) quietAt(s Signal, c *condition) (time.Time, bool) {
	r, _ := lookup(s)
	ends := r.remedy == remedyQuiet || r.remedy == remedyReset && (c.suppressed || c.mild)
	return c.last.Add(t.config.Quiet), ends
}

// Next is when Tick or Due has something to do if nothing is observed until
// then; zero is never. What is due already is not counted.
func (t *Tracker) Next(now time.Time) time.Time {
	var next time.Time
	at := func(when time.Time) {
		if when.After(now) && (next.IsZero() || when.Before(next)) {
			next = when
		}
	}
	for _, u := range t.units {
		if u.state == Waiting {
			at(u.holdUntil)
		}
		for s, c := range u.conditions {
			if when, ok := t.quietAt(s, c); ok {
				at(when)
			}
		}
	}
	for _, b := range t.breakers {
		if b.tripped {
			at(b.last.Add(t.config.BreakerWindow))
		}
	}
	return next
}

// Check is a device that is due for a check.
type Check struct {
	Device, Board gpu.ID
	round         int
}

// Due lists the devices whose hold-down is over. Each stays due until its
// result is observed. While the machine as a whole cannot be read none is: that
// must use up nobody's attempts.
func (t *Tracker) Due(now time.Time) []Check {
	if t.failure.text != "" || t.stall.text != "" {
		return nil
	}
	var due []Check
	for id, u := range t.units {
		if b := t.boards[u.board]; u.state == Waiting && b != nil && b.listed && !now.Before(u.holdUntil) {
			due = append(due, Check{Device: id, Board: u.board, round: u.round})
		}
	}
	slices.SortFunc(due, func(a, b Check) int { return cmp.Compare(a.Device, b.Device) })
	return due
}

// ObserveCheck takes the result of a check, nil being a pass. It is left out
// if the device was condemned anew, or cleared, while the check ran.
func (t *Tracker) ObserveCheck(now time.Time, c Check, err error) {
	u := t.units[c.Device]
	if u == nil || u.state != Waiting || u.round != c.round {
		return
	}
	u.attempts++
	if err == nil {
		u.enter(now, Healthy)
		u.returned, u.refusal = now, ""
		return
	}
	u.refusal = oneLine(err.Error())
	t.await(now, u)
}

// Clear is an operator's word that a device was repaired: its conditions are
// forgotten, its attempts begin anew, and it is checked at once. A board's
// slices are cleared with it. A board that is not there any more is forgotten.
func (t *Tracker) Clear(now time.Time, id gpu.ID) error {
	u := t.units[id]
	if u == nil {
		return fmt.Errorf("clearing %s: no such GPU or slice is known here; nomad-device-gpu health lists them", id)
	}
	gone := t.boards[u.board] == nil || !t.boards[u.board].listed
	for _, other := range t.units {
		if other.id != id && (other.board != id || u.board != id) {
			continue
		}
		if gone && u.board == id {
			delete(t.units, other.id)
			continue
		}
		clear(other.conditions)
		clear(other.slow)
		other.attempts, other.refusal, other.returned = 0, "", time.Time{}
		if other.state != Healthy {
			other.enter(now, Waiting)
			other.holdUntil = now
		}
	}
	if gone && u.board == id {
		delete(t.boards, id)
	}
	t.closeBreakers(now)
	return nil
}
