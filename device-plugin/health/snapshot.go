package health

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// snapshot is the stored form of a tracker, health.json:
//
//	{"version":1,"boot":"5f0c...","written":"2026-01-02T15:04:05Z",
//	 "boards":{"GPU-...":{"index":0,"mig":true,"slices":[{"id":"MIG-...","index":0}],"baseline":{"energy_mj":812,"nvlinks":{"0":true}}}},
//	 "devices":{"GPU-...":{"board":"GPU-...","state":"condemned","since":"...","cause":"Xid 79: ...",
//	   "action":"end","conditions":{"xid-79":{"first":"...","last":"...","count":1}},"attempts":1}},
//	 "breakers":{"thermal-slowdown":{"condemned":{"GPU-...":"..."},"tripped":false}},
//	 "report":{...}}
//
// Report is what people read; Restore does not.
type snapshot struct {
	Version  int                      `json:"version"`
	Boot     string                   `json:"boot,omitempty"`
	Written  time.Time                `json:"written"`
	Boards   map[gpu.ID]storedBoard   `json:"boards"`
	Devices  map[gpu.ID]storedUnit    `json:"devices"`
	Breakers map[Signal]storedBreaker `json:"breakers,omitempty"`
	Report   Report                   `json:"report"`
}

type storedBoard struct {
	Index    int           `json:"index"`
	Product  string        `json:"product,omitempty"`
	MIG      bool          `json:"mig,omitempty"`
	Slices   []storedSlice `json:"slices,omitempty"`
	Baseline baseline      `json:"baseline"`
}

type storedSlice struct {
	ID              gpu.ID `json:"id"`
	Index           int    `json:"index"`
	Profile         string `json:"mig_profile,omitempty"`
	GPUInstance     *int   `json:"gpu_instance,omitempty"`
	ComputeInstance *int   `json:"compute_instance,omitempty"`
}

type storedUnit struct {
	Board      gpu.ID                     `json:"board"`
	State      State                      `json:"state"`
	Since      time.Time                  `json:"since"`
	Cause      string                     `json:"cause,omitempty"`
	Back       string                     `json:"back,omitempty"`
	Action     gpustatus.Action           `json:"action,omitempty"`
	Conditions map[Signal]storedCondition `json:"conditions,omitempty"`
	HoldUntil  *time.Time                 `json:"hold_until,omitempty"`
	Attempts   int                        `json:"attempts,omitempty"`
	Refusal    string                     `json:"refusal,omitempty"`
	Returned   *time.Time                 `json:"returned,omitempty"`
	XIDs       map[int]storedTally        `json:"xids,omitempty"`
}

type storedCondition struct {
	First      time.Time        `json:"first"`
	Last       time.Time        `json:"last"`
	Count      int              `json:"count"`
	Text       string           `json:"text,omitempty"`
	Action     gpustatus.Action `json:"action,omitempty"`
	Mild       bool             `json:"mild,omitempty"`
	Judged     bool             `json:"judged,omitempty"` // by the circuit breaker
	Suppressed bool             `json:"suppressed,omitempty"`
}

type storedTally struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

type storedBreaker struct {
	Condemned map[gpu.ID]time.Time `json:"condemned"`
	Tripped   bool                 `json:"tripped,omitempty"`
	Since     *time.Time           `json:"since,omitempty"`
	Last      *time.Time           `json:"last,omitempty"`
}

const snapshotVersion = 1

// Limits of a snapshot, above what any machine has.
const (
	// MaxSnapshotBytes is the largest snapshot that Restore takes.
	MaxSnapshotBytes = 4 << 20
	maxStored        = 4096 // devices, and conditions or codes of a device
)

// Snapshot is what must survive a restart of the plugin and of the node, as
// JSON.
func (t *Tracker) Snapshot(now time.Time) ([]byte, error) {
	s := snapshot{
		Version: snapshotVersion, Boot: t.boot, Written: now, Report: t.Report(),
		Boards: map[gpu.ID]storedBoard{}, Devices: map[gpu.ID]storedUnit{}, Breakers: map[Signal]storedBreaker{},
	}
	for id, b := range t.boards {
		stored := storedBoard{Index: b.index, Product: b.product, MIG: b.mig, Baseline: b.base}
		for _, s := range b.slices {
			stored.Slices = append(stored.Slices, storedSlice{s.ID, s.Index, s.Profile, s.GPUInstance, s.ComputeInstance})
		}
		s.Boards[id] = stored
	}
	for id, u := range t.units {
		stored := storedUnit{
			Board: u.board, State: u.state, Since: u.since, Cause: u.cause, Back: u.back, Action: u.action,
			HoldUntil: pointer(u.holdUntil), Attempts: u.attempts, Refusal: u.refusal, Returned: pointer(u.returned),
			Conditions: map[Signal]storedCondition{}, XIDs: map[int]storedTally{},
		}
		for signal, c := range u.conditions {
			stored.Conditions[signal] = storedCondition{
				First: c.first, Last: c.last, Count: c.count, Text: c.text, Action: c.action, Mild: c.mild, Judged: c.judged, Suppressed: c.suppressed,
			}
		}
		for code, n := range u.tallies {
			stored.XIDs[code] = storedTally{Count: n.count, Last: n.last}
		}
		s.Devices[id] = stored
	}
	for signal, b := range t.breakers {
		s.Breakers[signal] = storedBreaker{Condemned: b.condemned, Tripped: b.tripped, Since: pointer(b.since), Last: pointer(b.last)}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the health of the GPUs: %w", err)
	}
	return append(data, '\n'), nil
}

