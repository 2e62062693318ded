package simulated

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// machineFile is a board file:
//
//	driver_version = "550.54.15"
//
//	board "a100-40gb" {
//	  count = 4
//	}
//	board "a100-40gb" {
//	  mig = ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]
//	}
//	board "custom" {
//	  product    = "NVIDIA Secret"
//	  memory_mib = 49140
//	}
//
// How they are connected is in the blocks of wiringFile.
type machineFile struct {
	Node          string            `hcl:"node,optional"`
	DriverVersion string            `hcl:"driver_version,optional"`
	CUDAVersion   string            `hcl:"cuda_version,optional"`
	Environment   *environmentBlock `hcl:"environment,block"`
	Boards        []boardBlock      `hcl:"board,block"`

	Switches []switchBlock `hcl:"switch,block"`
	NVLinks  []nvlinkBlock `hcl:"nvlink,block"`
	NUMA     []numaBlock   `hcl:"numa,block"`
	NICs     []nicBlock    `hcl:"nic,block"`
}

// environmentBlock is the software of the node.
type environmentBlock struct {
	OpenKernelModules *bool    `hcl:"open_kernel_modules,optional"`
	CUDARuntimes      []string `hcl:"cuda_runtimes,optional"`
	ContainerToolkit  string   `hcl:"container_toolkit,optional"`
	FabricManager     string   `hcl:"fabric_manager,optional"`
	MPSControl        string   `hcl:"mps_control,optional"`
	ForwardCompat     []string `hcl:"forward_compat,optional"`
}

type boardBlock struct {
	Model             string    `hcl:"model,label"`
	Count             *int      `hcl:"count,optional"`
	UUID              string    `hcl:"uuid,optional"`
	Serial            string    `hcl:"serial,optional"`
	PCIBusID          string    `hcl:"pci_bus_id,optional"`
	PCIBusIDs         []string  `hcl:"pci_bus_ids,optional"`
	PCIDeviceID       string    `hcl:"pci_device_id,optional"`
	Product           string    `hcl:"product,optional"`
	Architecture      string    `hcl:"architecture,optional"`
	ComputeCapability float64   `hcl:"compute_capability,optional"`
	MemoryMiB         int64     `hcl:"memory_mib,optional"`
	PowerW            int64     `hcl:"power_w,optional"`
	BAR1MiB           int64     `hcl:"bar1_mib,optional"`
	CoresClockMHz     int64     `hcl:"cores_clock_mhz,optional"`
	MemoryClockMHz    int64     `hcl:"memory_clock_mhz,optional"`
	PCIBandwidthMBps  int64     `hcl:"pci_bandwidth_mbps,optional"`
	Multiprocessors   int64     `hcl:"multiprocessors,optional"`
	NVLinks           int64     `hcl:"nvlinks,optional"`
	NVLinkMBps        int64     `hcl:"nvlink_mbps,optional"`
	MIG               *[]string `hcl:"mig,optional"`

	ModelRange hcl.Range `hcl:"model,label_range"`
	Body       hcl.Body  `hcl:",body"`
}

// at is the place of one of the block's attributes.
func (f boardBlock) at(attribute string) hcl.Range { return rangeOf(f.Body, attribute, f.ModelRange) }

// Load makes a machine from a preset's name or, when the text ends in .hcl or
// .json, from a board file.
func Load(spec string) (Machine, error) {
	if !isFileName(spec) {
		return Preset(spec)
	}
	src, err := readLimited(spec)
	if err != nil {
		return Machine{}, fmt.Errorf("reading board file: %w", err)
	}
	return ParseFile(spec, src)
}

func isFileName(spec string) bool {
	ext := filepath.Ext(spec)
	return ext == ".hcl" || ext == ".json"
}

// ParseFile makes a machine from a board file's content. The name tells the
// syntax (.json, else HCL) and appears in errors, which name every problem
// with its file, line and column.
func ParseFile(name string, src []byte) (Machine, error) {
	m, err := parseFile(name, src)
	m.wiring = m.wiring.fill(m.boards)
	return m, err
}

// parseFile leaves out what the file does not say of the wiring.
func parseFile(name string, src []byte) (Machine, error) {
	var f machineFile
	if diags := decodeFile(name, src, &f); diags.HasErrors() {
		return Machine{}, diagsError(diags)
	}
	m := Machine{Node: f.Node, DriverVersion: defaultDriverVersion, CUDAVersion: defaultCUDAVersion}
	if f.DriverVersion != "" {
		m.DriverVersion = f.DriverVersion
	}
	if f.CUDAVersion != "" {
		m.CUDAVersion = f.CUDAVersion
	}
	if e := f.Environment; e != nil {
		m.Environment = gpu.Environment(*e)
	}
	var diags hcl.Diagnostics
	taken := make(map[string]bool)
	for _, block := range f.Boards {
		boards, d := block.boards(taken)
		diags = append(diags, d...)
		m.boards = append(m.boards, boards...)
	}
	switch {
	case len(f.Boards) == 0:
		diags = append(diags, problem(hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}, "no board block: a machine has at least one"))
	case len(m.boards) > maxBoards:
		diags = append(diags, problem(f.Boards[len(f.Boards)-1].ModelRange, fmt.Sprintf("a machine has at most %d boards, not %d", maxBoards, len(m.boards))))
	}
	if diags.HasErrors() { // the wiring's numbers would be judged wrongly
		return Machine{}, diagsError(diags)
	}
	m.wiring, diags = f.wiring(m.boards)
	if diags.HasErrors() {
		return Machine{}, diagsError(diags)
	}
	return m, nil
}

