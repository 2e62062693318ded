// Package pci reads bus IDs. NVML, the kernel and the driver's messages write
// them in forms of their own, which are to be joined.
package pci

import (
	"fmt"
	"strconv"
	"strings"
)

// Slot is where on the PCI buses a device is. Functions of one device are the
// same GPU. The zero Slot is the first of a machine's.
type Slot struct {
	domain      uint64
	bus, device uint64
}

// String is the slot as the kernel writes it, without the function:
// "0000:07:00".
func (s Slot) String() string { return fmt.Sprintf("%04x:%02x:%02x", s.domain, s.bus, s.device) }

// Parse reads a bus ID in any of its forms: "00000000:07:00.0" as NVML has
// it, "0000:07:00.0" as the kernel, "0000:07:00" as the driver's messages.
func Parse(text string) (Slot, bool) {
	parts := strings.Split(strings.TrimSpace(text), ":")
	if len(parts) != 3 {
		return Slot{}, false
	}
	device, function, hasFunction := strings.Cut(parts[2], ".")
	domain, err1 := strconv.ParseUint(parts[0], 16, 32)
	bus, err2 := strconv.ParseUint(parts[1], 16, 8)
	dev, err3 := strconv.ParseUint(device, 16, 8)
	if err1 != nil || err2 != nil || err3 != nil {
		return Slot{}, false
	}
	if hasFunction {
		if _, err := strconv.ParseUint(function, 16, 4); err != nil {
			return Slot{}, false
		}
	}
	return Slot{domain, bus, dev}, true
}
