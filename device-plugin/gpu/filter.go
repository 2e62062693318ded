package gpu

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Filter is which devices an operator lets Nomad have. The zero Filter lets
// all through.
type Filter struct {
	include, exclude []entry
}

// entry is one line of a filter's lists, and where the operator wrote it.
type entry struct {
	option string // "exclude[1]"
	text   string
	selector
}

// selector matches boards, with their slices, or single slices.
type selector struct {
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

// NewFilter checks the lists of an operator. With an include list only what it
// matches is let through; what exclude or ignored match never is. ignored has
// UUIDs alone. The error tells every entry that is malformed; entries that
// match nothing are no error, see Unmatched.
func NewFilter(include, exclude, ignored []string) (Filter, error) {
	var f Filter
	var problems []error
	read := func(option string, texts []string, parse func(string) (selector, error)) []entry {
		var entries []entry
		for i, text := range texts {
			e := entry{option: fmt.Sprintf("%s[%d]", option, i), text: text}
			var err error
			if e.selector, err = parse(text); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", e.option, err))
			}
			entries = append(entries, e)
		}
		return entries
	}
	f.include = read("include", include, parseSelector)
	f.exclude = append(read("ignored_gpu_ids", ignored, parseUUID), read("exclude", exclude, parseSelector)...)
	return f, errors.Join(problems...)
}

func parseUUID(text string) (selector, error) {
	if text == "" {
		return selector{}, errors.New("empty; give a UUID as `nomad-device-gpu list` prints it")
	}
	return selector{byUUID, text}, nil
}

func parseSelector(text string) (selector, error) {
	if strings.HasPrefix(text, "GPU-") || strings.HasPrefix(text, "MIG-") {
		return selector{byUUID, text}, nil
	}
	kind, of, _ := strings.Cut(text, ":")
	switch kind {
	case byIndex:
		if n, err := strconv.ParseUint(of, 10, 16); err == nil {
			return selector{byIndex, strconv.FormatUint(n, 10)}, nil
		}
		return selector{}, fmt.Errorf("%q: an index is a number from 0 on", text)
	case byBus:
		if bus, ok := NormalBusID(of); ok {
			return selector{byBus, bus}, nil
		}
		return selector{}, fmt.Errorf(`%q: a PCI bus ID is written as in "pci:00000000:07:00.0"`, text)
	case byPCIID:
		if id, ok := normalPCIID(of); ok {
			return selector{byPCIID, id}, nil
		}
		return selector{}, fmt.Errorf(`%q: a PCI device ID is written as in "device:0x233010DE"`, text)
	case byModel:
		glob := strings.ToLower(of)
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			return selector{}, fmt.Errorf(`%q: a model is a product name, in which * and ? stand for others, as in "model:NVIDIA A100*"`, text)
		}
		return selector{byModel, glob}, nil
	}
	return selector{}, fmt.Errorf("%q: write %s", text, accepted)
}

// Hides tells by which entry a device is kept from Nomad; "" if it is not.
func (f Filter) Hides(d Device) string {
	for _, e := range f.exclude {
		if e.matches(d) {
			return fmt.Sprintf("hidden by %s (%s)", e.option, e.text)
		}
	}
	if len(f.include) == 0 || slices.ContainsFunc(f.include, func(e entry) bool { return e.matches(d) }) {
		return ""
	}
	return "not in the include list"
}

func (s selector) matches(d Device) bool {
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

// Unmatched is an entry of a filter that names nothing on this machine, and so
// does nothing.
type Unmatched struct {
	Option string // "exclude[1]"
	Entry  string
	// Meant is what the operator probably meant to write; "" if nobody knows.
	Meant string
}

// Unmatched lists the entries that name neither a board nor a slice of the
// reading. It has no answer while boards are lost: an entry may name one.
func (f Filter) Unmatched(inv Inventory) []Unmatched {
	if len(inv.Lost) > 0 {
		return nil
	}
	var all []Device
	for _, b := range inv.Boards {
		all = append(all, devicesOf(b)...)
		b.MIG = false // the board itself, whatever its mode
		all = append(all, devicesOf(b)...)
	}
	var unmatched []Unmatched
	for _, e := range slices.Concat(f.include, f.exclude) {
		if !slices.ContainsFunc(all, e.matches) {
			unmatched = append(unmatched, Unmatched{Option: e.option, Entry: e.text, Meant: e.meant(all)})
		}
	}
	return unmatched
}

// meant looks for what an entry abbreviates, or writes in another case.
func (e entry) meant(all []Device) string {
	for _, d := range all {
		switch e.kind {
		case byUUID:
			for _, id := range []ID{d.Hardware, d.Parent} {
				if strings.HasPrefix(strings.ToLower(string(id)), strings.ToLower(e.of)) {
					return string(id)
				}
			}
		case byModel:
			if strings.Contains(strings.ToLower(d.Name), strings.Trim(e.of, "*")) {
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
