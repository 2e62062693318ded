package simulated

import (
	"errors"
	"io/fs"
	"strconv"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// faultFile is what is wrong with a machine at the moment:
//
//	driver_error = "driver/library version mismatch" # the driver as a whole
//
//	fault "3" {                   # a board's index, or the ID of a board or slice
//	  reason = "Xid 79: GPU has fallen off the bus"
//	}
//	fault "GPU-5e7fb0ae-..." {
//	  gone = true                 # no longer listed at all
//	}
type faultFile struct {
	DriverError string       `hcl:"driver_error,optional"`
	Faults      []faultBlock `hcl:"fault,block"`
}

type faultBlock struct {
	Device string `hcl:"device,label"`
	Reason string `hcl:"reason,optional"`
	Gone   bool   `hcl:"gone,optional"`

	DeviceRange hcl.Range `hcl:"device,label_range"`
}

// readFaults reads a fault file. A file that is not there is no faults.
func readFaults(path string) (faultFile, error) {
	src, err := readLimited(path)
	if errors.Is(err, fs.ErrNotExist) {
		return faultFile{}, nil
	}
	if err != nil {
		return faultFile{}, err
	}
	return parseFaults(path, src)
}

func parseFaults(name string, src []byte) (faultFile, error) {
	var f faultFile
	diags := decodeFile(name, src, &f)
	for _, b := range f.Faults {
		if b.Reason == "" && !b.Gone {
			diags = append(diags, problem(b.DeviceRange, "a fault has a reason, or gone = true"))
		}
	}
	if diags.HasErrors() {
		return faultFile{}, diagsError(diags)
	}
	return f, nil
}

// apply does the faults to a reading. unmatched are those that name no device
// of it.
func (f faultFile) apply(inv gpu.Inventory) (faulty gpu.Inventory, unmatched []string, err error) {
	if f.DriverError != "" {
		return gpu.Inventory{}, nil, errors.New(f.DriverError)
	}
	for _, fault := range f.Faults {
		if !fault.apply(&inv) {
			unmatched = append(unmatched, fault.Device)
		}
	}
	return inv, unmatched, nil
}

// apply does one fault, and reports whether there was a device to do it to.
func (f faultBlock) apply(inv *gpu.Inventory) bool {
	for i := range inv.Boards {
		b := &inv.Boards[i]
		if f.Device == string(b.ID) || f.Device == strconv.Itoa(b.Index) {
			if f.Gone {
				inv.Boards = append(inv.Boards[:i], inv.Boards[i+1:]...)
			} else {
				b.Fault = f.Reason
			}
			return true
		}
		for j := range b.Slices {
			if f.Device != string(b.Slices[j].ID) {
				continue
			}
			if f.Gone {
				b.Slices = append(b.Slices[:j], b.Slices[j+1:]...)
			} else {
				b.Slices[j].Fault = f.Reason
			}
			return true
		}
	}
	return false
}
