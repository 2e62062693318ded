package gpu

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Selector matches boards, with their slices, or single slices. Make one with
// ParseSelector.
type Selector struct {
	text string // what was parsed
	kind string
	// of is what the device must have, in the form that values of its kind are
	// brought into; a glob for models.
	of string
}

// The kinds of selectors.
const (
	byUUID   = "uuid"
	byIndex  = "index"
	byBus    = "pci"
	byPCIID  = "device"
	byModel  = "model"
	accepted = `a whole UUID ("GPU-..." or "MIG-..."), "index:<n>", "pci:<bus ID>", "device:<PCI device ID>" or "model:<name, * and ? allowed>"`
)

// ParseSelector reads a selector. The error says how one is written.
func ParseSelector(text string) (Selector, error) {
	if strings.HasPrefix(text, "GPU-") || strings.HasPrefix(text, "MIG-") {
		return Selector{text, byUUID, text}, nil
	}
	kind, of, _ := strings.Cut(text, ":")
	switch kind {
	case byIndex:
		if n, err := strconv.ParseUint(of, 10, 16); err == nil {
			return Selector{text, byIndex, strconv.FormatUint(n, 10)}, nil
		}
		return Selector{}, fmt.Errorf("%q: an index is a number from 0 on", text)
	case byBus:
		if bus, ok := NormalBusID(of); ok {
			return Selector{text, byBus, bus}, nil
		}
		return Selector{}, fmt.Errorf(`%q: a PCI bus ID is written as in "pci:00000000:07:00.0"`, text)
	case byPCIID:
		if id, ok := normalPCIID(of); ok {
			return Selector{text, byPCIID, id}, nil
		}
		return Selector{}, fmt.Errorf(`%q: a PCI device ID is written as in "device:0x233010DE"`, text)
	case byModel:
		glob := strings.ToLower(of)
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			return Selector{}, fmt.Errorf(`%q: a model is a product name, in which * and ? stand for others, as in "model:NVIDIA A100*"`, text)
		}
		return Selector{text, byModel, glob}, nil
	}
	return Selector{}, fmt.Errorf("%q: write %s", text, accepted)
}

// parseUUID reads a selector of the list ignored_gpu_ids, which has UUIDs only.
func parseUUID(text string) (Selector, error) {
	if text == "" {
		return Selector{}, errors.New("empty; give a UUID as `nomad-device-gpu list` prints it")
	}
	return Selector{text, byUUID, text}, nil
}

// String is what was parsed.
func (s Selector) String() string { return s.text }

// Matches reports whether a device is one of those. A replica is its hardware.
func (s Selector) Matches(d Device) bool {
	switch s.kind {
	case byUUID:
		return s.of == string(d.Hardware) || s.of == string(d.Parent)
	case byIndex:
		return s.of == strconv.Itoa(d.Board.Index)
	case byBus:
		bus, ok := NormalBusID(d.PCIBusID)
		return ok && s.of == bus
	case byPCIID:
		id, ok := normalPCIID(d.Board.PCIDeviceID)
		return ok && strings.HasPrefix(id, s.of)
	case byModel:
		for _, name := range []string{d.Name, d.Board.Product} {
			if ok, err := path.Match(s.of, strings.ToLower(name)); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// meant looks for what a selector that matches nothing abbreviates, or writes in another case.
func (s Selector) meant(all []Device) string {
	for _, d := range all {
		switch s.kind {
		case byUUID:
			for _, id := range []ID{d.Hardware, d.Parent} {
				if strings.HasPrefix(strings.ToLower(string(id)), strings.ToLower(s.of)) {
					return string(id)
				}
			}
		case byModel:
			if strings.Contains(strings.ToLower(d.Name), strings.Trim(s.of, "*")) {
				return byModel + ":" + d.Name
			}
		}
	}
	return ""
}

// NormalBusID brings a PCI bus ID into the driver's form, "00000000:07:00.0",
// from any of the forms that logs and other tools have: a domain of four
// digits or none, lower case, no function.
func NormalBusID(text string) (string, bool) {
	text, function, found := strings.Cut(text, ".")
	if !found {
		function = "0"
	}
	parts := strings.Split(text, ":")
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 3 {
		return "", false
	}
	var numbers [4]uint64
	for i, bits := range []int{32, 8, 5, 3} {
		n, err := strconv.ParseUint(append(parts, function)[i], 16, bits)
		if err != nil {
			return "", false
		}
		numbers[i] = n
	}
	return fmt.Sprintf("%08X:%02X:%02X.%X", numbers[0], numbers[1], numbers[2], numbers[3]), true
}

// normalPCIID is "233010DE" or "2330", without the vendor.
func normalPCIID(text string) (string, bool) {
	text = strings.ToUpper(strings.TrimPrefix(strings.ToLower(text), "0x"))
	if _, err := strconv.ParseUint(text, 16, 32); err != nil || len(text) != 4 && len(text) != 8 {
		return "", false
	}
	return text, true
}
