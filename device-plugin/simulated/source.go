// Package simulated is a machine with GPUs that is not there: for trying
// things out and for tests on machines without any.
//
// It answers as NVML does on the real boards, with their product names, memory
// sizes, connections and MIG geometry. Everything derives from the
// description, a script of what goes wrong, the clock, and the processes of
// this host that were given its GPUs; two runs agree. As with hardware, how
// boards are cut outlives the process, if there is a state file.
//
// Only this package is simulated: health rules, MIG planning, metrics and
// commands are the same code as on real machines.
package simulated

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/internal/topology"
)

// Config is how to run a simulated machine. One without files runs on the clock
// of a testing/synctest bubble; waiting for the kernel to tell of files would
// stop that.
type Config struct {
	Machine Machine
	// FaultFile is a script that is read again whenever it changes; "" is
	// none. It need not exist.
	FaultFile string
	// Script is what happens where there is no FaultFile.
	Script Script
	// StateFile keeps what outlives the process: "" keeps nothing. Several
	// processes may use it. Its folder is made when a board is cut; without a
	// folder, the clocks of the script are not kept.
	StateFile string
	Logger    hclog.Logger // nil discards
	// ProcDir is where the processes of this host are; "" is /proc.
	ProcDir string
	// Booted is when the driver was loaded, from which it counts; zero is when
	// this host was booted.
	Booted time.Time
}

// Source is a running simulated machine.
type Source struct {
	machine   Machine
	subjects  []subject
	faultFile string
	log       hclog.Logger
	booted    time.Time
	store     *store
	processes *processTable

	changes    chan struct{}
	ctx        context.Context
	stop       context.CancelFunc
	background sync.WaitGroup
	reset      chan struct{} // wakes the clock when the timeline was replaced

	mu       sync.Mutex
	timeline timeline
	passed   map[string]progress // how far each step was, as far as it was told
	moved    chan struct{}       // closed when something begins or ends
	watchers map[*watcher]bool
	early    []gpu.Event    // from before anybody watched
	migCalls map[string]int // calls that each mig step has counted
	// healthy are the boards without faults, as they are when they are cut so.
	healthy []gpu.Board
	cut     []migState
}

var (
	_ gpu.Source      = (*Source)(nil)
	_ topology.Source = (*Source)(nil)
	_ mig.Controller  = (*Source)(nil)
)

// New starts a simulated machine. Close it.
func New(c Config) *Source {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.ProcDir == "" {
		c.ProcDir = "/proc"
	}
	if c.Booted.IsZero() {
		c.Booted = hostBooted()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Source{
		machine: c.Machine, faultFile: c.FaultFile, log: c.Logger, booted: c.Booted,
		store:     &store{path: c.StateFile},
		processes: &processTable{root: c.ProcDir, now: time.Now},
		changes:   make(chan struct{}, 1), ctx: ctx, stop: cancel, reset: make(chan struct{}, 1),
		passed: make(map[string]progress), moved: make(chan struct{}), watchers: make(map[*watcher]bool), migCalls: make(map[string]int),
	}
	for i := range c.Machine.boards {
		s.subjects = append(s.subjects, subject{c.Machine.idOf(i), i})
	}
	if c.FaultFile == "" {
		s.play(c.Script)
		<-s.reset // nobody has looked yet, so there is nothing to hint at
	}
	if c.FaultFile != "" || c.StateFile != "" {
		s.watchFiles()
	}
	s.background.Go(s.clock)
	return s
}

// hostBooted is when this host was booted. It is the same whenever it is asked,
// so that counters that begin there do not fall when the plugin is restarted.
func hostBooted() time.Time {
	var up unix.Timespec
	now := time.Now()
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return now
	}
	return now.Add(-time.Duration(up.Nano()))
}

// Changes hints that something began or ended that shows in the inventory.
func (s *Source) Changes() <-chan struct{} { return s.changes }

// Close ends the machine. Calls that hang return.
func (s *Source) Close() error {
	s.stop()
	s.background.Wait()
	return nil
}

var errClosed = errors.New("the simulated machine was closed")

