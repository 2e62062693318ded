package health

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// Faults are the devices that must not get new work, boards and slices. A
// board's fault is listed for each of its slices too.
func (t *Tracker) Faults() map[gpu.ID]gpu.Fault {
	faults := make(map[gpu.ID]gpu.Fault)
	all := t.machineFault()
	for id, u := range t.units {
		if f := gpu.Worst(t.fault(u), t.fault(t.units[u.board]), all); !f.OK() {
			faults[id] = f
		}
	}
	return faults
}

// machineFault is that of all devices while nothing can be said of any. What
// runs may finish: a driver that does not answer questions may well compute.
func (t *Tracker) machineFault() gpu.Fault {
	for _, tr := range []trouble{t.failure, t.stall} {
		if tr.text != "" {
			return gpu.Fault{
				Reason: fmt.Sprintf("%s, since %s; back in service when the driver answers again", tr.text, stamp(tr.since)),
				Action: gpustatus.Keep,
			}
		}
	}
	return gpu.Fault{}
}

// fault is that of a device itself.
func (t *Tracker) fault(u *unit) gpu.Fault {
	if u == nil || u.state == Healthy {
		return gpu.Fault{}
	}
	return gpu.Fault{Reason: t.reason(u), Action: u.action}
}

// reason tells of a device out of service what was seen, when, and what brings
// it back.
func (t *Tracker) reason(u *unit) string {
	clearCommand := "nomad-device-gpu health -clear " + string(u.id)
	switch u.state {
	case Condemned:
		text := u.cause + t.others(u)
		switch {
		case u.attempts >= t.config.MaxAttempts:
			return fmt.Sprintf("%s; none of its %d checks is left, so it stays out of service until it is repaired and cleared: %s", text, t.config.MaxAttempts, clearCommand)
		case t.permanent(u):
			return fmt.Sprintf("%s; back in service when the board was replaced, or cleared: %s", text, clearCommand)
		}
		return fmt.Sprintf("%s; back in service %s and a check passes", text, u.back)
	case Waiting:
		failed := ""
		if u.refusal != "" {
			failed = fmt.Sprintf(" (the last one failed: %s)", u.refusal)
		}
		return fmt.Sprintf("%s; this is over, and check %d of %d is due at %s%s", u.cause, u.attempts+1, t.config.MaxAttempts, stamp(u.holdUntil), failed)
	default:
		failed := ""
		if u.refusal != "" {
			failed = " (the last one failed: " + u.refusal + ")"
		}
		return fmt.Sprintf("%s; none of its %d checks is left%s; out of service until it is repaired and cleared: %s", u.cause, t.config.MaxAttempts, failed, clearCommand)
	}
}

// permanent reports whether no reading can bring a device back.
func (t *Tracker) permanent(u *unit) bool {
	for s, c := range u.conditions {
		if t.rule(s).remedy == remedyOperator && t.verdict(u, s, c).condemns() {
			return true
		}
	}
	return false
}

// others names what else condemns a device.
func (t *Tracker) others(u *unit) string {
	worst, _ := t.worst(u)
	var names []string
	for s, c := range u.conditions {
		if s != worst && t.verdict(u, s, c).condemns() {
			names = append(names, string(s))
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "; also " + strings.Join(names, ", ")
}

// Report is the health of a machine, for people and as JSON.
type Report struct {
	// Failure tells that the GPUs as a whole cannot be read or watched; ""
	// is that they can.
	Failure  string         `json:"failure,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Devices  []DeviceReport `json:"devices"`
}

// DeviceReport is the health of one board or slice.
type DeviceReport struct {
	ID      gpu.ID `json:"id"`
	Board   gpu.ID `json:"board,omitempty"` // of a slice
	Index   int    `json:"index"`           // the board's
	Product string `json:"product,omitempty"`
	Profile string `json:"mig_profile,omitempty"`
	State   State  `json:"state"`
	// Reason and Action are of a device out of service.
	Reason string           `json:"reason,omitempty"`
	Action gpustatus.Action `json:"action,omitempty"`
	Since  time.Time        `json:"since"`
	// NextCheck is when a waiting device is checked; nil if none is due.
	NextCheck   *time.Time        `json:"next_check,omitempty"`
	Attempts    int               `json:"attempts"`
	MaxAttempts int               `json:"max_attempts"`
	Conditions  []ConditionReport `json:"conditions,omitempty"`
	// XIDs counts the codes that were seen, harmless ones too.
	XIDs []XIDCount `json:"xids,omitempty"`
}

// ConditionReport is one thing that is wrong with a device.
type ConditionReport struct {
	Signal   Signal           `json:"signal"`
	Severity Severity         `json:"severity"`
	Action   gpustatus.Action `json:"action,omitempty"`
	Text     string           `json:"text"`
	First    time.Time        `json:"first"`
	Last     time.Time        `json:"last"`
	Count    int              `json:"count"`
	// Suppressed is set where the circuit breaker kept it from condemning.
	Suppressed bool `json:"suppressed,omitempty"`
}

// XIDCount is how often a code was seen on a device.
type XIDCount struct {
	Code    int       `json:"code"`
	Meaning string    `json:"meaning"`
	Count   int       `json:"count"`
	Last    time.Time `json:"last"`
}

// Report tells the health of every board and slice, by board and slice.
func (t *Tracker) Report() Report {
	r := Report{Devices: []DeviceReport{}, Failure: t.machineFault().Reason}
	for _, s := range slices.Sorted(maps.Keys(t.breakers)) {
		if b := t.breakers[s]; b.tripped {
			r.Warnings = append(r.Warnings, t.describeBreaker(s, b))
		}
	}
	for id, b := range t.boards {
		r.Devices = append(r.Devices, t.deviceReport(t.units[id], b, gpu.Slice{}))
		for _, s := range b.slices {
			if u := t.units[s.ID]; u != nil {
				r.Devices = append(r.Devices, t.deviceReport(u, b, s))
			}
		}
	}
	slices.SortFunc(r.Devices, func(a, b DeviceReport) int {
		return cmp.Or(a.Index-b.Index, cmp.Compare(cmp.Or(a.Board, a.ID), cmp.Or(b.Board, b.ID)), cmp.Compare(a.Board, b.Board), cmp.Compare(a.ID, b.ID))
	})
	return r
}

func (t *Tracker) deviceReport(u *unit, b *board, s gpu.Slice) DeviceReport {
	f := t.fault(u)
	d := DeviceReport{
		ID: u.id, Index: b.index, Product: b.product, Profile: s.Profile, State: u.state, Reason: f.Reason, Action: f.Action,
		Since: u.since, Attempts: u.attempts, MaxAttempts: t.config.MaxAttempts,
	}
	if u.id != u.board {
		d.Board = u.board
	}
	if u.state == Waiting {
		at := u.holdUntil
		d.NextCheck = &at
	}
	for _, signal := range slices.Sorted(maps.Keys(u.conditions)) {
		c := u.conditions[signal]
		v := t.verdict(u, signal, c)
		d.Conditions = append(d.Conditions, ConditionReport{
			Signal: signal, Severity: v.Severity, Action: v.Action, Text: t.rule(signal).describe(c.text, c.first),
			First: c.first, Last: c.last, Count: c.count, Suppressed: c.suppressed,
		})
	}
	for _, code := range slices.Sorted(maps.Keys(u.tallies)) {
		x, _ := LookupXID(code)
		d.XIDs = append(d.XIDs, XIDCount{Code: code, Meaning: x.Meaning, Count: u.tallies[code].count, Last: u.tallies[code].last})
	}
	return d
}
