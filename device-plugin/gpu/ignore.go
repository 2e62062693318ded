package gpu

import (
	"slices"
	"strings"
)

// IgnoreList is the operator's list of IDs that are not to be offered. IDs
// match exactly; a board's ID hides its slices too.
type IgnoreList []ID

// Visible drops the ignored devices.
func (l IgnoreList) Visible(devices []Device) []Device {
	if len(l) == 0 {
		return devices
	}
	return slices.DeleteFunc(slices.Clone(devices), func(d Device) bool { return l.Hides(d) })
}

// Hides reports whether the list covers a device.
func (l IgnoreList) Hides(d Device) bool {
	return slices.Contains(l, d.ID) || slices.Contains(l, d.Parent)
}

// Unmatched is an entry of an ignore list that names nothing.
type Unmatched struct {
	Entry ID
	// Meant is an ID of this machine that the entry abbreviates or writes in
	// another case; "" if there is none.
	Meant ID
}

// Unmatched lists the entries that name neither a board nor a slice of the
// reading. It has no answer while boards are lost: an entry may name one.
func (l IgnoreList) Unmatched(inv Inventory) []Unmatched {
	if len(inv.Lost) > 0 {
		return nil
	}
	var ids []ID
	for _, b := range inv.Boards {
		ids = append(ids, b.ID)
		for _, s := range b.Slices {
			ids = append(ids, s.ID)
		}
	}
	var unmatched []Unmatched
	for _, entry := range l {
		if slices.Contains(ids, entry) {
			continue
		}
		u := Unmatched{Entry: entry}
		for _, id := range ids {
			if entry != "" && strings.HasPrefix(strings.ToLower(string(id)), strings.ToLower(string(entry))) {
				u.Meant = id
				break
			}
		}
		unmatched = append(unmatched, u)
	}
	return unmatched
}
