package health

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// State is where a device is between service and repair.
type State string

// The states. A device goes from Healthy to Condemned, when what condemned it
// is over to Waiting for a check, and if that passes back to Healthy. When all
// of its attempts are used up it is Out.
const (
	Healthy   State = "healthy"
	Condemned State = "condemned"
	Waiting   State = "waiting"
	Out       State = "out"
)

// Tracker keeps the health of a machine's boards and slices. It reads no
// clock: every method that depends on the time is told it. It is not safe for
// use by several goroutines at once.
type Tracker struct {
	config   Config
	verdicts map[Signal]Verdict
	boot     string

	boards   map[gpu.ID]*board
	units    map[gpu.ID]*unit
	breakers map[Signal]*breaker
	// failure and stall are of the machine as a whole, not of any device.
	failure, stall trouble
}

// trouble is why nothing can be said of any device at the moment.
type trouble struct {
	text  string // "" is none
	since time.Time
}

func (t *trouble) set(now time.Time, text string) {
	if t.text == "" {
		t.since = now
	}
	t.text = text
}

// board is what was last seen of a board.
type board struct {
	index   int
	product string
	mig     bool
	// listed is set while the inventory has the board.
	listed bool
	slices []gpu.Slice
	// vitals are the last reading; nil before the first.
	vitals *gpu.Vitals
	read   time.Time // when that was
	base   baseline
}

// unit is the record of a board or slice.
type unit struct {
	id, board  gpu.ID
	state      State
	since      time.Time // of the state
	conditions map[Signal]*condition
	// cause is the description of what condemned it last, and action what
	// became of the work.
	cause, back string
	action      gpustatus.Action
	holdUntil   time.Time // when a Waiting device is checked
	attempts    int       // checks since it was last settled
	refusal     string    // why the last check failed
	returned    time.Time // to service; zero is never
	tallies     map[int]tallied
	// slow are the slow signals that began or ended of late.
	slow map[Signal]span
	// round counts changes of state, so that a check that began before one is
	// recognised.
	round int
}

// condition is trouble that a device has.
type condition struct {
	first, last time.Time
	count       int
	text        string // details of the first time
	// action is what becomes of work, where the sighting tells better than the
	// rule; "" is the rule's.
	action gpustatus.Action
	// mild conditions do not condemn, whatever the rule.
	mild bool
	// judged is set when the circuit breaker was asked about it, and
	// suppressed if that kept it from condemning.
	judged, suppressed bool
}

// tallied counts an Xid code.
type tallied struct {
	count int
	last  time.Time
}

// span is since when a slow signal has been seen without a break, or gone.
type span struct{ bad, good time.Time }

// NewTracker makes a tracker of nothing yet. Boot identifies the running
// system: what a restart of the node repairs is repaired when it differs from
// that of a restored snapshot. "" is unknown.
func NewTracker(c Config, boot string) (*Tracker, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	verdicts, err := c.verdicts()
	if err != nil {
		return nil, err
	}
	return &Tracker{
		config: c, verdicts: verdicts, boot: boot,
		boards: map[gpu.ID]*board{}, units: map[gpu.ID]*unit{}, breakers: map[Signal]*breaker{},
	}, nil
}

// ObserveInventory takes a reading of all boards that worked.
func (t *Tracker) ObserveInventory(now time.Time, inv gpu.Inventory) {
	t.failure = trouble{}
	seen := make(map[gpu.ID]bool, len(inv.Boards))
	for _, b := range inv.Boards {
		if b.ID != "" {
			seen[b.ID] = true
			t.observeBoard(now, b)
		}
	}
	for id, b := range t.boards {
		if seen[id] {
			continue
		}
		b.listed = false
		reason := "the driver no longer lists this GPU"
		if len(inv.Lost) > 0 {
			// Indexes shift when a board leaves the bus, so a lost board need
			// not be at its old index.
			reason = cmp.Or(lostAt(inv.Lost, b.index), inv.Lost[0].Reason)
		}
		t.begin(now, t.unit(now, id, id), sighting{signal: Lost, text: reason})
	}
	t.settleAll(now)
}

func (t *Tracker) observeBoard(now time.Time, b gpu.Board) {
	known := t.boards[b.ID]
	if known == nil {
		known = &board{base: baseline{Links: map[int]bool{}}}
		t.boards[b.ID] = known
	}
	u := t.unit(now, b.ID, b.ID)
	known.index, known.listed = b.Index, true
	if b.Fault != "" {
		t.begin(now, u, sighting{signal: Lost, text: b.Fault, action: cmp.Or(b.FaultAction, gpustatus.Move)})
		return // what else it says is worth less than what was known
	}
	if u.over(Lost) {
		t.reset(b.ID) // a board that was gone and is back was initialised anew
	}
	known.product, known.mig = b.Product, b.MIG
	t.observeSlices(now, known, b)
}

