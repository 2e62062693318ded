package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Devices are the character devices that a group can't open or make: those of
// the hidden majors, except the shown ones. The zero Devices hides nothing.
type Devices struct {
	Hidden []uint32
	Shown  []Device
}

// Device is a character device's number.
type Device struct{ Major, Minor uint32 }

// ErrNoDeviceControl is what Hide wraps where the kernel offers no control of
// devices.
var ErrNoDeviceControl = errors.New("control groups can't hide devices here")

// Hide holds the group to the devices from now on. Call it before the group's
// first process starts: what is open already stays open.
func (g Group) Hide(d Devices) error {
	if len(d.Hidden) == 0 {
		return nil
	}
	switch g.Version {
	case 1:
		return g.hideV1(d)
	case 2:
		return g.hideV2(d)
	}
	return fmt.Errorf("%w: tasks have no control groups", ErrNoDeviceControl)
}

// hideV1 lists what is allowed. Version 1 can't take a whole major out of what
// is allowed and then give back single devices of it, so everything else is
// given back by major.
func (g Group) hideV1(d Devices) error {
	dir, ok := g.Dirs["devices"]
	if !ok {
		return fmt.Errorf("%w: the devices controller of version 1 is not mounted", ErrNoDeviceControl)
	}
	majors, err := CharacterMajors()
	if err != nil {
		return err
	}
	rules := []string{"b *:* rwm"}
	for _, major := range majors {
		if !slices.Contains(d.Hidden, major.Number) {
			rules = append(rules, fmt.Sprintf("c %d:* rwm", major.Number))
		}
	}
	for _, s := range d.Shown {
		rules = append(rules, fmt.Sprintf("c %d:%d rw", s.Major, s.Minor))
	}
	if err := writeFile(dir, "devices.deny", "a"); err != nil {
		return err
	}
	for _, r := range rules {
		if err := writeFile(dir, "devices.allow", r); err != nil {
			return err
		}
	}
	return nil
}

// programName is the kernel's name of the program, by which a group that is
// taken up again is known to have one.
const programName = "drover_devices"

// hideV2 attaches a program, which the kernel asks about each device. It goes
// with the group.
func (g Group) hideV2(d Devices) error {
	dir, err := os.Open(g.Dirs[unified])
	if err != nil {
		return fmt.Errorf("opening the control group: %w", err)
	}
	defer dir.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programName, Type: ebpf.CGroupDevice, AttachType: ebpf.AttachCGroupDevice,
		Instructions: d.program(), License: "MPL-2.0",
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDeviceControl, err)
	}
	defer program.Close()
	earlier, err := attached(int(dir.Fd()))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDeviceControl, err)
	}
	attach := link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	}
	if earlier != nil {
		defer earlier.Close()
		attach.Anchor = link.ReplaceProgram(earlier)
	}
	if err := link.RawAttachProgram(attach); err != nil {
		return fmt.Errorf("%w: %w", ErrNoDeviceControl, err)
	}
	return nil
}

// attached is the program that an earlier start of the group has left, nil if
// there is none.
func attached(dir int) (*ebpf.Program, error) {
	have, err := link.QueryPrograms(link.QueryOptions{Target: dir, Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return nil, err
	}
	for _, p := range have.Programs {
		program, err := ebpf.NewProgramFromID(p.ID)
		if err != nil {
			return nil, err
		}
		if info, err := program.Info(); err == nil && info.Name == programName {
			return program, nil
		}
		program.Close()
	}
	return nil, nil
}

// program decides about one access: a struct bpf_cgroup_dev_ctx, whose first
// field has the type of device in its lower half.
func (d Devices) program() asm.Instructions {
	const characters = 2 // BPF_DEVCG_DEV_CHAR
	code := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.And.Imm32(asm.R2, 0xffff),
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.LoadMem(asm.R4, asm.R1, 8, asm.Word),
		asm.JNE.Imm(asm.R2, characters, "allow"),
	}
	for i, s := range d.Shown {
		next := fmt.Sprintf("not_%d", i)
		code = append(code,
			asm.JNE.Imm(asm.R3, int32(s.Major), next),
			asm.JEq.Imm(asm.R4, int32(s.Minor), "allow"),
			asm.Mov.Reg(asm.R2, asm.R2).WithSymbol(next),
		)
	}
	for _, major := range d.Hidden {
		code = append(code, asm.JEq.Imm(asm.R3, int32(major), "deny"))
	}
	return append(code,
		asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("deny"),
		asm.Return(),
	)
}

// Major is a driver of character devices.
type Major struct {
	Number uint32
	Name   string
}

// CharacterMajors lists the machine's drivers of character devices.
func CharacterMajors() ([]Major, error) {
	f, err := os.Open("/proc/devices")
	if err != nil {
		return nil, fmt.Errorf("listing device drivers: %w", err)
	}
	defer f.Close()
	return parseMajors(f)
}

// parseMajors reads the first part of /proc/devices.
func parseMajors(r io.Reader) ([]Major, error) {
	var majors []Major
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "Block devices") {
			break
		}
		number, name, ok := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(number, 10, 31); ok && err == nil {
			majors = append(majors, Major{Number: uint32(n), Name: strings.TrimSpace(name)})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("listing device drivers: %w", err)
	}
	return majors, nil
}

// DeviceAt is the number of the character device at a path.
func DeviceAt(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("device %s: %w", filepath.Clean(path), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return Device{}, fmt.Errorf("device %s: not a character device", filepath.Clean(path))
	}
	return Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}, nil
}
