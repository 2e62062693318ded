package simulated

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Machine describes a simulated node's GPUs. Make one with Preset, ParseFile
// or Load.
type Machine struct {
	// Node tells machines of one description apart: GPU IDs derive from it,
	// so they are the same after every restart and differ between nodes.
	Node          string
	DriverVersion string
	CUDAVersion   string
	boards        []board
}

// board is one board of a machine.
type board struct {
	model
	id     gpu.ID // "" derives one
	busID  string // "" derives one
	inMIG  bool
	layout []placed
}

// Versions that a machine has unless it says otherwise.
const (
	defaultDriverVersion = "580.95.05"
	defaultCUDAVersion   = "13.0"
)

// maxBoards is a limit on descriptions, above any real machine.
const maxBoards = 64

// Preset makes the machine that a preset names:
//
//	[<count>x]<name>[/<MIG layout>]
//
// The name is a server of eight boards ("dgx-h100") or a single board
// ("a100-80gb"), and count multiplies it. The layout puts all boards in MIG
// mode: "all-balanced", "all-1g.10gb", "all-enabled" (MIG mode without slices).
// Examples: "dgx-h200", "dgx-a100/all-balanced", "2xl4".
func Preset(spec string) (Machine, error) {
	name, layout, hasLayout := strings.Cut(spec, "/")
	count := 1
	if n, rest, ok := strings.Cut(name, "x"); ok {
		if v, err := strconv.Atoi(n); err == nil {
			count, name = v, rest
		}
	}
	key := name
	if board, ok := servers[name]; ok {
		key = board
		count *= 8
	}
	m, ok := models[key]
	if !ok {
		return Machine{}, fmt.Errorf("unknown GPU preset %q; use one of %s, or a file name that ends in .hcl or .json",
			name, strings.Join(Presets(), ", "))
	}
	if count < 1 || count > maxBoards {
		return Machine{}, fmt.Errorf("GPU preset %q: a machine has 1 to %d boards, not %d", spec, maxBoards, count)
	}
	b := board{model: m}
	if hasLayout {
		if m.mig == nil {
			return Machine{}, fmt.Errorf("GPU preset %q: %s has no MIG mode", spec, m.product)
		}
		mig, profiles, err := m.mig.namedLayout(layout)
		if err != nil {
			return Machine{}, fmt.Errorf("GPU preset %q: %w", spec, err)
		}
		if err := b.cut(mig, profiles); err != nil {
			return Machine{}, fmt.Errorf("GPU preset %q: %w", spec, err)
		}
	}
	machine := newMachine()
	machine.boards = slices.Repeat([]board{b}, count)
	return machine, nil
}

func newMachine() Machine {
	return Machine{DriverVersion: defaultDriverVersion, CUDAVersion: defaultCUDAVersion}
}

// cut puts a board in MIG mode with the given slices.
func (b *board) cut(mig bool, profiles []string) error {
	b.inMIG = mig
	if !mig || len(profiles) == 0 {
		return nil
	}
	layout, err := b.mig.place(profiles)
	if err != nil {
		return err
	}
	slices.SortFunc(layout, func(x, y placed) int { return x.start - y.start })
	b.layout = layout
	return nil
}

// inventory is the healthy machine.
func (m Machine) inventory() gpu.Inventory {
	inv := gpu.Inventory{DriverVersion: m.DriverVersion, CUDAVersion: m.CUDAVersion}
	for i, b := range m.boards {
		id := b.id
		if id == "" {
			id = deriveID("GPU-", m.Node, b.product, strconv.Itoa(i))
		}
		busID := b.busID
		if busID == "" {
			busID = fmt.Sprintf("%08X:%02X:00.0", i/len(busNumbers), busNumbers[i%len(busNumbers)])
		}
		reading := gpu.Board{
			ID: id, Index: i, Product: b.product, PCIBusID: busID, Specs: b.specs(), MIG: b.inMIG,
		}
		for j, p := range b.layout {
			memory := b.mig.memoryMiB[p.slots]
			reading.Slices = append(reading.Slices, gpu.Slice{
				ID:    deriveID("MIG-", string(id), p.name, strconv.Itoa(p.start)),
				Index: j, Profile: p.name, MemoryMiB: &memory,
			})
		}
		inv.Boards = append(inv.Boards, reading)
	}
	return inv
}

func (m model) specs() gpu.Specs {
	known := func(v int64) *int64 {
		if v == 0 {
			return nil
		}
		return &v
	}
	s := gpu.Specs{
		MemoryMiB: known(m.memoryMiB), PowerW: known(m.powerW), BAR1MiB: known(m.bar1MiB),
		CoresClockMHz: known(m.coresClockMHz), MemoryClockMHz: known(m.memoryClockMHz),
		PCIBandwidthMBps: known(m.pciBandwidthMBps),
		DisplayState:     "Disabled", PersistenceMode: "Enabled", Architecture: m.architecture,
	}
	if m.computeCapability != 0 {
		s.ComputeCapability = &m.computeCapability
	}
	return s
}

// deriveID makes an ID in the driver's notation that depends on its parts
// only.
func deriveID(prefix string, parts ...string) gpu.ID {
	h := sha256.Sum256([]byte(prefix + strings.Join(parts, "\x00")))
	h[6] = h[6]&0x0f | 0x80 // UUID version 8: made by a rule of our own
	h[8] = h[8]&0x3f | 0x80
	return gpu.ID(fmt.Sprintf("%s%x-%x-%x-%x-%x", prefix, h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}