// enter is what every call into the driver goes through: it takes as long as
// the script says, waits while the driver hangs over any of the boards that
// the call is about, and returns the driver's error, if it has one.
func (s *Source) enter(ctx context.Context, about func(subject) bool) (timeline, time.Time, error) {
	delayed := false
	for {
		s.mu.Lock()
		t, moved := s.timeline, s.moved
		s.mu.Unlock()
		now := time.Now()
		d := t.driver(now)
		switch {
		case d.hang || s.hung(t, now, about):
			if err := wait(ctx, s.ctx, moved); err != nil {
				return t, now, err
			}
			continue
		case d.delay > 0 && !delayed:
			delayed = true
			if err := wait(ctx, s.ctx, time.After(d.delay)); err != nil {
				return t, now, err
			}
			continue
		case d.err != "":
			return t, now, errors.New(d.err)
		}
		return t, now, nil
	}
}

// hung reports whether one of the boards does not answer.
func (s *Source) hung(t timeline, now time.Time, about func(subject) bool) bool {
	if len(t.steps) == 0 {
		return false
	}
	for _, b := range s.subjects {
		if about(b) && t.condition(b, now).hung {
			return true
		}
	}
	return false
}

func anyBoard(subject) bool { return true }

func wait[T any](ctx, machine context.Context, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-machine.Done():
		return errClosed
	}
}

// boardView is a board at a moment.
type boardView struct {
	gpu.Board // without faults
	condition
	model board
	state migState
}

// boards are all boards at a moment, those that are gone too.
func (s *Source) boards(t timeline, now time.Time) ([]boardView, error) {
	kept, err := s.store.view()
	if err != nil {
		return nil, err
	}
	views := make([]boardView, len(s.subjects))
	states := make([]migState, len(s.subjects))
	for i, b := range s.subjects {
		views[i].condition = t.condition(b, now)
		views[i].model = s.machine.boards[i]
		states[i] = kept.stateOf(b.id, views[i].model, views[i].loaded)
		views[i].state = states[i]
	}
	for i, b := range s.described(states) {
		views[i].Board = b
		views[i].linksDown()
	}
	return views, nil
}

// described are the healthy boards in the given MIG states. They are not to be
// changed: while nobody cuts a board, the same answer serves again.
func (s *Source) described(states []migState) []gpu.Board {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healthy == nil || !slices.EqualFunc(states, s.cut, migState.equal) {
		s.healthy, s.cut = s.machine.inventory(states).Boards, states
	}
	return s.healthy
}

// linksDown takes links that are down out of what the board has.
func (v *boardView) linksDown() {
	if len(v.nvlink) == 0 || v.Specs.NVLinks == nil {
		return
	}
	up := int64(0)
	for link := range *v.Specs.NVLinks {
		if !v.linkDown(int(link)) {
			up++
		}
	}
	bandwidth := up * v.model.nvlinkMBps
	v.Specs.NVLinks, v.Specs.NVLinkMBps = &up, &bandwidth
}

// there reports whether a board can be read.
func (v boardView) there() bool { return !v.gone && !v.lost && v.reason == "" }

// reasonLost is what the driver library says of a board that it cannot reach.
const reasonLost = "GPU is lost: it has fallen off the bus or cannot be reached; reset it or restart the node"

// Inventory lists the boards as the script leaves them.
func (s *Source) Inventory(ctx context.Context) (gpu.Inventory, error) {
	t, now, err := s.enter(ctx, anyBoard)
	if err != nil {
		return gpu.Inventory{}, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return gpu.Inventory{}, err
	}
	inv := gpu.Inventory{DriverVersion: s.machine.DriverVersion, CUDAVersion: s.machine.CUDAVersion, Environment: s.machine.Environment}
	for _, v := range views {
		switch {
		case v.gone:
			continue
		case v.lost:
			inv.Lost = append(inv.Lost, gpu.Lost{Index: v.Index, Reason: reasonLost})
			continue
		}
		b := v.Board
		b.Fault = v.reason
		b.Slices = nil
		for _, slice := range v.Slices {
			c := t.slice(slice.ID, v.loaded, now)
			if !c.gone {
				slice.Fault = c.reason
				b.Slices = append(b.Slices, slice)
			}
		}
		inv.Boards = append(inv.Boards, b)
	}
	return inv, nil
}

// find looks a board up by its ID.
func (s *Source) find(id string) (subject, error) {
	for _, b := range s.subjects {
		if string(b.id) == id {
			return b, nil
		}
	}
	return subject{}, fmt.Errorf("this machine has no board %s", id)
}