// Restore takes the place of what a new tracker knows. After a restart of the
// node, what that repairs is over. On an error the tracker is as it was.
func (t *Tracker) Restore(now time.Time, data []byte) error {
	s, err := parseSnapshot(data)
	if err != nil {
		return fmt.Errorf("reading the stored health of the GPUs: %w", err)
	}
	t.boards, t.units, t.breakers = map[gpu.ID]*board{}, map[gpu.ID]*unit{}, map[Signal]*breaker{}
	for id, b := range s.Boards {
		if b.Baseline.Links == nil {
			b.Baseline.Links = map[int]bool{}
		}
		restored := &board{index: b.Index, product: b.Product, mig: b.MIG, base: b.Baseline}
		for _, s := range b.Slices {
			restored.slices = append(restored.slices, gpu.Slice{
				ID: s.ID, Index: s.Index, Profile: s.Profile, GPUInstance: s.GPUInstance, ComputeInstance: s.ComputeInstance,
			})
		}
		t.boards[id] = restored
		t.unit(now, id, id)
	}
	for id, d := range s.Devices {
		u := t.unit(now, id, d.Board)
		u.state, u.since, u.cause, u.back, u.action = d.State, d.Since, d.Cause, d.Back, d.Action
		u.attempts, u.refusal = min(d.Attempts, t.config.MaxAttempts), d.Refusal
		u.holdUntil, u.returned = value(d.HoldUntil), value(d.Returned)
		if latest := now.Add(t.config.MaxHoldDown); u.holdUntil.After(latest) {
			u.holdUntil = latest // the clock was ahead, or the setting was longer
		}
		for signal, c := range d.Conditions {
			u.conditions[signal] = &condition{
				first: c.First, last: c.Last, count: c.Count, text: c.Text, action: c.Action, mild: c.Mild, judged: c.Judged, suppressed: c.Suppressed,
			}
		}
		for code, n := range d.XIDs {
			u.tallies[code] = tallied{count: n.Count, last: n.Last}
		}
	}
	for signal, b := range s.Breakers {
		restored := &breaker{condemned: b.Condemned, tripped: b.Tripped, since: value(b.Since), last: value(b.Last)}
		if restored.condemned == nil {
			restored.condemned = map[gpu.ID]time.Time{}
		}
		t.breakers[signal] = restored
	}
	if s.Boot != "" && t.boot != "" && s.Boot != t.boot {
		for id, b := range t.boards {
			b.base = baseline{Links: b.base.Links} // counting began anew
			t.reset(id)
		}
	}
	t.settleAll(now)
	return nil
}

func parseSnapshot(data []byte) (snapshot, error) {
	var s snapshot
	if len(data) > MaxSnapshotBytes {
		return s, fmt.Errorf("it has more than %d bytes", MaxSnapshotBytes)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, err
	}
	if s.Version != snapshotVersion {
		return s, fmt.Errorf("it is of version %d, and this release reads %d", s.Version, snapshotVersion)
	}
	if len(s.Devices) > maxStored || len(s.Boards) > maxStored || len(s.Breakers) > maxStored {
		return s, fmt.Errorf("it has more than %d devices", maxStored)
	}
	for id, b := range s.Boards {
		if id == "" || len(b.Baseline.Links) > maxStored || len(b.Slices) > maxStored {
			return s, errors.New("it has a board without an ID, or with too many links or slices")
		}
	}
	for id, d := range s.Devices {
		if err := d.check(); err != nil {
			return s, fmt.Errorf("device %q: %w", id, err)
		}
		if _, ok := s.Boards[d.Board]; !ok {
			return s, fmt.Errorf("device %q: its board %q is not there", id, d.Board)
		}
		if _, isBoard := s.Boards[id]; isBoard && d.Board != id {
			return s, fmt.Errorf("device %q: it is a board, and a slice of %q", id, d.Board)
		}
	}
	for signal, b := range s.Breakers {
		if _, ok := lookup(signal); !ok || len(b.Condemned) > maxStored {
			return s, fmt.Errorf("breaker %q: there is no such signal", signal)
		}
	}
	for id, d := range s.Devices {
		for signal, c := range d.Conditions {
			if _, ok := s.Breakers[signal]; c.Suppressed && !ok {
				return s, fmt.Errorf("device %q: %s is held back by a breaker that is not there", id, signal)
			}
		}
	}
	return s, nil
}

func (d storedUnit) check() error {
	switch d.State {
	case Healthy, Condemned, Waiting, Out:
	default:
		return fmt.Errorf("unknown state %q", d.State)
	}
	if d.State != Healthy && d.Cause == "" {
		return fmt.Errorf("%s without a cause", d.State)
	}
	if d.Attempts < 0 || len(d.Conditions) > maxStored || len(d.XIDs) > maxStored {
		return errors.New("a number is out of bounds")
	}
	for signal, c := range d.Conditions {
		if _, ok := lookup(signal); !ok {
			return fmt.Errorf("unknown signal %q", signal)
		}
		if c.Action != "" && !slices.Contains(actions, c.Action) {
			return fmt.Errorf("%s: unknown action %q", signal, c.Action)
		}
	}
	if !slices.Contains(actions, cmp.Or(d.Action, gpustatus.Keep)) || d.State != Healthy && d.Action == "" {
		return fmt.Errorf("unknown action %q", d.Action)
	}
	return nil
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func value(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// ReadReport is what a snapshot tells people, and when it was written.
func ReadReport(data []byte) (Report, time.Time, error) {
	s, err := parseSnapshot(data)
	if err != nil {
		return Report{}, time.Time{}, fmt.Errorf("reading the stored health of the GPUs: %w", err)
	}
	return s.Report, s.Written, nil
}
