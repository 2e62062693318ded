package nvml

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/kernellog"
	"github.com/drover-ml/drover/device-plugin/nvml/pci"
)

const (
	// eventPatience is how long one wait for an event is. The library cannot
	// be unloaded meanwhile, so it is short.
	eventPatience = 500 * time.Millisecond
	// eventPause is how soon watching begins anew after a GPU was lost under
	// it: the driver then answers every wait with that at once.
	eventPause = 2 * time.Second
	// wholeBoard is NVML's ID of no instance.
	wholeBoard = 0xFFFFFFFF
)

// causes are NVML events of things that have a code, which some drivers report
// by the one and some by the other.
var causes = map[uint64]struct {
	xid  int
	text string
}{
	lib.EventTypeDoubleBitEccError:     {48, "double-bit ECC error"},
	lib.EventTypeDramRetirementEvent:   {63, "a row of memory was remapped or a page retired"},
	lib.EventTypeDramRetirementFailure: {64, "a row of memory could not be remapped or a page not retired"},
	lib.EventTypeNonFatalPoisonError:   {94, "contained memory error"},
	lib.EventTypeFatalPoisonError:      {95, "uncontained memory error"},
}

// hints are NVML events after which the inventory or the vitals are others.
const hints = lib.EventMigConfigChange | lib.EventTypeGpuUnavailableError | lib.EventTypeGpuRecoveryAction

// Watch reports what the driver says of its GPUs, by NVML's events and in the
// kernel log, each thing once. It goes on until ctx ends; one of the two is
// enough. An error is that NVML cannot be had or that neither works; what the
// kernel log has meanwhile is reported by the next call. emit is not called
// twice at the same time.
func (s *Source) Watch(ctx context.Context, emit func(gpu.Event)) error {
	var one sync.Mutex
	deliver := func(e gpu.Event, place string) {
		one.Lock()
		defer one.Unlock()
		if ctx.Err() == nil && s.gate.admit(e, place) {
			emit(e)
			s.changed()
		}
	}
	if err := s.use("watching GPUs", func() error { return nil }); err != nil {
		return err
	}
	if !s.knowsBoards() {
		if _, err := s.Inventory(ctx); err != nil {
			return err
		}
	}
	parts, stop := context.WithCancel(ctx)
	defer stop()
	var logErr error
	var running sync.WaitGroup
	running.Go(func() {
		logErr = s.kernel.Follow(parts, func(at time.Time, l kernellog.Line) {
			if e, ok := s.eventOf(at, l); ok {
				place := "kernel log"
				if l.Inferred {
					place = "kernel log, without its code"
				}
				deliver(e, place)
			}
		}, s.changed)
		if logErr != nil {
			s.warn("the kernel log cannot be read; GPU events are NVML's only, without the process and the driver's words", logErr)
		}
	})
	eventErr := s.watchEvents(parts, deliver)
	if errors.Is(eventErr, errNoEvents) {
		s.warn("NVML has no events; GPU events are those of the kernel log only", eventErr)
		running.Wait() // until ctx ends, or the log cannot be read
	}
	stop()
	running.Wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(eventErr, errNoEvents):
		return fmt.Errorf("%w; %w", eventErr, logErr)
	}
	return eventErr
}

// eventOf is the event that a line of the kernel log tells of. There is none
// for boards that NVML does not list.
func (s *Source) eventOf(at time.Time, l kernellog.Line) (gpu.Event, bool) {
	board, ok := s.boardAt(l.At)
	return gpu.Event{
		Time: at, Board: board, XID: l.XID, PID: l.PID, Text: l.Text,
		GPUInstance: l.GPUInstance, ComputeInstance: l.ComputeInstance,
	}, ok
}

// boardAt is the board in a slot, as last seen.
func (s *Source) boardAt(at pci.Slot) (gpu.ID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.seen {
		if seen, ok := pci.Parse(b.PCIBusID); ok && seen == at {
			return b.ID, true
		}
	}
	return "", false
}

func (s *Source) knowsBoards() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen) > 0
}

// errNoEvents is a driver that cannot report events.
var errNoEvents = errors.New("the NVIDIA driver reports no events")

// watchEvents waits for NVML's events. Whenever the boards are others than
// before, or the library was loaded anew, it registers for them anew.
func (s *Source) watchEvents(ctx context.Context, deliver func(gpu.Event, string)) error {
	for ctx.Err() == nil {
		set, err := s.openEvents()
		if err != nil {
			return err
		}
		pause := set.watch(ctx, deliver)
		set.close()
		if pause && !sleep(ctx, eventPause) {
			return nil
		}
	}
	return nil
}

// sleep reports whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// eventSet is a registration for the events of the boards that there are.
type eventSet struct {
	*Source
	set    lib.EventSet
	boards map[lib.Device]gpu.ID // those that have events
	// era and members are Source.lives and Source.roster when it was made.
	era, members int
}

