package gpu

import (
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// Vitals are what tells the health of one board. They change rarely and cost
// more to read than a Sample, so they are read less often. Nil is unsupported
// or unreadable; it is never zero.
type Vitals struct {
	Time time.Time

	// ECC counts errors; nil where ECC is off or absent.
	ECC *ECC
	// RemappedRows is of boards that replace rows of memory (from Ampere on).
	RemappedRows *RemappedRows
	// RetiredPages is of older boards, which take pages out of use.
	RetiredPages *RetiredPages

	TemperatureC         *int64
	MemoryTemperatureC   *int64
	SlowdownTemperatureC *int64 // at which the hardware slows down
	ShutdownTemperatureC *int64
	// Throttle are the reasons for which clocks are held down at present:
	// empty, but not nil, if there are none.
	Throttle []ThrottleReason
	// PowerViolation and ThermalViolation are for how long clocks have been
	// held down since the driver was loaded.
	PowerViolation, ThermalViolation *time.Duration
	// EnergyMJ is the energy used since the driver was loaded or the board
	// reset, in millijoules: when it falls, one of the two has happened.
	EnergyMJ *int64

	PCIe    *PCIe
	NVLinks []NVLink
	// FabricState is of boards behind NVSwitches: "completed" when the fabric
	// manager has joined the board to the fabric; "" if there is none.
	FabricState string
	// RecoveryAction is what the driver itself recommends: "none", "reset",
	// "reboot", "drain", "drain-and-reset"; "" where it does not say.
	RecoveryAction string
}

// ECC are error counts since the driver was loaded (volatile) and since the
// board was made (aggregate).
type ECC struct {
	VolatileCorrected, VolatileUncorrected   *int64
	AggregateCorrected, AggregateUncorrected *int64
	// The uncorrected volatile errors by where they happened.
	SRAMUncorrected, DRAMUncorrected *int64
}

// RemappedRows is the state of row remapping.
type RemappedRows struct {
	Corrected, Uncorrected int64 // rows remapped for such errors
	Pending                bool  // takes effect at the next reset
	Failed                 bool  // no spare row was left
}

// RetiredPages is the state of page retirement.
type RetiredPages struct {
	SingleBit, DoubleBit int64
	Pending              bool // takes effect at the next reset
}

// ThrottleReason says why clocks are held down.
type ThrottleReason string

// Throttle reasons, in NVML's terms of clock event reasons.
const (
	ThrottleIdle            ThrottleReason = "idle"
	ThrottleAppClocks       ThrottleReason = "application-clocks"
	ThrottleSWPowerCap      ThrottleReason = "sw-power-cap"
	ThrottleHWSlowdown      ThrottleReason = "hw-slowdown"
	ThrottleSyncBoost       ThrottleReason = "sync-boost"
	ThrottleSWThermal       ThrottleReason = "sw-thermal"
	ThrottleHWThermal       ThrottleReason = "hw-thermal"
	ThrottleHWPowerBrake    ThrottleReason = "hw-power-brake"
	ThrottleDisplaySettings ThrottleReason = "display-clocks"
)

// PCIe is the state of a board's link.
type PCIe struct {
	Generation, MaxGeneration *int64
	Width, MaxWidth           *int64 // lanes
	Replays                   *int64 // since the driver was loaded
}

// NVLink is one link of a board.
type NVLink struct {
	Link   int
	Active bool
	// Error counters since the driver was loaded.
	CRCErrors, ReplayErrors, RecoveryErrors *int64
	// Transferred payload since the driver was loaded.
	TransmittedKiB, ReceivedKiB *int64
}

// Event is one thing that the driver reported of a board, at once.
type Event struct {
	Time  time.Time
	Board ID
	// GPUInstance and ComputeInstance narrow it down to a MIG slice.
	GPUInstance, ComputeInstance *int
	// XID is the driver's error code; 0 of a Reset.
	XID int
	// Reset tells, instead of an error, that the board was reset.
	Reset bool
	// Text is what the driver said, if it did: a line of the kernel log.
	Text string
	// PID is the process that was on the GPU; 0 is unknown.
	PID int
}

// Process is a process that has a board or slice open.
type Process struct {
	PID       int
	Device    ID // a board, or a slice where the driver tells which
	Kind      ProcessKind
	MemoryMiB *int64
	// GPUPercent is its share of the last sample period.
	GPUPercent *int64
}

// ProcessKind is what a process uses a GPU for.
type ProcessKind string

// The kinds that the driver tells apart.
const (
	ProcessCompute  ProcessKind = "compute"
	ProcessGraphics ProcessKind = "graphics"
	ProcessMPS      ProcessKind = "mps"
)

// Fault is why a device must not get new work.
type Fault struct {
	Reason string           // for people: what happened, and what brings the device back
	Action gpustatus.Action // what becomes of the work that runs there
}
