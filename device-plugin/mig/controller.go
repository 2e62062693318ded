package mig

import (
	"context"
	"strconv"
	"strings"
)

// Controller reads and changes the MIG state of a machine's boards. NVML and
// the simulation implement it. Its methods are not safe to call at the same
// time.
type Controller interface {
	// Boards lists the boards that can be in MIG mode at all.
	Boards(ctx context.Context) ([]Board, error)
	// SetMode turns MIG mode on or off. It reports whether the change waits
	// for a reset of the board (as on Ampere boards in use).
	SetMode(ctx context.Context, board string, enabled bool) (pending bool, err error)
	// Create makes a GPU instance at a place, and its compute instances.
	Create(ctx context.Context, board string, s Instance) error
	// Destroy removes a GPU instance with its compute instances. It fails with
	// ErrInUse while a process has it open.
	Destroy(ctx context.Context, board string, gpuInstance int) error
}

// Board is the MIG state of one board, as the driver reports it.
type Board struct {
	ID      string // UUID
	Index   int
	Product string // "NVIDIA A100-SXM4-40GB"
	// PCIDeviceID is "0x20B010DE" as mig-parted files have it; "" if unknown.
	PCIDeviceID string
	// ProfileNames are the profiles as the driver names them, in any order;
	// nil if it does not tell. The gigabytes in them differ between boards and
	// drivers that report other memory sizes.
	ProfileNames []string
	Enabled      bool // MIG mode at present
	Pending      bool // MIG mode after the next reset
	Instances    []Instance
	// Processes are the PIDs that have the board or a slice of it open.
	Processes []int
}

// Instance is a GPU instance and its compute instances.
type Instance struct {
	GPUInstance int // the driver's ID; of a reading only
	Profile     string
	Placement   Placement
	// Compute are the compute slices of each compute instance; one that takes
	// all of them is the rule. A GPU instance without any has no MIG device.
	Compute []int
	// UUIDs are of the MIG devices, by compute instance; of a reading only.
	UUIDs []string
	// Processes are the PIDs that have a device of it open, where the driver
	// tells; of a reading only. A PID of Board.Processes that is in no
	// instance may be in any.
	Processes []int
}

// Whole reports whether a single compute instance has all compute slices.
func (in Instance) Whole() bool {
	return len(in.Compute) == 1 && strings.HasPrefix(in.Profile, strconv.Itoa(in.Compute[0])+"g.")
}

// Placement is where a GPU instance sits in a board's memory slots.
type Placement struct {
	Start int `json:"start"`
	Size  int `json:"size"`
}
