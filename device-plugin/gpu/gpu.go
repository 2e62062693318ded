// Package gpu turns what a machine says about its GPUs into what Nomad wants
// to hear: device groups, reservations and statistics.
//
// It is pure: values in, values out. The machine is behind Source, which NVML
// and the simulation implement. Three promises hold whatever a Source does:
//
//   - One bad GPU never hides the others. A GPU that fails after it was seen
//     stays listed, unhealthy, with the reason.
//   - A board in MIG mode is never offered itself, only its slices are.
//   - A reading that is missing stays missing. It never becomes zero.
package gpu

import (
	"context"
	"errors"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// ID is the UUID of a GPU ("GPU-...") or of a MIG slice ("MIG-..."). It is
// what Nomad allocates and what CUDA selects devices by.
type ID string

// Source reads the GPUs of one machine. Its methods may be called at the same
// time.
type Source interface {
	// Inventory lists the boards. An error is for the machine as a whole (no
	// driver, driver and library differ); what is wrong with one board goes
	// into its Fault or into Inventory.Lost. Errors are retried by calling
	// again.
	Inventory(ctx context.Context) (Inventory, error)
	// Sample reads the given devices. Those it cannot read are left out.
	Sample(ctx context.Context, ids []ID) (map[ID]Sample, error)
	// Changes delivers a hint that Inventory would now answer differently.
	// Nil if the source cannot tell; it is then asked periodically only.
	Changes() <-chan struct{}
	// Close releases the source. Safe to call twice.
	Close() error
}

// ErrNoDriver is what Source.Inventory wraps on a machine without any NVIDIA
// driver: an ordinary state, not a failure.
var ErrNoDriver = errors.New("no NVIDIA driver on this machine")

// ErrRestart is what Source.Inventory wraps when only a new process can read
// the GPUs.
var ErrRestart = errors.New("the plugin must be started anew to read the GPUs")

// Inventory is one reading of all boards of a machine.
type Inventory struct {
	DriverVersion string // "550.54.15"; "" if unknown
	CUDAVersion   string // newest that the driver supports, "12.4"; "" if unknown
	Boards        []Board
	// Environment is what software the node has for its GPUs.
	Environment Environment
	// Lost are boards that the driver counts but that do not even tell their
	// ID.
	Lost []Lost
}

// Environment is what software a node has for its GPUs, beside the driver. ""
// and nil are absent or unknown.
type Environment struct {
	OpenKernelModules *bool    // the driver's open kernel modules are loaded
	CUDARuntimes      []string // versions of the CUDA toolkits found, "12.4.1"
	ContainerToolkit  string   // version of NVIDIA's container toolkit
	FabricManager     string   // version of the fabric manager
	MPSControl        string   // path of nvidia-cuda-mps-control
	ForwardCompat     []string // CUDA versions of the forward compatibility packages found
}

// Lost is a board, or a slice of one, that could not be identified.
type Lost struct {
	Index  int
	Reason string
}

// Board is one physical GPU.
type Board struct {
	ID       ID
	Index    int    // the driver's enumeration order; orders, never identifies
	Product  string // "NVIDIA H100 80GB HBM3"
	PCIBusID string // "00000000:1B:00.0"; "" if unknown
	// PCIDeviceID is the model's, "0x233010DE"; "" if unknown.
	PCIDeviceID string
	Serial      string // "" where unreadable
	Minor       *int   // of /dev/nvidia<minor>
	NUMANode    *int   // nil if unknown, or the machine has but one
	CPUs        string // nearest to it, as the kernel lists them: "0-23,48-71"
	Specs       Specs
	// Fault says why the board and its slices cannot be used; "" is healthy.
	Fault string
	// FaultAction is what becomes of the work on a board with a fault; "" is
	// gpustatus.Move.
	FaultAction gpustatus.Action
	// Nodes are the device files a task needs for the board; those that do
	// not exist on the host are not listed.
	Nodes []string
	// MIG is set when the board is in MIG mode, even with no slices.
	MIG    bool
	Slices []Slice
	// LostSlices are MIG devices that are there but do not tell their ID.
	LostSlices []Lost
}

// Slice is one MIG device of a board.
type Slice struct {
	ID    ID
	Index int // the MIG device index on its board; may have gaps
	// Product is the full name, "NVIDIA A100-SXM4-40GB MIG 1g.5gb". Empty
	// means the board's product, " MIG " and the profile.
	Product   string
	Profile   string // "1g.5gb"; "" if unknown
	MemoryMiB *int64
	// GPUInstance and ComputeInstance are the driver's IDs of what it is made
	// of.
	GPUInstance, ComputeInstance *int
	// Start and Size are its place in the board's memory slots.
	Start, Size *int
	// Multiprocessors is its number of streaming multiprocessors.
	Multiprocessors *int64
	Nodes           []string
	Fault           string
}

// Specs are what does not change while a board runs. Nil and "" are unknown.
type Specs struct {
	MemoryMiB         *int64
	PowerW            *int64 // the enforced limit
	BAR1MiB           *int64
	CoresClockMHz     *int64 // the maximum
	MemoryClockMHz    *int64 // the maximum
	PCIBandwidthMBps  *int64 // nominal, of the widest link the board can have
	DisplayState      string // "Enabled" or "Disabled"
	PersistenceMode   string // "Enabled" or "Disabled"
	Architecture      string // "hopper"
	ComputeCapability *float64
	Cores             *int64 // CUDA cores
	Multiprocessors   *int64
	NVLinks           *int64 // links that are up
	NVLinkMBps        *int64 // nominal, of all links together, one direction
	ComputeMode       string // "Default", "Exclusive_Process", "Prohibited"
}

// Sample is one reading of a device. Nil is unsupported or unreadable.
type Sample struct {
	Time           time.Time
	PowerW         *int64
	GPUPercent     *int64 // time during which a kernel ran
	MemoryPercent  *int64 // time during which memory was read or written
	EncoderPercent *int64
	DecoderPercent *int64
	TemperatureC   *int64
	MemoryUsedMiB  *int64
	MemoryTotalMiB *int64
	BAR1UsedMiB    *int64
	BAR1TotalMiB   *int64
	ECCL1          *int64 // corrected errors since the driver was loaded
	ECCL2          *int64
	ECCMemory      *int64

	MemoryTemperatureC *int64
	SMClockMHz         *int64
	MemoryClockMHz     *int64
	VideoClockMHz      *int64
	FanPercent         *int64
	EnergyMJ           *int64 // millijoules since the driver was loaded
	MemoryReservedMiB  *int64
	PCIeTxKBps         *int64
	PCIeRxKBps         *int64
	PerformanceState   *int64 // 0 is the fastest
	Profiling          *Profiling
}

// Profiling are the profiling metrics of the last sample period: shares of 1,
// and rates in bytes per second. Nil is unsupported, as on boards before
// Hopper without DCGM.
type Profiling struct {
	GraphicsActive, SMActive, SMOccupancy, TensorActive *float64
	DRAMActive, FP64Active, FP32Active, FP16Active      *float64
	PCIeTxBps, PCIeRxBps, NVLinkTxBps, NVLinkRxBps      *float64
}
