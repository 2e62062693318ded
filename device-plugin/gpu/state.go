package gpu

import (
	"cmp"
	"slices"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// Device is one unit that Nomad may allocate: a board, a slice of one, or a
// replica of either.
type Device struct {
	ID ID // Nomad's; of a replica "<UUID>::<n>"
	// Hardware is the UUID of the board or slice; equal to ID but for replicas.
	Hardware ID
	Parent   ID     // the board's; equal to Hardware for a whole board
	Type     string // the second part of the group's name: Type or SharedType
	Name     string // the third part
	Profile  string // of a slice; "" for a whole board
	PCIBusID string
	Specs    Specs // a slice's memory and multiprocessors are its own
	Nodes    []string
	Fault    Fault
	// Sharing is how replicas share the hardware, "time-slicing" or "mps"; ""
	// for a device of one task only.
	Sharing string
	// Board is the last reading of the board, without its slices.
	Board Board
	// Slice is the last reading of the slice; nil for a whole board.
	Slice *Slice
}

// State is what is known of a machine's devices after a series of readings.
// The zero State knows none. States are values; methods return new ones.
type State struct {
	DriverVersion string
	CUDAVersion   string
	Environment   Environment
	// Devices are sorted by board and slice index.
	Devices []Device
}

// unlisted is the fault of a board that was there and is now gone without a
// word from the driver.
var unlisted = Fault{Reason: "the driver no longer lists this GPU", Action: gpustatus.End}

// Next is the state after a reading. Boards that were known and are lost or
// no longer listed stay, unhealthy, so that an operator sees which GPU is
// missing; slices that are gone from a healthy board were removed by somebody
// and go.
func (s State) Next(inv Inventory) State {
	next := State{DriverVersion: inv.DriverVersion, CUDAVersion: inv.CUDAVersion, Environment: inv.Environment}
	listed := make(map[ID]Board, len(inv.Boards))
	for _, b := range inv.Boards {
		listed[b.ID] = b
		if b.Fault != "" && s.knows(b.ID) {
			continue // what was known of it is better than a reading of a broken board
		}
		next.Devices = append(next.Devices, devicesOf(b)...)
	}
	for _, d := range s.Devices {
		b, ok := listed[d.Parent]
		switch {
		case ok && b.Fault != "":
			d.Fault = b.fault()
		case ok:
			reason := lostAt(b.LostSlices, d.sliceIndex())
			if _, found := next.Find(d.ID); found || reason == "" || d.Slice == nil {
				continue
			}
			d.Fault = Fault{Reason: reason, Action: gpustatus.Move}
		case len(inv.Lost) > 0:
			// Indexes shift when a board leaves the bus, so a lost board
			// need not be at its old index.
			d.Fault = Fault{Reason: cmp.Or(lostAt(inv.Lost, d.Board.Index), inv.Lost[0].Reason), Action: gpustatus.End}
		default:
			d.Fault = unlisted
		}
		next.Devices = append(next.Devices, d)
	}
	slices.SortStableFunc(next.Devices, byPosition)
	return next
}

// Failed is the state after a reading that failed as a whole: every device
// known so far is unhealthy for that reason, unless something worse is known
// of it. What runs may finish: a driver that does not answer questions may
// well compute.
func (s State) Failed(reason string) State {
	s.Devices = slices.Clone(s.Devices)
	for i := range s.Devices {
		d := &s.Devices[i]
		d.Fault = Worst(Fault{Reason: reason, Action: gpustatus.Keep}, d.Fault)
	}
	return s
}

// Find looks a device up by its ID.
func (s State) Find(id ID) (Device, bool) { return find(s.Devices, id) }

func find(devices []Device, id ID) (Device, bool) {
	if i := slices.IndexFunc(devices, func(d Device) bool { return d.ID == id }); i >= 0 {
		return devices[i], true
	}
	return Device{}, false
}

func (s State) knows(board ID) bool {
	return slices.ContainsFunc(s.Devices, func(d Device) bool { return d.Parent == board })
}

// lostAt is why the board or slice at an index was lost; "" if it was not.
func lostAt(lost []Lost, index int) string {
	for _, l := range lost {
		if l.Index == index {
			return l.Reason
		}
	}
	return ""
}

func (d Device) sliceIndex() int {
	if d.Slice == nil {
		return 0
	}
	return d.Slice.Index
}

// byPosition orders by board, then slice. The ID decides between a board that
// took the index of one that left and that one.
func byPosition(a, b Device) int {
	return cmp.Or(cmp.Compare(a.Board.Index, b.Board.Index), cmp.Compare(a.sliceIndex(), b.sliceIndex()), cmp.Compare(a.ID, b.ID))
}

// fault is that of a board which was read.
func (b Board) fault() Fault {
	if b.Fault == "" {
		return Fault{}
	}
	return Fault{Reason: b.Fault, Action: cmp.Or(b.FaultAction, gpustatus.Move)}
}

func devicesOf(b Board) []Device {
	whole := Device{
		ID: b.ID, Hardware: b.ID, Parent: b.ID, Type: Type, Name: b.Product, PCIBusID: b.PCIBusID,
		Specs: b.Specs, Nodes: b.Nodes, Fault: b.fault(), Board: b,
	}
	whole.Board.Slices, whole.Board.LostSlices = nil, nil
	if !b.MIG {
		if b.Product == "" {
			return nil // never identified well enough to be of any group
		}
		return []Device{whole}
	}
	var devices []Device
	for _, s := range b.Slices {
		d := whole
		d.Slice = &s
		d.ID, d.Hardware, d.Name, d.Profile, d.Nodes = s.ID, s.ID, s.Product, s.Profile, s.Nodes
		if d.Name == "" {
			if b.Product == "" || s.Profile == "" {
				continue
			}
			d.Name = b.Product + " MIG " + s.Profile
		}
		// Never the board's: a slice has only its own, and no NVLink.
		d.Specs.MemoryMiB, d.Specs.Multiprocessors, d.Specs.Cores = s.MemoryMiB, s.Multiprocessors, s.cores(b.Specs)
		d.Specs.NVLinks, d.Specs.NVLinkMBps = nil, nil
		if s.Fault != "" {
			d.Fault = Worst(d.Fault, Fault{Reason: s.Fault, Action: gpustatus.Move})
		}
		devices = append(devices, d)
	}
	return devices
}

// cores are the slice's share of the board's CUDA cores, which are spread
// evenly over its multiprocessors.
func (s Slice) cores(of Specs) *int64 {
	if s.Multiprocessors == nil || of.Cores == nil || of.Multiprocessors == nil || *of.Multiprocessors == 0 {
		return nil
	}
	cores := *s.Multiprocessors * (*of.Cores / *of.Multiprocessors)
	return &cores
}