// boards are those that one block describes. taken collects their IDs.
func (f boardBlock) boards(taken map[string]bool) ([]board, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	wrong := func(at hcl.Range, format string, args ...any) {
		diags = append(diags, problem(at, fmt.Sprintf(format, args...)))
	}
	m, ok := models[f.Model]
	if !ok && f.Model != "custom" {
		wrong(f.ModelRange, "unknown board %q; use one of %s, or custom", f.Model, strings.Join(boardNames(), ", "))
		return nil, diags
	}
	f.override(&m)
	switch {
	case m.product == "":
		wrong(f.ModelRange, "a custom board needs a product name")
	case m.memoryMiB == 0:
		wrong(f.ModelRange, "a custom board needs memory_mib")
	case min(m.memoryMiB, m.powerW, m.bar1MiB, m.coresClockMHz, m.memoryClockMHz, m.pciBandwidthMBpsChosen, m.multiprocessors, m.nvlinks, m.nvlinkMBps) < 0 || m.computeCapability < 0:
		wrong(f.ModelRange, "amounts of a board cannot be negative")
	case m.nvlinks > maxNVLinks:
		wrong(f.at("nvlinks"), "a board has at most %d NVLinks, not %d", maxNVLinks, m.nvlinks)
	}
	count := 1
	if f.Count != nil {
		count = *f.Count
	}
	if count < 1 || count > maxBoards {
		wrong(f.at("count"), "count is 1 to %d, not %d", maxBoards, count)
		return nil, diags
	}
	if f.UUID != "" {
		switch {
		case count > 1:
			wrong(f.at("uuid"), "a block with a uuid describes one board: leave count out")
		case strings.ContainsAny(f.UUID, ", \t\n"):
			wrong(f.at("uuid"), "a uuid has no commas or spaces")
		case taken[f.UUID]:
			wrong(f.at("uuid"), "uuid %s is given twice", f.UUID)
		}
		taken[f.UUID] = true
	}
	if f.Serial != "" && count > 1 {
		wrong(f.at("serial"), "a block with a serial describes one board: leave count out")
	}
	b := board{model: m, id: gpu.ID(f.UUID), serial: f.Serial}
	if f.MIG != nil {
		if cut, ok := m.migModel(); !ok {
			wrong(f.at("mig"), "%s has no MIG mode; give mig to one of %s", m.product, strings.Join(migBoardNames(), ", "))
		} else if err := b.describe(cut, *f.MIG); err != nil {
			wrong(f.at("mig"), "%s", err)
		}
	}
	boards := slices.Repeat([]board{b}, count)
	diags = append(diags, f.place(boards, taken)...)
	return boards, diags
}

// place gives the boards their PCI addresses, as far as the block has them.
func (f boardBlock) place(boards []board, taken map[string]bool) hcl.Diagnostics {
	attribute, ids := "pci_bus_ids", f.PCIBusIDs
	if f.PCIBusID != "" {
		if ids != nil {
			return hcl.Diagnostics{problem(f.at(attribute), "give pci_bus_id or pci_bus_ids, not both")}
		}
		attribute, ids = "pci_bus_id", []string{f.PCIBusID}
	}
	if ids == nil {
		return nil
	}
	if len(ids) != len(boards) {
		return hcl.Diagnostics{problem(f.at(attribute), fmt.Sprintf("%s has %d addresses for %d boards", attribute, len(ids), len(boards)))}
	}
	for i, id := range ids {
		if taken[id] {
			return hcl.Diagnostics{problem(f.at(attribute), fmt.Sprintf("PCI address %s is given twice", id))}
		}
		taken[id] = true
		boards[i].busID = id
	}
	return nil
}

// maxNVLinks is a limit on descriptions, above any real board.
const maxNVLinks = 64

// override replaces what the block gives of the named board.
func (f boardBlock) override(m *model) {
	text := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	amount := func(to *int64, from int64) {
		if from != 0 {
			*to = from
		}
	}
	text(&m.product, f.Product)
	text(&m.architecture, f.Architecture)
	text(&m.pciDeviceID, f.PCIDeviceID)
	amount(&m.memoryMiB, f.MemoryMiB)
	amount(&m.powerW, f.PowerW)
	amount(&m.bar1MiB, f.BAR1MiB)
	amount(&m.coresClockMHz, f.CoresClockMHz)
	amount(&m.memoryClockMHz, f.MemoryClockMHz)
	amount(&m.pciBandwidthMBpsChosen, f.PCIBandwidthMBps)
	amount(&m.nvlinks, f.NVLinks)
	amount(&m.nvlinkMBps, f.NVLinkMBps)
	if f.Multiprocessors != 0 {
		m.multiprocessors = f.Multiprocessors
		if m.cores == 0 {
			m.cores = 128
		}
	}
	if f.ComputeCapability != 0 {
		m.computeCapability = f.ComputeCapability
	}
}

func boardNames() []string { return slices.Sorted(maps.Keys(models)) }

func migBoardNames() []string {
	return slices.DeleteFunc(boardNames(), func(name string) bool {
		_, ok := models[name].migModel()
		return !ok
	})
}
