// Package nvml reads the GPUs of this machine through NVIDIA's management
// library, hears of their errors from it and from the kernel's log, and cuts
// them into MIG slices.
//
//   - The library is loaded when it is first needed, and its absence is an
//     ordinary answer. Whatever fails is tried again on the next call, from
//     loading on if need be.
//   - No function of it is called before it was looked up: calling one that an
//     older driver lacks would end the process.
//   - What one GPU or one function does not answer hides nothing else. It is
//     missing then, and never zero.
//   - GPUs are known by their UUIDs. Indexes and minor numbers are readings.
//   - No program is started.
package nvml

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml/kernellog"
	"github.com/drover-ml/drover/internal/topology"
)

// libraryName is resolved by the dynamic loader, so LD_LIBRARY_PATH applies.
const libraryName = "libnvidia-ml.so.1"

// Config is where to read from. The zero Config is this machine.
type Config struct {
	// Library replaces the system's NVML.
	Library lib.Interface
	// Host replaces the files and the kernel log of this machine.
	Host Host
	// Logger is told what cannot be watched. Nil is none.
	Logger hclog.Logger
}

// New returns a source that reads through NVML. It touches nothing yet.
func New(c Config) *Source {
	s := &Source{
		lib: c.Library, host: c.Host, log: c.Logger, probe: func() error { return nil },
		known: map[string]bool{}, warned: map[string]bool{}, changes: make(chan struct{}, 1),
	}
	if s.lib == nil {
		s.lib = lib.New(lib.WithLibraryPath(libraryName))
		s.probe = probeLibrary
	}
	if s.host.Files == nil {
		s.host = thisHost()
	}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	s.kernel = &kernellog.Reader{Open: s.host.KernelLog, Uptime: s.host.Uptime}
	return s
}

// Source reads the GPUs of a machine. It is a gpu.Source, and also a
// health.Watcher, a health.VitalsReader, a topology.Source and a
// mig.Controller. Its methods may be called at the same time, but for those
// of mig.Controller.
type Source struct {
	lib   lib.Interface
	host  Host
	log   hclog.Logger
	probe func() error

	// life guards the library's life: readers hold it shared, and loading
	// and unloading take it alone.
	life  sync.RWMutex
	ready bool
	lives int // how often the library was loaded
	// listed are the boards that the kernel's part of the driver had then: the
	// library lists no others.
	listed []string

	changes chan struct{}

	mu     sync.Mutex
	warned map[string]bool // of what the operator was told
	known  map[string]bool // symbols looked up so far
	seen   []gpu.Board     // of the last good inventory
	roster int             // goes up when other boards are seen

	software softwareCache
	gauges   gauges
	running  processCache
	gate     gate
	kernel   *kernellog.Reader
}

var (
	_ gpu.Source          = (*Source)(nil)
	_ health.Watcher      = (*Source)(nil)
	_ health.VitalsReader = (*Source)(nil)
	_ topology.Source     = (*Source)(nil)
	_ mig.Controller      = (*Source)(nil)
)

// Changes delivers a hint when Watch hears of something after which the
// inventory may be another. Without Watch there are none.
func (s *Source) Changes() <-chan struct{} { return s.changes }

// warn tells an operator something once.
func (s *Source) warn(message string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.warned[message] {
		s.warned[message] = true
		s.log.Warn(message, "error", err)
	}
}

