package simulated

import (
	"crypto/sha256"
	"embed"
	"fmt"
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
	Environment   gpu.Environment
	boards        []board
	wiring        wiring
}

// board is one board of a machine.
type board struct {
	model
	id     gpu.ID // "" derives one
	busID  string // "" derives one
	serial string // "" derives one
	// described is the MIG state that the description gives it.
	described migState
}

// Versions that a machine has unless it says otherwise.
const (
	defaultDriverVersion = "580.95.05"
	defaultCUDAVersion   = "13.0"
)

// maxBoards is a limit on descriptions, above any real machine.
const maxBoards = 64

// presetFiles are the board files of whole servers.
//
//go:embed presets/*.hcl
var presetFiles embed.FS

// servers are the whole machines that presets name. Those with a board are
// the file's with that board in place of the file's own.
var servers = map[string]struct{ file, board string }{
	"dgx-2":         {"dgx-2", "v100-32gb"},
	"dgx-a100":      {"dgx-a100", "a100-40gb"},
	"dgx-a100-80gb": {"dgx-a100", "a100-80gb"},
	"dgx-h100":      {"dgx-h100", "h100"},
	"dgx-h200":      {"dgx-h100", "h200"},
	"dgx-b200":      {"dgx-h100", "b200"},
	"gb200-tray":    {"gb200-tray", "gb200"},
	"pcie-a100":     {"pcie-a100", "a100-pcie-80gb"},
	"workstation":   {"workstation", "rtx-5090"},
}

// PresetFile is the board file of a preset that names a server or a board: a
// starting point for one's own.
func PresetFile(name string) ([]byte, error) {
	if _, ok := models[name]; ok {
		return fmt.Appendf(nil, "board %q {\n  count = 1\n}\n", name), nil
	}
	s, ok := servers[name]
	if !ok {
		return nil, unknownPreset(name)
	}
	src, err := presetFiles.ReadFile("presets/" + s.file + ".hcl")
	if err != nil {
		return nil, fmt.Errorf("reading GPU preset %q: %w", name, err)
	}
	before, rest, _ := strings.Cut(string(src), `board "`)
	_, after, _ := strings.Cut(rest, `"`)
	return []byte(before + `board "` + s.board + `"` + after), nil
}

func unknownPreset(name string) error {
	return fmt.Errorf("unknown GPU preset %q; use one of %s, or a file name that ends in .hcl or .json",
		name, strings.Join(Presets(), ", "))
}

// Preset makes the machine that a preset names:
//
//	[<count>x]<name>[/<MIG layout>]
//
// The name is a server ("dgx-h100") or a single board ("a100-80gb"), and count
// multiplies it. The layout puts all boards in MIG mode: "all-balanced",
// "all-1g.10gb", "all-enabled" (MIG mode without slices). Examples:
// "dgx-h200", "dgx-a100/all-balanced", "2xl4".
func Preset(spec string) (Machine, error) {
	name, layout, hasLayout := strings.Cut(spec, "/")
	count := 1
	if n, rest, ok := strings.Cut(name, "x"); ok {
		if v, err := strconv.Atoi(n); err == nil {
			count, name = v, rest
		}
	}
	src, err := PresetFile(name)
	if err != nil {
		return Machine{}, err
	}
	one, err := parseFile(name+".hcl", src)
	if err != nil {
		return Machine{}, fmt.Errorf("GPU preset %q: %w", spec, err)
	}
	if count < 1 || count > maxBoards/len(one.boards) {
		return Machine{}, fmt.Errorf("GPU preset %q: a machine has 1 to %d boards, so %s can be there 1 to %d times", spec, maxBoards, name, maxBoards/len(one.boards))
	}
	m := one.times(count)
	if hasLayout {
		for i := range m.boards {
			if err := m.boards[i].setNamedLayout(layout); err != nil {
				return Machine{}, fmt.Errorf("GPU preset %q: %w", spec, err)
			}
		}
	}
	m.wiring = m.wiring.fill(m.boards)
	return m, nil
}

