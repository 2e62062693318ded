package gpu

import (
	"errors"
	"fmt"
	"slices"
)

// Filter is which devices an operator lets Nomad have. The zero Filter lets
// all through.
type Filter struct {
	include, exclude []entry
}

// entry is one line of a filter's lists.
type entry struct {
	option string // where the operator wrote it: "exclude[1]"
	Selector
}

// NewFilter checks the lists of an operator. With an include list only what it
// matches is let through; what exclude or ignored match never is. ignored has
// UUIDs alone. The error tells every entry that is malformed; entries that
// match nothing are no error, see Unmatched.
func NewFilter(include, exclude, ignored []string) (Filter, error) {
	var f Filter
	var problems []error
	read := func(option string, texts []string, parse func(string) (Selector, error)) []entry {
		var entries []entry
		for i, text := range texts {
			e := entry{option: fmt.Sprintf("%s[%d]", option, i)}
			var err error
			if e.Selector, err = parse(text); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", e.option, err))
			}
			entries = append(entries, e)
		}
		return entries
	}
	f.include = read("include", include, ParseSelector)
	f.exclude = append(read("ignored_gpu_ids", ignored, parseUUID), read("exclude", exclude, ParseSelector)...)
	return f, errors.Join(problems...)
}

// Hides tells by which entry a device is kept from Nomad; "" if it is not.
func (f Filter) Hides(d Device) string {
	for _, e := range f.exclude {
		if e.Matches(d) {
			return fmt.Sprintf("hidden by %s (%s)", e.option, e)
		}
	}
	if len(f.include) == 0 || slices.ContainsFunc(f.include, func(e entry) bool { return e.Matches(d) }) {
		return ""
	}
	return "not in the include list"
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
		if !slices.ContainsFunc(all, e.Matches) {
			unmatched = append(unmatched, Unmatched{Option: e.option, Entry: e.String(), Meant: e.meant(all)})
		}
	}
	return unmatched
}
