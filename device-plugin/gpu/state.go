package gpu

import (
	"cmp"
	"slices"
)

// Device is one unit that Nomad may allocate: a board, or a slice of one.
type Device struct {
	ID       ID
	Parent   ID     // the board's; equal to ID for a whole board
	Name     string // Nomad's device name
	Profile  string // of a slice; "" for a whole board
	PCIBusID string
	Specs    Specs
	Nodes    []string
	Fault    string // "" is healthy

	board, slice int // position, for ordering
}

// State is what is known of a machine's devices after a series of readings.
// The zero State knows none. States are values; methods return new ones.
type State struct {
	DriverVersion string
	CUDAVersion   string
	// Devices are sorted by board and slice index.
	Devices []Device
}

// reasonUnlisted is the fault of a board that was there and is now gone
// without a word from the driver.
const reasonUnlisted = "the driver no longer lists this GPU"

// Next is the state after a reading. Boards that were known and are lost or
// no longer listed stay, unhealthy, so that an operator sees which GPU is
// missing; slices that are gone from a healthy board were removed by somebody
// and go.
func (s State) Next(inv Inventory) State {
	next := State{DriverVersion: inv.DriverVersion, CUDAVersion: inv.CUDAVersion}
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
			d.Fault = b.Fault
		case ok:
			reason := lostAt(b.LostSlices, d.slice)
			if _, found := next.Find(d.ID); found || reason == "" || d.Profile == "" {
				continue
			}
			d.Fault = reason
		case len(inv.Lost) > 0:
			// Indexes shift when a board leaves the bus, so a lost board
			// need not be at its old index.
			d.Fault = cmp.Or(lostAt(inv.Lost, d.board), inv.Lost[0].Reason)
		default:
			d.Fault = reasonUnlisted
		}
		next.Devices = append(next.Devices, d)
	}
	slices.SortStableFunc(next.Devices, byPosition)
	return next
}

// Failed is the state after a reading that failed as a whole: every device
// known so far is unhealthy for that reason.
func (s State) Failed(reason string) State {
	s.Devices = slices.Clone(s.Devices)
	for i := range s.Devices {
		s.Devices[i].Fault = reason
	}
	return s
}

// Find looks a device up by its ID.
func (s State) Find(id ID) (Device, bool) {
	for _, d := range s.Devices {
		if d.ID == id {
			return d, true
		}
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

// byPosition orders by board, then slice. The ID decides between a board that
// took the index of one that left and that one.
func byPosition(a, b Device) int {
	return cmp.Or(cmp.Compare(a.board, b.board), cmp.Compare(a.slice, b.slice), cmp.Compare(a.ID, b.ID))
}

func devicesOf(b Board) []Device {
	if !b.MIG {
		if b.Product == "" {
			return nil // never identified well enough to be of any group
		}
		return []Device{{
			ID: b.ID, Parent: b.ID, Name: b.Product, PCIBusID: b.PCIBusID,
			Specs: b.Specs, Nodes: b.Nodes, Fault: b.Fault, board: b.Index,
		}}
	}
	var devices []Device
	for _, s := range b.Slices {
		name := s.Product
		if name == "" {
			if b.Product == "" || s.Profile == "" {
				continue
			}
			name = b.Product + " MIG " + s.Profile
		}
		specs := b.Specs
		specs.MemoryMiB = s.MemoryMiB // never the board's: a slice has only its own
		devices = append(devices, Device{
			ID: s.ID, Parent: b.ID, Name: name, Profile: s.Profile, PCIBusID: b.PCIBusID,
			Specs: specs, Nodes: s.Nodes, Fault: cmp.Or(b.Fault, s.Fault),
			board: b.Index, slice: s.Index,
		})
	}
	return devices
}
