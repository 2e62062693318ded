package health

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signal names what a condition of a device was seen by: one of the constants
// below, or "xid-<code>".
type Signal string

// The signals other than Xid codes.
const (
	Lost             Signal = "lost"              // it is gone from the bus, or does not answer
	Unreadable       Signal = "unreadable"        // its vitals cannot be read any more
	ECCUncorrectable Signal = "ecc-uncorrectable" // the count of uncorrectable errors rose
	RemapPending     Signal = "row-remap-pending" // a row of memory is replaced at the next reset
	RemapFailed      Signal = "row-remap-failed"  // no spare row was left
	PagesPending     Signal = "page-pending"      // a page of memory is retired at the next reset
	PagesExhausted   Signal = "pages-retired"     // too many pages were retired
	ThermalSlowdown  Signal = "thermal-slowdown"  // clocks are held down because of heat
	PowerSlowdown    Signal = "power-slowdown"    // clocks are held down by the power brake
	HardwareSlowdown Signal = "hardware-slowdown" // clocks are held down, and the driver does not say for which of the two
	NVLinkDown       Signal = "nvlink-down"       // a link that was up is down
	NVLinkErrors     Signal = "nvlink-errors"     // links have errors at a high rate
	PCIeWidth        Signal = "pcie-width"        // the link has fewer lanes than board and slot can have
	PCIeGeneration   Signal = "pcie-generation"   // a busy board's link is slower than it can be
	PCIeReplays      Signal = "pcie-replays"      // transfers are repeated at a high rate
	Fabric           Signal = "fabric"            // the board has not joined the NVSwitch fabric
	RecoveryReset    Signal = "recovery-reset"    // the driver recommends a reset
	RecoveryReboot   Signal = "recovery-reboot"   // the driver recommends a restart of the node
	RecoveryDrain    Signal = "recovery-drain"    // the driver recommends to move peer-to-peer work away
	RecoveryDrainAnd Signal = "recovery-drain-and-reset"
)

// rule is what is known of a signal.
type rule struct {
	signal  Signal
	meaning string // what is wrong, to follow "the GPU: "
	back    string // what brings a device back
	verdict Verdict
	remedy  remedy
	// hard signals are facts that the board itself shows, of which the circuit
	// breaker stops none. No Xid is: it is what the driver claims, and a GPU
	// that has fallen off the bus is lost as well.
	hard bool
	// slow signals must be seen for Config.SlowAfter before they count, and
	// must have been gone for Config.SlowClear before they are over.
	slow bool
	// peers is set where only work on several GPUs suffers. Such a signal does
	// not touch MIG slices, which cannot use NVLink, nor the only GPU of a node.
	peers bool
}

var rules = []rule{
	{signal: Lost, meaning: "the GPU is lost", back: "when the driver lists it again", verdict: end, remedy: remedyReadings, hard: true},
	{signal: Unreadable, meaning: "the driver does not tell the GPU's health any more", back: "when it does again", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: ECCUncorrectable, meaning: "uncorrectable memory errors", back: "after a reset", verdict: move, remedy: remedyReset, hard: true},
	{signal: RemapPending, meaning: "a row of memory awaits its replacement", back: "after a reset", verdict: keep, remedy: remedyReadings},
	{signal: RemapFailed, meaning: "a row of memory could not be replaced, as no spare was left", back: "when the board was replaced", verdict: move, remedy: remedyOperator, hard: true},
	{signal: PagesPending, meaning: "a page of memory awaits its retirement", back: "after a reset", verdict: keep, remedy: remedyReadings},
	{signal: PagesExhausted, meaning: "too many pages of memory were retired", back: "when the board was replaced", verdict: move, remedy: remedyOperator, hard: true},
	{signal: ThermalSlowdown, meaning: "heat slows the GPU down", back: "when it is cool again", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: PowerSlowdown, meaning: "the power brake slows the GPU down", back: "when its power supply is good again", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: HardwareSlowdown, meaning: "the hardware slows the GPU down", back: "when it stops", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: NVLinkDown, meaning: "an NVLink is down", back: "when it is up again", verdict: keep, remedy: remedyReadings, peers: true},
	{signal: NVLinkErrors, meaning: "errors on NVLink", back: "when they stop", verdict: keep, remedy: remedyReadings, slow: true, peers: true},
	{signal: PCIeWidth, meaning: "the PCIe link has lost lanes", back: "when it has all of them again", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: PCIeGeneration, meaning: "the PCIe link is slow under load", back: "when it is fast again", verdict: degraded, remedy: remedyReadings, slow: true},
	{signal: PCIeReplays, meaning: "transfers over PCIe are repeated often", back: "when they are not", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: Fabric, meaning: "the GPU has not joined the NVSwitch fabric", back: "when it has; see the fabric manager", verdict: keep, remedy: remedyReadings, slow: true},
	{signal: RecoveryReset, meaning: "the driver asks for a reset of the GPU", back: "after a reset", verdict: move, remedy: remedyReadings},
	{signal: RecoveryReboot, meaning: "the driver asks for a restart of the node", back: "after a restart of the node", verdict: move, remedy: remedyReadings},
	{signal: RecoveryDrain, meaning: "the driver asks to move work away that uses NVLink peers", back: "when it does not any more", verdict: keep, remedy: remedyReadings, peers: true},
	{signal: RecoveryDrainAnd, meaning: "the driver asks for a reset of the GPU after its work has ended", back: "after a reset", verdict: keep, remedy: remedyReadings},
}

// Signals lists the signals other than Xid codes.
func Signals() []Signal {
	all := make([]Signal, len(rules))
	for i, r := range rules {
		all[i] = r.signal
	}
	return all
}

const xidPrefix = "xid-"

func xidSignal(code int) Signal { return Signal(xidPrefix + strconv.Itoa(code)) }

// xid is the code of a signal that is one.
func (s Signal) xid() (int, bool) {
	text, ok := strings.CutPrefix(string(s), xidPrefix)
	if !ok {
		return 0, false
	}
	code, err := strconv.Atoi(text)
	return code, err == nil && code > 0 && xidSignal(code) == s
}

// lookup finds what is known of a signal, before overrides.
func lookup(s Signal) (rule, bool) {
	if code, ok := s.xid(); ok {
		x, _ := LookupXID(code)
		r := rule{signal: s, meaning: x.String(), back: backAfter[x.Resolution], verdict: x.Default, remedy: x.remedy(), peers: x.Class == Link}
		if r.back == "" {
			r.back = "when it has not happened again for a while"
		}
		return r, true
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return r.signal == s })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

// backAfter tells what brings a device back after an Xid, where it is not
// silence.
var backAfter = map[Resolution]string{
	ResetGPU:    "after a reset",
	CheckLink:   "after a reset; check cables and switches if it recurs",
	RestartVM:   "after a restart of the virtual machine",
	RestartNode: "after a restart of the node",
}

// stamp is how times appear in reasons. It does not change while nothing
// happens, so that a reason stays the same.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// describe tells what was seen, and when.
func (r rule) describe(text string, first time.Time) string {
	what := r.meaning
	switch {
	case text != "" && r.signal == Lost:
		what = text
	case text != "":
		what += " (" + text + ")"
	}
	return fmt.Sprintf("%s, at %s", what, stamp(first))
}