// observeSlices keeps slices that are there but do not answer, and forgets
// those that somebody removed.
func (t *Tracker) observeSlices(now time.Time, known *board, b gpu.Board) {
	listed := slices.Clone(b.Slices)
	for _, old := range known.slices {
		reason := lostAt(b.LostSlices, old.Index)
		if reason == "" || slices.ContainsFunc(listed, func(s gpu.Slice) bool { return s.ID == old.ID }) {
			continue
		}
		listed = append(listed, old)
		t.begin(now, t.unit(now, old.ID, b.ID), sighting{signal: Lost, text: reason, action: gpustatus.Move})
	}
	known.slices = listed
	for _, s := range b.Slices {
		u := t.unit(now, s.ID, b.ID)
		if s.Fault != "" {
			t.begin(now, u, sighting{signal: Lost, text: s.Fault, action: gpustatus.Move})
		} else {
			u.over(Lost)
		}
	}
	for id, u := range t.units {
		if u.board == b.ID && id != b.ID && !slices.ContainsFunc(listed, func(s gpu.Slice) bool { return s.ID == id }) {
			delete(t.units, id)
		}
	}
}

// lostAt is why the board or slice at an index was lost; "" if it was not.
func lostAt(lost []gpu.Lost, index int) string {
	for _, l := range lost {
		if l.Index == index {
			return l.Reason
		}
	}
	return ""
}

// ObserveFailure takes that the machine's GPUs as a whole could not be read:
// no driver, driver and library of different versions, a driver that hangs.
// That condemns no device: all are unhealthy until a reading works.
func (t *Tracker) ObserveFailure(now time.Time, err error) { t.failure.set(now, oneLine(err.Error())) }

// ObserveStall takes that the vitals have not been answered since a time, and
// why if that is known; or, if the time is zero, that they are again. Like a
// failure it condemns no device.
func (t *Tracker) ObserveStall(since time.Time, why error) {
	if since.IsZero() {
		t.stall = trouble{}
		return
	}
	text := "the driver does not answer"
	if why != nil {
		text = why.Error()
	}
	t.stall = trouble{text: "nobody watches the health of the GPUs: " + oneLine(text), since: since}
}

// ObserveEvent takes what the driver reported. Events of boards that no
// inventory has listed are left out, as nothing is offered of them.
func (t *Tracker) ObserveEvent(now time.Time, e gpu.Event) {
	b := t.boards[e.Board]
	if b == nil {
		return
	}
	if e.Reset {
		t.reset(e.Board)
		t.settleAll(now)
		return
	}
	x, _ := LookupXID(e.XID)
	details := eventDetails(e)
	for _, u := range t.concerned(now, b, e, x) {
		tally := u.tallies[e.XID]
		u.tallies[e.XID] = tallied{count: tally.count + 1, last: now}
		s := sighting{signal: xidSignal(e.XID), text: details, event: true}
		if x.Class == Link && strings.Contains(e.Text, "Nonfatal") {
			s.mild = true // NVLink 5 codes tell with each event whether it is fatal
		}
		t.begin(now, u, s)
	}
	if e.XID == xidRecoveryAction {
		if action, ok := recoveryActionOf(e.Text); ok {
			t.recoveryAction(now, t.unit(now, e.Board, e.Board), action)
		}
	}
	t.settleAll(now)
}

// concerned are the slices of an event whose trouble stays inside of them, or
// else the board.
func (t *Tracker) concerned(now time.Time, b *board, e gpu.Event, x XID) []*unit {
	var units []*unit
	if b.mig && x.InSlice && e.GPUInstance != nil {
		for _, s := range b.slices {
			if !same(s.GPUInstance, e.GPUInstance) || e.ComputeInstance != nil && s.ComputeInstance != nil && *s.ComputeInstance != *e.ComputeInstance {
				continue
			}
			units = append(units, t.unit(now, s.ID, e.Board))
		}
	}
	if len(units) == 0 {
		units = append(units, t.unit(now, e.Board, e.Board))
	}
	return units
}

func same(a, b *int) bool { return a != nil && b != nil && *a == *b }

// eventDetails is what a reason tells of an event beyond its code.
func eventDetails(e gpu.Event) string {
	if e.PID > 0 {
		return "process " + strconv.Itoa(e.PID)
	}
	return ""
}

// maxText bounds what is kept of texts from elsewhere, in bytes.
const maxText = 200

// oneLine makes a text fit into a line of a reason.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-3], "") + "..."
	}
	return text
}
