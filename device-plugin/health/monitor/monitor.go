// Package monitor keeps an eye on the health of a machine's GPUs: it feeds a
// health.Tracker with what the driver says, checks the devices that may return
// to service, and keeps on disk what must outlive the plugin.
//
// A driver that hangs never hangs the monitor: the call is left behind, and
// that it hangs is a fault of its own.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// Config is what a monitor watches.
type Config struct {
	Health health.Config
	// Boot identifies the running system; see BootID.
	Boot string
	// Inventory reads the boards, for a check that one is what it was.
	Inventory func(context.Context) (gpu.Inventory, error)
	// Watcher and Vitals are nil where the source cannot.
	Watcher health.Watcher
	Vitals  health.VitalsReader
	// File is where the health is kept; "" keeps it nowhere.
	File string
	// Publish is told the faults whenever they change, by one goroutine at a
	// time; nil is nobody.
	Publish func(map[gpu.ID]gpu.Fault)
	Log     hclog.Logger
}

// Monitor is safe for use by several goroutines at once.
type Monitor struct {
	config Config
	log    hclog.Logger
	kick   chan struct{} // something was observed
	hurry  chan struct{} // an event asks for the vitals
	dirty  chan struct{} // there may be something to save

	mu      sync.Mutex
	tracker *health.Tracker
	boards  []gpu.ID // those listed last, which can be read
	looked  bool
	// answered is when the vitals were read last, or first asked for; zero if
	// there is nothing to read.
	answered   time.Time
	unanswered error // why they could not be read last; nil if they could
	checking   map[gpu.ID]bool
	watchError string
	kept       kept
}

// New makes a monitor, which knows what the file tells. A file that cannot be
// read is set aside and an error is logged: then it begins anew. A wrong
// configuration is an error.
func New(c Config) (*Monitor, error) {
	tracker, err := health.NewTracker(c.Health, c.Boot)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = hclog.NewNullLogger()
	}
	m := &Monitor{
		config: c, log: c.Log, tracker: tracker, checking: map[gpu.ID]bool{},
		kick: make(chan struct{}, 1), hurry: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
	}
	m.kept.changed = make(chan struct{})
	m.restore()
	return m, nil
}

