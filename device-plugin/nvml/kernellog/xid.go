package kernellog

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/nvml/pci"
)

// fallenOffTheBus is the code of a GPU that no longer answers.
const fallenOffTheBus = 79

// Line is what a line of the log tells of a GPU.
type Line struct {
	At  pci.Slot
	XID int
	// GPUInstance and ComputeInstance narrow it down to a MIG slice; nil if the
	// line does not.
	GPUInstance, ComputeInstance *int
	PID                          int    // 0 is unknown
	Text                         string // the line, or its first 512 bytes
	// Inferred is set for a line without a code that says the same as one.
	Inferred bool
}

// The forms that drivers write:
//
//	NVRM: Xid (PCI:0000:10:00): 79, pid=0, GPU has fallen off the bus.
//	NVRM: Xid (0000:03:00): 31, Ch 0000001b, engmask 00000101, intr 10000000
//	NVRM: Xid (PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics Exception
//	NVRM: Xid (PCI:0000:3b:00 GPU-I:05 GPU-CI:00): 45, pid=1818990, name=python3, Ch 00000001
//	NVRM: GPU 0000:09:00.0: GPU has fallen off the bus.
var (
	xidForm = regexp.MustCompile(`NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]{7,18})(?: GPU-I:(\d{1,3}))?(?: GPU-CI:(\d{1,3}))?\): (\d{1,5})(?:,|$)(.*)`)
	pidForm = regexp.MustCompile(`^ pid='?(\d{1,10})'?(?:,|$)`)
	offForm = regexp.MustCompile(`NVRM: GPU (?:at )?(?:PCI:)?([0-9A-Fa-f:.]{7,18}): GPU has fallen off the bus`)
)

// mostText is how much of a line is passed on, in bytes.
const mostText = 512

// Parse reads a line of the log. Most lines are of something else.
func Parse(line string) (Line, bool) {
	if !strings.Contains(line, "NVRM: ") {
		return Line{}, false
	}
	if m := offForm.FindStringSubmatch(line); m != nil {
		at, ok := pci.Parse(m[1])
		return Line{At: at, XID: fallenOffTheBus, Text: shortened(line), Inferred: true}, ok
	}
	m := xidForm.FindStringSubmatch(line)
	if m == nil {
		return Line{}, false
	}
	at, ok := pci.Parse(m[1])
	code, err := strconv.Atoi(m[4])
	if !ok || err != nil || code == 0 {
		return Line{}, false
	}
	x := Line{At: at, XID: code, GPUInstance: instance(m[2]), ComputeInstance: instance(m[3]), Text: shortened(line)}
	if pid := pidForm.FindStringSubmatch(m[5]); pid != nil {
		if n, err := strconv.ParseInt(pid[1], 10, 32); err == nil {
			x.PID = int(n)
		}
	}
	return x, true
}

func instance(digits string) *int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return nil
	}
	return &n
}

func shortened(line string) string {
	line = strings.TrimSpace(line)
	if len(line) > mostText {
		line = strings.ToValidUTF8(line[:mostText], "")
	}
	return line
}
