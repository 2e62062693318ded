package nvml

import (
	"regexp"
	"strconv"
	"strings"
)

// xidFallenOffTheBus is the code of a GPU that no longer answers.
const xidFallenOffTheBus = 79

// xidLine is what a line of the kernel log tells of a GPU.
type xidLine struct {
	at  slot
	xid int
	// gpuInstance and computeInstance narrow it down to a MIG slice; nil if the
	// line does not.
	gpuInstance, computeInstance *int
	pid                          int // 0 is unknown
	text                         string
	// inferred is set for a line without a code that says the same as one.
	inferred bool
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

// parseXid reads a line of the kernel log. Most lines are of something else.
func parseXid(line string) (xidLine, bool) {
	if !strings.Contains(line, "NVRM: ") {
		return xidLine{}, false
	}
	if m := offForm.FindStringSubmatch(line); m != nil {
		at, ok := parseSlot(m[1])
		return xidLine{at: at, xid: xidFallenOffTheBus, text: shortened(line), inferred: true}, ok
	}
	m := xidForm.FindStringSubmatch(line)
	if m == nil {
		return xidLine{}, false
	}
	at, ok := parseSlot(m[1])
	code, err := strconv.Atoi(m[4])
	if !ok || err != nil || code == 0 {
		return xidLine{}, false
	}
	x := xidLine{at: at, xid: code, gpuInstance: instance(m[2]), computeInstance: instance(m[3]), text: shortened(line)}
	if pid := pidForm.FindStringSubmatch(m[5]); pid != nil {
		if n, err := strconv.ParseInt(pid[1], 10, 32); err == nil {
			x.pid = int(n)
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
