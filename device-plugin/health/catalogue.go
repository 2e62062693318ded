package health

import (
	"fmt"
	"slices"
)

// Class is what kind of trouble an Xid code tells of.
type Class string

// The classes.
const (
	Application Class = "application" // a program's mistake, or the consequence of another error for it
	Driver      Class = "driver"
	Hardware    Class = "hardware"
	Memory      Class = "memory"
	Link        Class = "link" // NVLink, NVLink-C2C
	Bus         Class = "bus"  // PCIe
	Firmware    Class = "firmware"
	Thermal     Class = "thermal"
	Power       Class = "power"
	Display     Class = "display"
	Notice      Class = "notice" // says something, but not that anything is wrong
	Unused      Class = "unused" // no driver of today is known to report it
)

// Resolution is what NVIDIA advises to do at once.
type Resolution string

// The resolutions.
const (
	NoAction       Resolution = "none"
	RestartApp     Resolution = "restart-app"
	ResetGPU       Resolution = "reset-gpu"
	RestartVM      Resolution = "restart-vm"
	RestartNode    Resolution = "restart-node"
	CheckLink      Resolution = "check-link"
	CheckHardware  Resolution = "check-hardware" // seating, cables, cooling
	UpdateSoftware Resolution = "update-software"
	ContactSupport Resolution = "contact-support"
)

// XID is an entry of the catalogue of Xid codes.
type XID struct {
	Code       int
	Name       string // NVIDIA's mnemonic, without the prefix ROBUST_CHANNEL_
	Meaning    string
	Class      Class
	Resolution Resolution
	// Default is what follows unless the site overrides it.
	Default Verdict
	// InSlice is set where the trouble stays inside the MIG slice of the
	// event, if the event names one.
	InSlice bool
}

// LookupXID finds a code. Of a code that is not in the catalogue it says that,
// and ok is false.
func LookupXID(code int) (x XID, ok bool) {
	i, ok := slices.BinarySearchFunc(catalogue, code, func(x XID, code int) int { return x.Code - code })
	if !ok {
		return XID{
			Code: code, Name: "UNKNOWN", Meaning: "not in the catalogue", Class: Unused, Resolution: ContactSupport,
			Default: degraded, InSlice: true,
		}, false
	}
	return catalogue[i], true
}

// Catalogue lists every code, in order.
func Catalogue() []XID { return slices.Clone(catalogue) }

// String is "Xid 79: the GPU has fallen off the bus".
func (x XID) String() string { return fmt.Sprintf("Xid %d: %s", x.Code, x.Meaning) }

// remedy is what ends the condition that a code began.
func (x XID) remedy() remedy {
	switch x.Resolution {
	case ResetGPU, RestartVM, RestartNode, CheckLink:
		return remedyReset
	}
	return remedyQuiet
}
