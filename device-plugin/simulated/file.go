package simulated

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// maxFileBytes limits board and fault files.
const maxFileBytes = 1 << 20

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
//	  product    = "NVIDIA RTX 6000 Ada Generation"
//	  memory_mib = 49140
//	}
type machineFile struct {
	Node          string       `hcl:"node,optional"`
	DriverVersion string       `hcl:"driver_version,optional"`
	CUDAVersion   string       `hcl:"cuda_version,optional"`
	Boards        []boardBlock `hcl:"board,block"`
}

type boardBlock struct {
	Model             string    `hcl:"model,label"`
	Count             *int      `hcl:"count,optional"`
	UUID              string    `hcl:"uuid,optional"`
	PCIBusID          string    `hcl:"pci_bus_id,optional"`
	Product           string    `hcl:"product,optional"`
	Architecture      string    `hcl:"architecture,optional"`
	ComputeCapability float64   `hcl:"compute_capability,optional"`
	MemoryMiB         int64     `hcl:"memory_mib,optional"`
	PowerW            int64     `hcl:"power_w,optional"`
	BAR1MiB           int64     `hcl:"bar1_mib,optional"`
	CoresClockMHz     int64     `hcl:"cores_clock_mhz,optional"`
	MemoryClockMHz    int64     `hcl:"memory_clock_mhz,optional"`
	PCIBandwidthMBps  int64     `hcl:"pci_bandwidth_mbps,optional"`
	MIG               *[]string `hcl:"mig,optional"`

	ModelRange hcl.Range `hcl:"model,label_range"`
	CountRange hcl.Range `hcl:"count,attr_value_range"`
	UUIDRange  hcl.Range `hcl:"uuid,attr_value_range"`
	MIGRange   hcl.Range `hcl:"mig,attr_value_range"`
}

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
	var f machineFile
	if diags := decodeFile(name, src, &f); diags.HasErrors() {
		return Machine{}, diagsError(diags)
	}
	m := newMachine()
	m.Node = f.Node
	if f.DriverVersion != "" {
		m.DriverVersion = f.DriverVersion
	}
	if f.CUDAVersion != "" {
		m.CUDAVersion = f.CUDAVersion
	}
	var diags hcl.Diagnostics
	taken := make(map[gpu.ID]bool)
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
	if diags.HasErrors() {
		return Machine{}, diagsError(diags)
	}
	return m, nil
}

// boards are those that one block describes. taken collects their IDs.
func (f boardBlock) boards(taken map[gpu.ID]bool) ([]board, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	m, ok := models[f.Model]
	if !ok && f.Model != "custom" {
		return nil, append(diags, problem(f.ModelRange, fmt.Sprintf("unknown board %q; use one of %s, or custom", f.Model, strings.Join(boardNames(), ", "))))
	}
	f.override(&m)
	switch {
	case m.product == "":
		diags = append(diags, problem(f.ModelRange, "a custom board needs a product name"))
	case m.memoryMiB == 0:
		diags = append(diags, problem(f.ModelRange, "a custom board needs memory_mib"))
	case min(m.memoryMiB, m.powerW, m.bar1MiB, m.coresClockMHz, m.memoryClockMHz, m.pciBandwidthMBps) < 0 || m.computeCapability < 0:
		diags = append(diags, problem(f.ModelRange, "amounts of a board cannot be negative"))
	}
	count := 1
	if f.Count != nil {
		count = *f.Count
	}
	if count < 1 || count > maxBoards {
		return nil, append(diags, problem(f.CountRange, fmt.Sprintf("count is 1 to %d, not %d", maxBoards, count)))
	}
	b := board{model: m, id: gpu.ID(f.UUID), busID: f.PCIBusID}
	if f.UUID != "" {
		switch {
		case count > 1:
			diags = append(diags, problem(f.UUIDRange, "a block with a uuid describes one board: leave count out"))
		case strings.ContainsAny(f.UUID, ", \t\n"):
			diags = append(diags, problem(f.UUIDRange, "a uuid has no commas or spaces"))
		case taken[b.id]:
			diags = append(diags, problem(f.UUIDRange, fmt.Sprintf("uuid %s is given twice", f.UUID)))
		}
		taken[b.id] = true
	}
	if f.MIG != nil {
		if m.mig == nil {
			diags = append(diags, problem(f.MIGRange, fmt.Sprintf("%s has no MIG mode here; give mig to one of the named data-centre boards", m.product)))
		} else if err := b.cut(true, *f.MIG); err != nil {
			diags = append(diags, problem(f.MIGRange, err.Error()))
		}
	}
	return slices.Repeat([]board{b}, count), diags
}

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
	amount(&m.memoryMiB, f.MemoryMiB)
	amount(&m.powerW, f.PowerW)
	amount(&m.bar1MiB, f.BAR1MiB)
	amount(&m.coresClockMHz, f.CoresClockMHz)
	amount(&m.memoryClockMHz, f.MemoryClockMHz)
	amount(&m.pciBandwidthMBps, f.PCIBandwidthMBps)
	if f.ComputeCapability != 0 {
		m.computeCapability = f.ComputeCapability
	}
}

func boardNames() []string {
	var names []string
	for name := range models {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// decodeFile decodes HCL, or HCL's JSON syntax if the name ends in .json.
func decodeFile(name string, src []byte, into any) hcl.Diagnostics {
	parser := hclparse.NewParser()
	parse := parser.ParseHCL
	if filepath.Ext(name) == ".json" {
		parse = parser.ParseJSON
	}
	f, diags := parse(src, name)
	if diags.HasErrors() {
		return diags
	}
	return append(diags, gohcl.DecodeBody(f.Body, nil, into)...)
}

func problem(at hcl.Range, text string) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: text, Subject: &at}
}

// diagsError joins all problems, one a line, each with its place.
func diagsError(diags hcl.Diagnostics) error {
	var errs []error
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		text := d.Summary
		if d.Detail != "" {
			text += ": " + d.Detail
		}
		if d.Subject != nil {
			text = fmt.Sprintf("%s:%d:%d: %s", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, text)
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// readLimited reads a regular file of at most maxFileBytes.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(src) > maxFileBytes {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", maxFileBytes)}
	}
	return src, nil
}