// openEvents registers for the events of each board that has any.
func (s *Source) openEvents() (*eventSet, error) {
	e := &eventSet{Source: s, boards: map[lib.Device]gpu.ID{}}
	failure := lib.Return(lib.SUCCESS)
	err := s.use("watching GPUs", func() error {
		for _, symbols := range [][]string{
			{"nvmlEventSetCreate"}, {"nvmlEventSetFree"}, {"nvmlEventSetWait_v2", "nvmlEventSetWait"},
			{"nvmlDeviceRegisterEvents"}, {"nvmlDeviceGetSupportedEventTypes"},
		} {
			if !s.has(symbols...) {
				return fmt.Errorf("%w: %s lacks %s", errNoEvents, libraryName, symbols[0])
			}
		}
		count, err := s.count()
		if err != nil {
			return err
		}
		s.mu.Lock()
		e.era, e.members = s.lives, s.roster
		s.mu.Unlock()
		if e.set, failure = s.lib.EventSetCreate(); failure == lib.ERROR_NOT_SUPPORTED {
			return errNoEvents
		}
		if failure != lib.SUCCESS {
			return fmt.Errorf("watching GPUs: %s", reason(failure))
		}
		for i := range count {
			e.register(i)
		}
		return nil
	})
	if concernsDriver(failure) {
		s.unload()
	}
	return e, err
}

// register leaves out a board that does not answer or has no events; it is
// tried again when the boards are others.
func (e *eventSet) register(index int) {
	d, ret := e.lib.DeviceGetHandleByIndex(index)
	if ret != lib.SUCCESS {
		return
	}
	uuid, ret := d.GetUUID()
	if ret != lib.SUCCESS {
		return
	}
	supported, ret := d.GetSupportedEventTypes()
	if ret != lib.SUCCESS {
		return
	}
	wanted := uint64(lib.EventTypeXidCriticalError | hints)
	for kind := range causes {
		wanted |= kind
	}
	if wanted &= supported; wanted == 0 {
		return
	}
	if d.RegisterEvents(wanted, e.set) == lib.SUCCESS {
		e.boards[d] = gpu.ID(trimmed(uuid))
	}
}

// watch delivers events until it has to begin anew; pause is after errors that
// would come at once again.
func (e *eventSet) watch(ctx context.Context, deliver func(gpu.Event, string)) (pause bool) {
	for ctx.Err() == nil {
		data, ret, current := e.wait()
		switch {
		case !current:
			return false
		case ret == lib.SUCCESS:
			e.deliver(data, deliver)
		case ret == lib.ERROR_TIMEOUT:
			if len(e.boards) == 0 && !sleep(ctx, eventPause) {
				return false
			}
		case concernsBoard(ret):
			e.changed() // the inventory tells which one it is
			return true
		case concernsDriver(ret):
			e.unload()
			return true
		default:
			return true
		}
	}
	return false
}

// wait is for one event. It is not current once the library was loaded anew or
// the boards are others.
func (e *eventSet) wait() (data lib.EventData, ret lib.Return, current bool) {
	e.life.RLock()
	defer e.life.RUnlock()
	e.mu.Lock()
	current = e.ready && e.lives == e.era && e.roster == e.members
	e.mu.Unlock()
	if !current || len(e.boards) == 0 {
		return data, lib.ERROR_TIMEOUT, current
	}
	data, ret = e.set.Wait(uint32(eventPatience.Milliseconds()))
	return data, ret, true
}

// close frees the set, unless it went with the library.
func (e *eventSet) close() {
	e.life.RLock()
	defer e.life.RUnlock()
	if e.ready && e.lives == e.era {
		e.set.Free()
	}
}

// deliver makes an event of what NVML tells.
func (e *eventSet) deliver(data lib.EventData, deliver func(gpu.Event, string)) {
	if data.EventType&hints != 0 {
		e.changed()
	}
	board, known := e.boards[data.Device]
	if !known {
		return
	}
	event := gpu.Event{
		Time: time.Now(), Board: board,
		GPUInstance: instanceID(data.GpuInstanceId), ComputeInstance: instanceID(data.ComputeInstanceId),
	}
	if data.EventType == lib.EventTypeXidCriticalError && data.EventData > 0 && data.EventData <= mostXID {
		event.XID = int(data.EventData)
		deliver(event, "NVML")
	}
	if cause, ok := causes[data.EventType]; ok {
		event.XID, event.Text = cause.xid, cause.text
		deliver(event, "NVML, its cause")
	}
}

// mostXID is far beyond the codes of today.
const mostXID = 99999

func instanceID(id uint32) *int {
	if id == wholeBoard {
		return nil
	}
	n := int(id)
	return &n
}
