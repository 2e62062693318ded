package mig

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Model is a GPU product that has a MIG mode, and how it can be cut.
type Model struct {
	// Name is the product as NVML reports it, without "NVIDIA ".
	Name string
	// Slots are the memory slots that slices occupy, Compute the compute
	// slices that they share out: a board with eight slots has seven of those.
	Slots, Compute int
	// Engines are the media engines of the board as a whole.
	Engines Engines
	// Profiles are the slices that can be cut, smallest first.
	Profiles []Profile
	// Balanced are the profiles of the layout all-balanced.
	Balanced []string

	aliases []string // other names that begin a product's
	devices []string // PCI device IDs, "20B0"
}

// Profile is a kind of slice of a model.
type Profile struct {
	Name string // "3g.20gb", "1g.5gb+me"
	// Compute is the number of compute slices, Size that of memory slots.
	Compute, Size int
	// Starts are the memory slots that it may begin at, ascending.
	Starts []int
	// Max is how many of it a board can have.
	Max int
	// MemoryMiB is what a slice has; nil where no reading of a real one is
	// known.
	MemoryMiB *int64
	// Engines are the media engines that a slice has for itself.
	Engines Engines
	// Graphics is set where a slice can run graphics APIs (+gfx).
	Graphics bool
}

// Engines are numbers of media engines.
type Engines struct{ Decoders, Encoders, JPEG, OpticalFlow int }

func (e Engines) plus(o Engines) Engines {
	return Engines{e.Decoders + o.Decoders, e.Encoders + o.Encoders, e.JPEG + o.JPEG, e.OpticalFlow + o.OpticalFlow}
}

// beyond names an engine of which there are more than the board has.
func (e Engines) beyond(board Engines) string {
	for _, c := range []struct {
		name      string
		want, has int
	}{
		{"video decoders", e.Decoders, board.Decoders},
		{"video encoders", e.Encoders, board.Encoders},
		{"JPEG decoders", e.JPEG, board.JPEG},
		{"optical flow engines", e.OpticalFlow, board.OpticalFlow},
	} {
		if c.want > c.has {
			return fmt.Sprintf("%d %s; the board has %d", c.want, c.name, c.has)
		}
	}
	return ""
}

// ModelOf finds a model by the product name that NVML reports
// ("NVIDIA H100 80GB HBM3"). What a name has beyond the model's, as a memory
// type or a form factor, does not matter.
func ModelOf(product string) (Model, bool) {
	name := words(product)
	var best Model
	length := 0
	for _, m := range models {
		for _, alias := range append([]string{m.Name}, m.aliases...) {
			w := words(alias)
			if len(w) > length && len(w) <= len(name) && slices.Equal(w, name[:len(w)]) {
				best, length = m, len(w)
			}
		}
	}
	return best, length > 0
}

// words takes a product name apart, without the maker's.
func words(product string) []string {
	w := strings.FieldsFunc(strings.ToUpper(product), func(r rune) bool { return strings.ContainsRune(" -_()", r) })
	// "Mock" is how go-nvml's test server begins its name.
	for len(w) > 0 && (w[0] == "NVIDIA" || w[0] == "MOCK") {
		w = w[1:]
	}
	return w
}

// Model finds the model of a board: by its PCI device ID, or where that is
// unknown by its product name. Its profiles are named as the driver names them.
func (b Board) Model() (Model, bool) {
	m, ok := b.model()
	return m.renamed(b.ProfileNames), ok
}

// renamed gives profiles the names that a driver has for them. Profiles are
// told apart by what precedes and follows the gigabytes; of several that have
// that in common the sizes are in the same order. Where the driver has another
// number of them, the names stay.
func (m Model) renamed(names []string) Model {
	group := func(names []string) map[string][]string {
		groups := make(map[string][]string)
		for _, name := range names {
			if gb := gigabytes(name); gb >= 0 {
				kind := strings.Replace(name, fmt.Sprintf(".%dgb", gb), ".", 1)
				groups[kind] = append(groups[kind], name)
			}
		}
		for _, g := range groups {
			slices.SortFunc(g, func(a, b string) int { return cmp.Compare(gigabytes(a), gigabytes(b)) })
		}
		return groups
	}
	theirs, rename := group(names), make(map[string]string)
	for kind, ours := range group(m.ProfileNames()) {
		for i, name := range ours {
			if rename[name] = name; len(theirs[kind]) == len(ours) {
				rename[name] = theirs[kind][i]
			}
		}
	}
	m.Profiles, m.Balanced = slices.Clone(m.Profiles), slices.Clone(m.Balanced)
	for i := range m.Profiles {
		m.Profiles[i].Name = rename[m.Profiles[i].Name]
	}
	for i, name := range m.Balanced {
		m.Balanced[i] = rename[name]
	}
	return m
}

// gigabytes are those in a profile's name, -1 if it is none.
func gigabytes(profile string) int {
	var compute, gb int
	if n, _ := fmt.Sscanf(profile, "%dg.%dgb", &compute, &gb); n != 2 || gb < 0 {
		return -1
	}
	return gb
}

func (b Board) model() (Model, bool) {
	id := strings.ToUpper(b.PCIDeviceID)
	id, isHex := strings.CutPrefix(id, "0X")
	if device, isNVIDIA := strings.CutSuffix(id, "10DE"); isHex && isNVIDIA {
		for _, m := range models {
			if slices.Contains(m.devices, device) {
				return m, true
			}
		}
	}
	return ModelOf(b.Product)
}

// Models are all models that are known, in the order of their generations.
func Models() []Model { return slices.Clone(models) }

// ModelNames lists the names of all models.
func ModelNames() []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = "NVIDIA " + m.Name
	}
	return names
}

// Profile finds a profile by its name. The error lists those that there are.
func (m Model) Profile(name string) (Profile, error) {
	for _, p := range m.Profiles {
		if p.Name == name {
			return p, nil
		}
	}
	return Profile{}, fmt.Errorf("%s has no MIG profile %q; it has %s", m.Name, name, strings.Join(m.ProfileNames(), ", "))
}

// ProfileNames lists the model's profiles, smallest first.
func (m Model) ProfileNames() []string {
	names := make([]string, len(m.Profiles))
	for i, p := range m.Profiles {
		names[i] = p.Name
	}
	return names
}

// larger orders profiles from large to small: by memory, then by compute
// slices, then by name.
func larger(a, b Profile) int {
	return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(b.Compute, a.Compute), cmp.Compare(a.Name, b.Name))
}