// BootID identifies the running system; "" where it is unknown.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Run watches until ctx ends. It leaves calls behind that do not return. An
// error is that something panicked; it may be run again.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	apart := func(f func()) {
		go func() {
			defer func() {
				if r := recover(); r != nil {
					select {
					case failed <- fmt.Errorf("watching the health of the GPUs panicked: %v", r):
					default: // one is reported
					}
				}
			}()
			f()
		}()
	}
	if m.config.Watcher != nil {
		apart(func() { m.watch(ctx) })
	}
	if m.config.Vitals != nil {
		apart(func() { m.readVitals(ctx) })
	}
	var published map[gpu.ID]gpu.Fault
	for {
		due, next := m.step()
		for _, c := range due {
			apart(func() { m.check(ctx, c) })
		}
		faults := m.Faults()
		if published == nil || !reflect.DeepEqual(faults, published) {
			published = faults
			if m.config.Publish != nil {
				m.config.Publish(faults)
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case err := <-failed:
			timer.Stop()
			return err
		case <-m.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step does what the time asks for, and tells which devices are to be checked
// and when to come again.
func (m *Monitor) step() ([]health.Check, time.Duration) {
	now := time.Now().UTC()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.changes()()
	m.stalled(now)
	m.tracker.Tick(now)
	var due []health.Check
	for _, c := range m.tracker.Due(now) {
		if !m.checking[c.Device] {
			m.checking[c.Device] = true
			due = append(due, c)
		}
	}
	pause := m.config.Health.StallAfter
	if next := m.tracker.Next(now); !next.IsZero() {
		pause = min(pause, next.Sub(now))
	}
	return due, pause
}

// stalled notices that the vitals have not been answered for too long.
func (m *Monitor) stalled(now time.Time) {
	if m.answered.IsZero() || now.Sub(m.answered) < m.config.Health.StallAfter {
		m.tracker.ObserveStall(time.Time{}, nil)
		return
	}
	m.tracker.ObserveStall(m.answered, m.unanswered)
}

// observe lets the tracker take something, and has the consequences drawn.
func (m *Monitor) observe(f func(now time.Time, t *health.Tracker)) {
	defer wake(m.kick)
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.changes()()
	f(time.Now().UTC(), m.tracker)
}

// changes is to be called before a change, and what it returns after it: that
// logs what became of devices, and notes that there is something to save. The
// lock is held.
func (m *Monitor) changes() func() {
	report, faults := m.tracker.Report(), m.tracker.Faults()
	return func() {
		m.tell(report)
		if !reflect.DeepEqual(faults, m.tracker.Faults()) {
			m.kept.current++
		}
		wake(m.dirty)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will look anyway
	}
}

// ObserveInventory takes a reading of the boards that somebody made.
func (m *Monitor) ObserveInventory(inv gpu.Inventory) {
	m.observe(func(now time.Time, t *health.Tracker) {
		m.boards, m.looked = nil, true
		for _, b := range inv.Boards {
			if b.ID != "" && b.Fault == "" {
				m.boards = append(m.boards, b.ID)
			}
		}
		t.ObserveInventory(now, inv)
	})
	wake(m.hurry) // there may have been a reason for it that the vitals tell
}

// ObserveFailure takes that a reading of the boards failed as a whole.
func (m *Monitor) ObserveFailure(err error) {
	m.observe(func(now time.Time, t *health.Tracker) { t.ObserveFailure(now, err) })
}

// Faults are the devices that must not get new work. While Keep runs they are
// on disk by the time that this returns, or the disk is slow.
func (m *Monitor) Faults() map[gpu.ID]gpu.Fault {
	m.mu.Lock()
	faults, version := m.tracker.Faults(), m.kept.current
	m.mu.Unlock()
	m.awaitSaved(version)
	return faults
}

// Report tells the health of every device.
func (m *Monitor) Report() health.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.report()
}

func (m *Monitor) report() health.Report {
	r := m.tracker.Report()
	if m.watchError != "" {
		r.Warnings = append(r.Warnings, "events of the driver are not heard: "+m.watchError)
	}
	return r
}

// watchPause is how soon watching is tried again.
const watchPause = 10 * time.Second

func (m *Monitor) watch(ctx context.Context) {
	for {
		err := m.config.Watcher.Watch(ctx, func(e gpu.Event) {
			m.event(e)
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the driver ended it")
		}
		m.mu.Lock()
		if text := err.Error(); m.watchError != text {
			m.watchError = text
			m.log.Warn("GPU events cannot be watched; faults are noticed by the vitals only", "error", err)
		}
		m.mu.Unlock()
		if !pause(ctx, watchPause) {
			return
		}
	}
}

func (m *Monitor) event(e gpu.Event) {
	x, _ := health.LookupXID(e.XID)
	switch {
	case e.Reset:
		m.log.Info("GPU was reset", "id", e.Board)
	default:
		m.log.Info("GPU event", "id", e.Board, "xid", e.XID, "meaning", x.Meaning, "class", x.Class, "pid", e.PID, "text", e.Text)
	}
	m.observe(func(now time.Time, t *health.Tracker) {
		m.watchError = ""
		t.ObserveEvent(now, e)
	})
	wake(m.hurry) // the vitals may tell what it did
}

// eventPause keeps a flood of events from reading the vitals all the time.
const eventPause = time.Second

func (m *Monitor) readVitals(ctx context.Context) {
	for {
		m.mu.Lock()
		boards := m.boards
		switch {
		case len(boards) == 0:
			m.answered = time.Time{}
		case m.answered.IsZero():
			m.answered = time.Now()
		}
		m.mu.Unlock()
		if len(boards) > 0 {
			m.readOnce(ctx, boards)
		}
		if !pause(ctx, min(eventPause, m.config.Health.VitalsPeriod)) {
			return
		}
		timer := time.NewTimer(max(0, m.config.Health.VitalsPeriod-eventPause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-m.hurry:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (m *Monitor) readOnce(ctx context.Context, boards []gpu.ID) {
	readings, err := m.config.Vitals.Vitals(ctx, boards)
	if ctx.Err() != nil {
		return
	}
	m.observe(func(now time.Time, t *health.Tracker) {
		if m.unanswered = err; err != nil {
			return // a stall if it lasts
		}
		m.answered = now
		t.ObserveVitals(now, readings)
	})
}

// tell logs what became of devices. The lock is held.
func (m *Monitor) tell(before health.Report) {
	after := m.tracker.Report()
	if after.Failure != "" && before.Failure == "" {
		m.log.Error("no GPU gets new work", "reason", after.Failure)
	}
	for _, w := range after.Warnings {
		if !slices.Contains(before.Warnings, w) {
			m.log.Error(w)
		}
	}
	was := make(map[gpu.ID]health.DeviceReport, len(before.Devices))
	for _, d := range before.Devices {
		was[d.ID] = d
	}
	for _, d := range after.Devices {
		old, known := was[d.ID]
		switch {
		case known && d.State == old.State || !known && d.State == health.Healthy:
		case d.State == health.Healthy:
			m.log.Info("GPU is back in service", "id", d.ID, "checks", d.Attempts)
		default:
			m.log.Warn("GPU is out of service", "id", d.ID, "state", d.State, "reason", d.Reason, "running_work", d.Action)
		}
		for _, c := range d.Conditions {
			had := func(o health.ConditionReport) bool { return o.Signal == c.Signal }
			if c.Severity == health.Degraded && !slices.ContainsFunc(old.Conditions, had) {
				m.log.Warn("GPU is degraded, and stays in service", "id", d.ID, "signal", c.Signal, "reason", c.Text)
			}
		}
	}
}

// pause reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// listed finds a board or slice in an inventory.
func listed(inv gpu.Inventory, c health.Check) error {
	for _, b := range inv.Boards {
		if b.ID != c.Board {
			continue
		}
		if b.Fault != "" {
			return errors.New(b.Fault)
		}
		if c.Device == c.Board {
			return nil
		}
		for _, s := range b.Slices {
			if s.ID == c.Device {
				if s.Fault != "" {
					return errors.New(s.Fault)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("the driver does not list %s", c.Device)
}