// changed gives the hint, unless one is waiting to be taken.
func (s *Source) changed() {
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

// Close unloads the library. A call after it loads it again.
func (s *Source) Close() error {
	s.unload()
	return nil
}

// probeLibrary tells whether the library can be loaded, in the loader's own
// words, which go-nvml swallows.
func probeLibrary() error {
	l := dl.New(libraryName, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := l.Open(); err != nil {
		return fmt.Errorf("%w: loading %s: %w", gpu.ErrNoDriver, libraryName, err)
	}
	defer func() { _ = l.Close() }() // go-nvml opens it again
	if l.Lookup("nvmlInit_v2") != nil && l.Lookup("nvmlInit") != nil {
		return fmt.Errorf("%s is not NVML: it has no nvmlInit; reinstall the NVIDIA driver", libraryName)
	}
	return nil
}

// load makes the library ready.
func (s *Source) load() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.ready {
		return nil
	}
	return s.loadLocked()
}

func (s *Source) loadLocked() error {
	if err := s.probe(); err != nil {
		return err
	}
	switch ret := s.lib.Init(); ret {
	case lib.SUCCESS:
	case lib.ERROR_LIBRARY_NOT_FOUND:
		return fmt.Errorf("%w: %s not found", gpu.ErrNoDriver, libraryName)
	case lib.ERROR_DRIVER_NOT_LOADED:
		return fmt.Errorf("%w: %s", gpu.ErrNoDriver, reason(ret))
	default:
		if ret == lib.ERROR_LIB_RM_VERSION_MISMATCH && s.host.libraryReplaced() {
			return fmt.Errorf("%w: %s was replaced on disk; the process still has the old one", gpu.ErrRestart, libraryName)
		}
		return fmt.Errorf("initialising NVML: %s", reason(ret))
	}
	s.mu.Lock()
	s.known = map[string]bool{}
	s.mu.Unlock()
	s.ready = true
	s.lives++
	s.listed = s.host.listedBoards()
	return nil
}

// use calls f with the library loaded, which it stays while f runs.
func (s *Source) use(doing string, f func() error) error {
	s.life.RLock()
	if !s.ready {
		s.life.RUnlock()
		if err := s.load(); err != nil {
			return err
		}
		s.life.RLock()
	}
	defer s.life.RUnlock()
	if !s.ready {
		return fmt.Errorf("%s: NVML was closed meanwhile", doing)
	}
	return f()
}

// alone calls f with the library loaded anew, while nothing else uses it: the
// process then holds no board open but by what f does.
func (s *Source) alone(f func() error) error {
	s.life.Lock()
	defer s.life.Unlock()
	s.unloadLocked()
	if err := s.loadLocked(); err != nil {
		return err
	}
	return f()
}

// unload makes the next call load again.
func (s *Source) unload() {
	s.life.Lock()
	defer s.life.Unlock()
	s.unloadLocked()
}

func (s *Source) unloadLocked() {
	if s.ready {
		s.gauges.forget(s.freeSample)
		s.lib.Shutdown() // there is nothing to do about a failure
		s.ready = false
	}
}

// has reports whether the library has one of the symbols. go-nvml calls the
// newest version there is of a function with several.
func (s *Source) has(symbols ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, symbol := range symbols {
		found, looked := s.known[symbol]
		if !looked {
			found = s.lib.Extensions().LookupSymbol(symbol) == nil
			s.known[symbol] = found
		}
		if found {
			return true
		}
	}
	return false
}

// required are the functions without which nothing can be listed.
var required = [][]string{
	{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
	{"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
	{"nvmlDeviceGetUUID"},
	{"nvmlDeviceGetName"},
}

// Inventory lists the boards. A board that cannot be read does not stop the
// others from being listed.
func (s *Source) Inventory(context.Context) (gpu.Inventory, error) {
	if s.boardsCame() {
		s.unload()
	}
	var inv gpu.Inventory
	err := s.use("listing GPUs", func() error { return s.inventory(&inv) })
	if err != nil {
		s.unload() // the driver may have gone or been replaced: begin anew
		return gpu.Inventory{}, err
	}
	s.remember(inv.Boards)
	if len(inv.Lost) > 0 || slices.ContainsFunc(inv.Boards, func(b gpu.Board) bool { return b.Fault != "" }) {
		s.unload() // a board that comes back is seen by a library loaded after that
	}
	return inv, nil
}

// boardsCame reports whether the kernel's part of the driver has other boards
// than when the library was loaded.
func (s *Source) boardsCame() bool {
	s.life.RLock()
	defer s.life.RUnlock()
	return s.ready && !slices.Equal(s.listed, s.host.listedBoards())
}

func (s *Source) inventory(inv *gpu.Inventory) error {
	count, err := s.count()
	if err != nil {
		return err
	}
	*inv = gpu.Inventory{DriverVersion: s.driverVersion(), CUDAVersion: s.cudaVersion(), Environment: s.software.read(s.host.Files)}
	minors := s.host.migMinors()
	for i := range count {
		board, ret := s.board(i, minors)
		switch {
		case ret == lib.SUCCESS:
			inv.Boards = append(inv.Boards, board)
		case concernsDriver(ret):
			return fmt.Errorf("reading GPU %d: %s", i, reason(ret))
		default:
			inv.Lost = append(inv.Lost, gpu.Lost{Index: i, Reason: reason(ret)})
		}
	}
	return nil
}

// count is the number of boards. It is an error if the library lacks what is
// needed to list them.
func (s *Source) count() (int, error) {
	for _, symbols := range required {
		if !s.has(symbols...) {
			return 0, fmt.Errorf("listing GPUs: %s lacks %s; install a newer NVIDIA driver", libraryName, symbols[0])
		}
	}
	count, ret := s.lib.DeviceGetCount()
	if ret != lib.SUCCESS {
		return 0, fmt.Errorf("counting GPUs: %s", reason(ret))
	}
	return count, nil
}

// remember keeps which boards there are, for what is told of them by other
// names than their IDs. One that no longer answers stays known: what the kernel
// log says of it may be why.
func (s *Source) remember(boards []gpu.Board) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := func(boards []gpu.Board) []gpu.ID {
		var ids []gpu.ID
		for _, b := range boards {
			if b.Fault == "" {
				ids = append(ids, b.ID)
			}
		}
		return ids
	}
	if !slices.Equal(ids(s.seen), ids(boards)) {
		s.roster++
	}
	kept := slices.Clone(boards)
	for _, old := range s.seen {
		if !slices.ContainsFunc(boards, func(b gpu.Board) bool { return b.ID == old.ID || b.PCIBusID == old.PCIBusID }) {
			old.Fault = reasonGone
			kept = append(kept, old)
		}
	}
	s.seen = kept
}

// reasonGone marks boards that are remembered, and no longer there.
const reasonGone = "no longer listed"

func (s *Source) driverVersion() string {
	if !s.has("nvmlSystemGetDriverVersion") {
		return ""
	}
	v, ret := s.lib.SystemGetDriverVersion()
	if ret != lib.SUCCESS {
		return ""
	}
	return trimmed(v)
}

func (s *Source) cudaVersion() string {
	if !s.has("nvmlSystemGetCudaDriverVersion") {
		return ""
	}
	v, ret := s.lib.SystemGetCudaDriverVersion()
	if ret != lib.SUCCESS || v <= 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10)
}
