package simulated

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Script is what goes wrong with a machine's GPUs, and when. The zero Script
// is nothing. As a file:
//
//	fault "3" {                  # a board's index, the ID of a board or slice, or "*"
//	  at   = "5s"                # see timing; without it at once and for good
//	  for  = "10s"
//	  xid  = 79
//	  lost = true
//	}
//	process "0" {                # somebody's program on a board or slice
//	  memory_mib  = 30000
//	  gpu_percent = 95
//	}
//	reset "3" { at = "30s" }     # what a reset of the board mends
//	driver {                     # the driver as a whole
//	  at   = "1m"
//	  for  = "5s"
//	  hang = true
//	}
//	mig "*" {                    # calls that change MIG
//	  call  = "create"
//	  nth   = 2
//	  error = "Insufficient Resources"
//	}
//
// The time of each block counts from when the block was first read, and goes
// on while the block stays in the file, whatever else changes there.
type Script struct{ steps []step }

// step is a block of a script.
type step struct {
	schedule
	// key is the block's content: what it is recognised by in the next version
	// of the file.
	key string
	// target is the label; "" is the driver as a whole.
	target string
	where  hcl.Range

	fault   *fault
	process *scriptedProcess
	driver  *driverTrouble
	mig     *migTrouble
	reset   bool
}

// everyBoard is the label that means all boards.
const everyBoard = "*"

// maxSteps limits scripts.
const maxSteps = 1000

type scriptFile struct {
	DriverError string         `hcl:"driver_error,optional"`
	Faults      []fault        `hcl:"fault,block"`
	Processes   []processBlock `hcl:"process,block"`
	Resets      []resetBlock   `hcl:"reset,block"`
	Drivers     []driverBlock  `hcl:"driver,block"`
	MIG         []migBlock     `hcl:"mig,block"`
}

type resetBlock struct {
	Device      string    `hcl:"device,label"`
	At          string    `hcl:"at,optional"`
	Every       string    `hcl:"every,optional"`
	Times       *int      `hcl:"times,optional"`
	DeviceRange hcl.Range `hcl:"device,label_range" json:"-"`
	Body        hcl.Body  `hcl:",body" json:"-"`
}

// ReadScript reads a script from a file. One that is not there is nothing.
func ReadScript(path string) (Script, error) {
	src, err := readLimited(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Script{}, nil
	}
	if err != nil {
		return Script{}, fmt.Errorf("reading fault script: %w", err)
	}
	return ParseScript(path, src)
}

// ParseScript reads a script. The name tells the syntax (.json, else HCL) and
// appears in errors, which name every problem with its file, line and column.
func ParseScript(name string, src []byte) (Script, error) {
	var f scriptFile
	diags := decodeFile(name, src, &f)
	if diags.HasErrors() {
		return Script{}, diagsError(diags)
	}
	r := scriptReader{keys: make(map[string]int), src: src}
	if f.DriverError != "" {
		r.add(step{driver: &driverTrouble{err: f.DriverError}}, "driver_error "+f.DriverError)
	}
	for _, b := range f.Faults {
		r.fault(b)
	}
	for _, b := range f.Processes {
		r.process(b)
	}
	for _, b := range f.Resets {
		s := r.step(b.Device, b.DeviceRange, timing{At: b.At, Every: b.Every, Times: b.Times, Body: b.Body})
		s.reset = true
		if strings.HasPrefix(b.Device, slicePrefix) {
			r.wrong(b.DeviceRange, "a reset is of a board, not of a slice")
		}
		r.add(s, "reset "+content(b))
	}
	for _, b := range f.Drivers {
		r.driver(b)
	}
	for _, b := range f.MIG {
		r.mig(b)
	}
	if len(r.script.steps) > maxSteps {
		r.wrong(hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}, "a script has at most %d blocks, not %d", maxSteps, len(r.script.steps))
	}
	if r.diags.HasErrors() {
		return Script{}, diagsError(r.diags)
	}
	return r.script, nil
}

// slicePrefix is how the IDs of slices begin.
const slicePrefix = "MIG-"

// scriptReader turns blocks into steps.
type scriptReader struct {
	script Script
	keys   map[string]int
	src    []byte
	diags  hcl.Diagnostics
}

func (r *scriptReader) wrong(at hcl.Range, format string, args ...any) {
	r.diags = append(r.diags, problem(at, fmt.Sprintf(format, args...)))
}

// step begins a step with what all blocks with a label have.
func (r *scriptReader) step(target string, at hcl.Range, t timing) step {
	s := step{target: target, where: at}
	var diags hcl.Diagnostics
	s.schedule, diags = t.schedule(at)
	r.diags = append(r.diags, diags...)
	if n, err := strconv.Atoi(target); err == nil && (n < 0 || n >= maxBoards) {
		r.wrong(at, "%q is no board: a machine has boards 0 to %d at most", target, maxBoards-1)
	} else if target == "" {
		r.wrong(at, "the label is a board's index, the ID of a board or slice, or \"*\" for all boards")
	}
	return s
}

// add appends a step. Blocks of the same content are told apart by their order.
func (r *scriptReader) add(s step, content string) {
	r.keys[content]++
	s.key = fmt.Sprintf("%s #%d", content, r.keys[content])
	r.script.steps = append(r.script.steps, s)
}

// Unmatched lists the labels that name no board or slice of an inventory, each
// with its place.
func (s Script) Unmatched(inv gpu.Inventory) []string {
	var unmatched []string
	for _, st := range s.steps {
		if st.target == "" || st.target == everyBoard {
			continue
		}
		found := slices.ContainsFunc(inv.Boards, func(b gpu.Board) bool {
			return st.isBoard(b.ID, b.Index) || slices.ContainsFunc(b.Slices, func(s gpu.Slice) bool { return string(s.ID) == st.target })
		})
		if !found {
			unmatched = append(unmatched, fmt.Sprintf("%s:%d:%d: this machine has no board or slice %q", st.where.Filename, st.where.Start.Line, st.where.Start.Column, st.target))
		}
	}
	return unmatched
}

// isBoard reports whether a step is about a board.
func (s step) isBoard(id gpu.ID, index int) bool {
	return s.target == everyBoard || s.target == string(id) || s.target == strconv.Itoa(index)
}
