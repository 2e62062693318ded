package nvmltest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
)

// Machine is a library with boards behind it.
type Machine struct {
	*server.Server
	Boards []*Board

	mu      sync.Mutex
	lacking map[string]bool // symbols
	only    []string        // symbols; nil is all
	sets    map[*set]bool   // event sets that are not freed
	samples int             // GPM samples that are not freed
	calls   map[string]int
	looked  map[string]bool // symbols that were looked up
}

// New makes a machine of one of go-nvml's servers: dgxa100.New(), say. Links
// is how many NVLinks each board has to the switches.
func New(s *server.Server, links int) *Machine {
	m := &Machine{Server: s, lacking: map[string]bool{}, sets: map[*set]bool{}, calls: map[string]int{}, looked: map[string]bool{}}
	for i, d := range s.Devices {
		m.Boards = append(m.Boards, newBoard(m, d.(*server.Device), i, links))
	}
	s.DeviceGetHandleByUUIDFunc = m.byUUID
	s.LookupSymbolFunc = m.lookup
	s.EventSetCreateFunc = m.createSet
	s.GpmSampleAllocFunc = m.allocSample
	s.GpmMetricsGetFunc = metrics
	s.ShutdownFunc = m.shutdown
	Unsupported(&s.Interface)
	return m
}

// Lack makes the library lack functions, as an older driver's does.
func (m *Machine) Lack(symbols ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range symbols {
		m.lacking[s] = true
	}
}

// Only makes the library lack all functions but these.
func (m *Machine) Only(symbols ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.only = symbols
}

// Looked reports whether a symbol was looked up.
func (m *Machine) Looked(symbol string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.looked[symbol]
}

func (m *Machine) lookup(symbol string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looked[symbol] = true
	if m.lacking[symbol] || m.only != nil && !slices.Contains(m.only, symbol) {
		return fmt.Errorf("no such symbol: %s", symbol)
	}
	return nil
}

// Calls is how often a function that costs much was called.
func (m *Machine) Calls(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[name]
}

func (m *Machine) count(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[name]++
}

func (m *Machine) byUUID(uuid string) (lib.Device, lib.Return) {
	for _, b := range m.Boards {
		if b.UUID == uuid {
			if ret := b.answer(); ret != lib.SUCCESS {
				return nil, ret
			}
			return b.Device, lib.SUCCESS
		}
		if d := b.slice(uuid); d != nil {
			return d, lib.SUCCESS
		}
	}
	return nil, lib.ERROR_NOT_FOUND
}

// set is an event set.
type set struct {
	mock.EventSet
	boards []*Board
	events chan lib.EventData
}

func (m *Machine) createSet() (lib.EventSet, lib.Return) {
	s := &set{events: make(chan lib.EventData, 1000)}
	s.FreeFunc = func() lib.Return {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.sets, s)
		return lib.SUCCESS
	}
	s.WaitFunc = func(milliseconds uint32) (lib.EventData, lib.Return) {
		m.mu.Lock()
		boards := slices.Clone(s.boards)
		m.mu.Unlock()
		for _, b := range boards {
			if ret := b.answer(); ret != lib.SUCCESS {
				return lib.EventData{}, ret
			}
		}
		select {
		case e := <-s.events:
			return e, lib.SUCCESS
		case <-time.After(time.Duration(milliseconds) * time.Millisecond):
			return lib.EventData{}, lib.ERROR_TIMEOUT
		}
	}
	Unsupported(&s.EventSet)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets[s] = true
	return s, lib.SUCCESS
}

// shutdown takes the event sets with it.
func (m *Machine) shutdown() lib.Return {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.sets)
	return lib.SUCCESS
}

func (m *Machine) register(b *Board, to lib.EventSet) lib.Return {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := to.(*set)
	s.boards = append(s.boards, b)
	return lib.SUCCESS
}

// Registered is how many event sets the board is in that are not freed.
func (m *Machine) Registered(b *Board) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for s := range m.sets {
		if slices.Contains(s.boards, b) {
			n++
		}
	}
	return n
}

// Leaks is how many event sets and GPM samples are not freed.
func (m *Machine) Leaks() (sets, samples int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sets), m.samples
}

// Whole is the instance of an event that is of no slice.
const Whole = 0xFFFFFFFF

// Emit reports an event to all sets that the board is in.
func (m *Machine) Emit(b *Board, kind, data uint64, gpuInstance, computeInstance uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.sets {
		if slices.Contains(s.boards, b) {
			s.events <- lib.EventData{
				Device: b.Device, EventType: kind, EventData: data, GpuInstanceId: gpuInstance, ComputeInstanceId: computeInstance,
			}
		}
	}
}

func (m *Machine) allocSample() (lib.GpmSample, lib.Return) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples++
	freed := false
	return &mock.GpmSample{FreeFunc: func() lib.Return {
		m.mu.Lock()
		defer m.mu.Unlock()
		if freed {
			panic("a GPM sample is freed twice")
		}
		freed = true
		m.samples--
		return lib.SUCCESS
	}}, lib.SUCCESS
}

// metrics answers with a value for each metric that tells it from others:
// twice its number, in the driver's unit. FP64 it does not have.
func metrics(q *lib.GpmMetricsGetType) lib.Return {
	for i := range q.NumMetrics {
		metric := &q.Metrics[i]
		metric.Value = 2 * float64(metric.MetricId)
		if lib.GpmMetricId(metric.MetricId) == lib.GPM_METRIC_FP64_UTIL {
			metric.NvmlReturn = uint32(lib.ERROR_NOT_SUPPORTED)
		}
	}
	return lib.SUCCESS
}
