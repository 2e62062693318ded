package simulated

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
)

// migState is the MIG state of a board, which outlives the process that
// changed it.
type migState struct {
	Enabled bool `json:"enabled"`
	// Waiting is since when a change of the mode has waited for a reset; nil
	// if none does.
	Waiting   *time.Time `json:"waiting,omitempty"`
	Instances []instance `json:"instances,omitempty"`
}

// equal reports whether a board looks the same in both states.
func (m migState) equal(o migState) bool {
	return m.Enabled == o.Enabled && slices.EqualFunc(m.Instances, o.Instances, func(a, b instance) bool {
		return a.Profile == b.Profile && a.Start == b.Start && a.Size == b.Size && slices.Equal(a.Compute, b.Compute)
	})
}

// pending is the mode after the next reset.
func (m migState) pending() bool { return m.Enabled != (m.Waiting != nil) }

// after is the state of a board that last began anew at a time.
func (m migState) after(loaded time.Time) migState {
	if m.Waiting != nil && loaded.After(*m.Waiting) {
		return migState{Enabled: m.pending()}
	}
	return m
}

// stateOf is the MIG state of a board that last began anew at a time: what was
// stored, unless the board's description was changed since.
func (s stored) stateOf(id gpu.ID, b board, loaded time.Time) migState {
	kept, ok := s.Boards[id]
	if !ok || kept.Described != b.described.String() {
		return b.described
	}
	return kept.after(loaded)
}

// String is "MIG off", or as in "MIG on, 3g.20gb@4 [3], 1g.5gb@0 [1]".
func (m migState) String() string {
	if !m.Enabled {
		return "MIG off"
	}
	all := make([]string, len(m.Instances))
	for i, in := range m.Instances {
		all[i] = fmt.Sprintf("%s@%d %v", in.Profile, in.Start, in.Compute)
	}
	return strings.Join(append([]string{"MIG on"}, all...), ", ")
}

// instance is a GPU instance.
type instance struct {
	Profile string `json:"profile"`
	Start   int    `json:"start"`
	Size    int    `json:"size"`
	// Compute are the compute slices of its compute instances.
	Compute []int `json:"compute"`
}

// id is the driver's number of an instance: one scheme for each size, so that
// instances that exist together never share one.
func (in instance) id() int {
	switch in.Size {
	case 1:
		return 7 + in.Start
	case 2:
		return 3 + in.Start/2
	case 4:
		return 2 - in.Start/4
	}
	return 0
}

// deviceID is the UUID of one of its MIG devices.
func (in instance) deviceID(board gpu.ID, computeInstance int) gpu.ID {
	parts := []string{string(board), in.Profile, strconv.Itoa(in.Start)}
	if len(in.Compute) > 1 {
		parts = append(parts, strconv.Itoa(computeInstance), strconv.Itoa(in.Compute[computeInstance]))
	}
	return deriveID("MIG-", parts...)
}

// setNamedLayout puts a board in a layout that a preset can name, as
// nvidia-mig-parted's default file does: all-disabled, all-enabled,
// all-balanced and all-<profile>.
func (b *board) setNamedLayout(name string) error {
	what, ok := strings.CutPrefix(name, "all-")
	if !ok {
		return fmt.Errorf("unknown MIG layout %q; use all-disabled, all-enabled, all-balanced or all-<profile>", name)
	}
	m, ok := b.migModel()
	if !ok {
		return fmt.Errorf("%s has no MIG mode", b.product)
	}
	switch what {
	case "disabled":
		b.described = migState{}
		return nil
	case "enabled":
		return b.describe(m, nil)
	case "balanced":
		return b.describe(m, m.Balanced)
	}
	p, err := m.Profile(what)
	if err != nil {
		return err
	}
	return b.describe(m, slices.Repeat([]string{p.Name}, p.Max))
}

// describe puts a board in MIG mode with the given slices.
func (b *board) describe(m mig.Model, profiles []string) error {
	layout, err := mig.NewLayout(m, profiles)
	if err != nil {
		return err
	}
	instances := make([]string, len(layout.Instances))
	for i, w := range layout.Instances {
		instances[i] = w.Profile
	}
	placed, err := m.Place(instances, 0)
	if err != nil {
		return err
	}
	b.described = migState{Enabled: true}
	for i, p := range placed {
		compute := layout.Instances[i].Compute
		if len(compute) == 0 {
			compute = []int{p.Profile.Compute}
		}
		b.described.Instances = append(b.described.Instances, instance{Profile: p.Profile.Name, Start: p.Start, Size: p.Size, Compute: compute})
	}
	return nil
}

// slices are the MIG devices of a board with the given GPU instances.
func (b board) slices(board gpu.ID, instances []instance) []gpu.Slice {
	m, _ := b.migModel()
	ordered := slices.SortedFunc(slices.Values(instances), func(x, y instance) int { return cmp.Compare(x.Start, y.Start) })
	var all []gpu.Slice
	for _, in := range ordered {
		gi := in.id()
		p, err := m.Profile(in.Profile)
		if err != nil {
			continue // of a state file of another version
		}
		memory := b.sliceMemoryMiB(m, p)
		for ci, compute := range in.Compute {
			multiprocessors := b.multiprocessorsOf(m, compute)
			s := gpu.Slice{
				ID: in.deviceID(board, ci), Index: len(all), Profile: in.Profile, MemoryMiB: &memory,
				GPUInstance: &gi, ComputeInstance: &ci, Start: &in.Start, Size: &in.Size, Multiprocessors: &multiprocessors,
			}
			if compute != p.Compute {
				s.Profile = fmt.Sprintf("%dc.%s", compute, in.Profile)
			}
			all = append(all, s)
		}
	}
	return all
}

// sliceMemoryMiB is the memory of a slice: what real ones have, or the slice's
// share of the board where no real one is known.
func (b board) sliceMemoryMiB(m mig.Model, p mig.Profile) int64 {
	if p.MemoryMiB != nil {
		return *p.MemoryMiB
	}
	const granule = 128
	return b.memoryMiB * int64(p.Size) / int64(m.Slots) / granule * granule
}

// multiprocessorsOf is what a compute instance of so many compute slices has:
// for each its share of the board's pairs.
func (b board) multiprocessorsOf(m mig.Model, compute int) int64 {
	return b.multiprocessors / int64(m.Compute) / 2 * 2 * int64(compute)
}