// times is a machine with everything several times.
func (m Machine) times(count int) Machine {
	one := m
	nodes := 0
	for _, n := range one.wiring.nodes {
		nodes = max(nodes, n.node+1)
	}
	for n := 1; n < count; n++ {
		for _, b := range one.boards {
			if domain, rest, ok := strings.Cut(b.busID, ":"); ok {
				at, err := strconv.ParseUint(domain, 16, 32)
				if err == nil {
					b.busID = fmt.Sprintf("%08X:%s", at+uint64(n)<<12, rest)
				}
			}
			m.boards = append(m.boards, b)
		}
		m.wiring = m.wiring.joined(one.wiring.shifted(n*len(one.boards), n*nodes, func(nic string) string {
			return fmt.Sprintf("%s_%d", nic, n)
		}))
	}
	return m
}

// busNumbers are the PCI buses of a DGX H100's GPUs; boards beyond the eighth
// get the next free ones.
var busNumbers = []int{0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf}

// idOf is the ID of the board at an index.
func (m Machine) idOf(i int) gpu.ID {
	b := m.boards[i]
	if b.id != "" {
		return b.id
	}
	return deriveID("GPU-", m.Node, b.product, strconv.Itoa(i))
}

func (m Machine) busIDOf(i int) string {
	if id := m.boards[i].busID; id != "" {
		return id
	}
	return fmt.Sprintf("%08X:%02X:00.0", i/len(busNumbers), busNumbers[i%len(busNumbers)])
}

// inventory is the healthy machine with its boards in the given MIG states.
func (m Machine) inventory(states []migState) gpu.Inventory {
	inv := gpu.Inventory{DriverVersion: m.DriverVersion, CUDAVersion: m.CUDAVersion, Environment: m.Environment}
	for i, b := range m.boards {
		id := m.idOf(i)
		reading := gpu.Board{
			ID: id, Index: i, Product: b.product, PCIBusID: m.busIDOf(i), PCIDeviceID: b.pciDeviceID,
			Serial: b.serialOf(id), Minor: &i, Specs: m.specs(i), MIG: states[i].Enabled,
		}
		if n, ok := m.wiring.nodeOf(end{board: i}); ok {
			reading.NUMANode, reading.CPUs = &n.node, n.cpus
		}
		if states[i].Enabled {
			reading.Slices = b.slices(id, states[i].Instances)
		}
		inv.Boards = append(inv.Boards, reading)
	}
	return inv
}

// described are the MIG states that the description gives the boards.
func (m Machine) described() []migState {
	states := make([]migState, len(m.boards))
	for i, b := range m.boards {
		states[i] = b.described
	}
	return states
}

// serialOf is a board's serial number, thirteen digits as on data-centre
// boards; boards for desks do not tell theirs.
func (b board) serialOf(id gpu.ID) string {
	if b.serial != "" || b.fan {
		return b.serial
	}
	return fmt.Sprintf("165%010d", uint64(chance(string(id))*1e10))
}

func (m Machine) specs(i int) gpu.Specs {
	b := m.boards[i]
	known := func(v int64) *int64 {
		if v == 0 {
			return nil
		}
		return &v
	}
	links := int64(m.wiring.links(i))
	s := gpu.Specs{
		MemoryMiB: known(b.memoryMiB), PowerW: known(b.powerW), BAR1MiB: known(b.bar1MiB),
		CoresClockMHz: known(b.coresClockMHz), MemoryClockMHz: known(b.memoryClockMHz),
		PCIBandwidthMBps: known(b.pciBandwidthMBps()),
		DisplayState:     "Disabled", PersistenceMode: "Enabled", ComputeMode: "Default", Architecture: b.architecture,
		Cores: known(b.multiprocessors * b.cores), Multiprocessors: known(b.multiprocessors),
		NVLinks: known(links), NVLinkMBps: known(links * b.nvlinkMBps),
	}
	if b.computeCapability != 0 {
		s.ComputeCapability = &b.computeCapability
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
