// Package nvml reads the GPUs of this machine through NVIDIA's management
// library.
//
// The library is loaded when it is first needed, and its absence is an
// ordinary answer. No function of it is called before it was looked up, since
// calling one that an older driver lacks would end the process. Whatever fails
// is tried again on the next call, from loading on if need be.
package nvml

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// libraryName is resolved by the dynamic loader, so LD_LIBRARY_PATH applies.
const libraryName = "libnvidia-ml.so.1"

// Config is where to read from. The zero Config is this machine.
type Config struct {
	// Library replaces the system's NVML.
	Library lib.Interface
	// Host replaces what device files and MIG capabilities are looked up in.
	Host Host
}

// New returns a source that reads through NVML. It touches nothing yet.
func New(c Config) gpu.Source {
	s := &source{lib: c.Library, host: c.Host, probe: func() error { return nil }, known: map[string]bool{}}
	if s.lib == nil {
		s.lib = lib.New(lib.WithLibraryPath(libraryName))
		s.probe = probeLibrary
	}
	if s.host.Exists == nil {
		s.host = thisHost()
	}
	return s
}

type source struct {
	lib   lib.Interface
	host  Host
	probe func() error

	// life guards the library's life: readers hold it shared, and loading
	// and unloading take it alone.
	life  sync.RWMutex
	ready bool

	mu    sync.Mutex
	known map[string]bool // symbols looked up so far
}

var _ gpu.Source = (*source)(nil)

// Changes is nil: NVML is asked periodically.
func (s *source) Changes() <-chan struct{} { return nil }

func (s *source) Close() error {
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
func (s *source) load() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.ready {
		return nil
	}
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
		return fmt.Errorf("initialising NVML: %s", reason(ret))
	}
	s.mu.Lock()
	s.known = map[string]bool{}
	s.mu.Unlock()
	s.ready = true
	return nil
}

// unload makes the next call load again.
func (s *source) unload() {
	s.life.Lock()
	defer s.life.Unlock()
	if s.ready {
		s.lib.Shutdown() // there is nothing to do about a failure
		s.ready = false
	}
}

// has reports whether the library has one of the symbols. go-nvml calls the
// newest version there is of a function with several.
func (s *source) has(symbols ...string) bool {
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
func (s *source) Inventory(context.Context) (gpu.Inventory, error) {
	if err := s.load(); err != nil {
		return gpu.Inventory{}, err
	}
	inv, err := s.inventory()
	if err != nil {
		s.unload() // the driver may have gone or been replaced: begin anew
	}
	return inv, err
}

func (s *source) inventory() (gpu.Inventory, error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if !s.ready {
		return gpu.Inventory{}, fmt.Errorf("listing GPUs: NVML was closed meanwhile")
	}
	for _, symbols := range required {
		if !s.has(symbols...) {
			return gpu.Inventory{}, fmt.Errorf("listing GPUs: %s lacks %s; install a newer NVIDIA driver", libraryName, symbols[0])
		}
	}
	count, ret := s.lib.DeviceGetCount()
	if ret != lib.SUCCESS {
		return gpu.Inventory{}, fmt.Errorf("counting GPUs: %s", reason(ret))
	}
	inv := gpu.Inventory{DriverVersion: s.driverVersion(), CUDAVersion: s.cudaVersion()}
	minors := s.host.migMinors()
	for i := range count {
		board, ret := s.board(i, minors)
		switch {
		case ret == lib.SUCCESS:
			inv.Boards = append(inv.Boards, board)
		case concernsDriver(ret):
			return gpu.Inventory{}, fmt.Errorf("reading GPU %d: %s", i, reason(ret))
		default:
			inv.Lost = append(inv.Lost, gpu.Lost{Index: i, Reason: reason(ret)})
		}
	}
	return inv, nil
}

func (s *source) driverVersion() string {
	if !s.has("nvmlSystemGetDriverVersion") {
		return ""
	}
	v, ret := s.lib.SystemGetDriverVersion()
	if ret != lib.SUCCESS {
		return ""
	}
	return trimmed(v)
}

func (s *source) cudaVersion() string {
	if !s.has("nvmlSystemGetCudaDriverVersion") {
		return ""
	}
	v, ret := s.lib.SystemGetCudaDriverVersion()
	if ret != lib.SUCCESS || v <= 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10)
}

// concernsDriver tells the errors that are of the driver as a whole, not of
// one GPU.
func concernsDriver(ret lib.Return) bool {
	switch ret {
	case lib.ERROR_UNINITIALIZED, lib.ERROR_DRIVER_NOT_LOADED, lib.ERROR_LIB_RM_VERSION_MISMATCH:
		return true
	}
	return false
}

// concernsBoard tells the errors after which nothing works on a GPU.
func concernsBoard(ret lib.Return) bool {
	return ret == lib.ERROR_GPU_IS_LOST || ret == lib.ERROR_RESET_REQUIRED
}

// reason is an error for people, with what to do about it. It does not ask the
// library, which may lack the function for it.
func reason(ret lib.Return) string {
	switch ret {
	case lib.ERROR_UNINITIALIZED:
		return "NVML lost its connection to the driver"
	case lib.ERROR_NO_PERMISSION:
		return "no permission to use the GPU; run the agent as root"
	case lib.ERROR_INSUFFICIENT_POWER:
		return "the GPU has no external power; check its power cables"
	case lib.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA kernel module is not loaded; run nvidia-smi to see why"
	case lib.ERROR_TIMEOUT:
		return "the GPU did not answer in time"
	case lib.ERROR_IRQ_ISSUE:
		return "the kernel has an interrupt problem with the GPU; see dmesg"
	case lib.ERROR_CORRUPTED_INFOROM:
		return "the GPU's infoROM is corrupted"
	case lib.ERROR_GPU_IS_LOST:
		return "GPU is lost: it has fallen off the bus or cannot be reached; reset it or restart the node"
	case lib.ERROR_RESET_REQUIRED:
		return "the GPU needs a reset: nvidia-smi --gpu-reset"
	case lib.ERROR_OPERATING_SYSTEM:
		return "the operating system blocked the driver; see dmesg"
	case lib.ERROR_LIB_RM_VERSION_MISMATCH:
		return "driver/library version mismatch: the NVIDIA kernel module is not of the installed library's version; reload the module or restart the node"
	case lib.ERROR_MEMORY:
		return "the driver is out of memory"
	case lib.ERROR_NOT_FOUND:
		return "the driver does not find the GPU"
	case lib.ERROR_NOT_SUPPORTED:
		return "not supported by the driver"
	case lib.ERROR_UNKNOWN:
		return "unknown error of the NVIDIA driver; see dmesg"
	}
	return fmt.Sprintf("NVML error %d", int(ret))
}

// thisHost is the machine that the process runs on.
func thisHost() Host {
	return Host{
		Exists: func(path string) bool {
			info, err := os.Stat(path)
			return err == nil && info.Mode()&os.ModeCharDevice != 0
		},
		ReadFile: os.ReadFile,
	}
}
