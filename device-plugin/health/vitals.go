package health

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// baseline is what of a board's vitals outlives the plugin, so that what
// happened while it did not run is noticed.
type baseline struct {
	EnergyMJ      *int64       `json:"energy_mj,omitempty"`
	Uncorrectable *int64       `json:"ecc_uncorrectable,omitempty"`
	SRAM          *int64       `json:"ecc_sram_uncorrectable,omitempty"`
	Remapped      *int64       `json:"remapped_rows,omitempty"`
	Recovery      string       `json:"recovery_action,omitempty"`
	Links         map[int]bool `json:"nvlinks,omitempty"` // those that were seen up
}

// ObserveVitals takes a reading of vitals. Boards of an earlier reading that
// are not in it could not be read.
func (t *Tracker) ObserveVitals(now time.Time, readings map[gpu.ID]gpu.Vitals) {
	for id, b := range t.boards {
		v, ok := readings[id]
		if !b.listed {
			continue
		}
		u := t.unit(now, id, id)
		if !ok {
			if b.vitals != nil && u.conditions[Lost] == nil {
				t.level(now, u, Unreadable, true, true, "")
			}
			continue
		}
		if b.vitals != nil && now.Sub(b.read) > t.config.StallAfter {
			clear(u.slow) // what was in between is not known
		}
		t.level(now, u, Unreadable, true, false, "")
		t.observeBoardVitals(now, u, b, v)
		b.vitals, b.read = &v, now
		b.base.take(v)
	}
	t.settleAll(now)
}

func (t *Tracker) observeBoardVitals(now time.Time, u *unit, b *board, v gpu.Vitals) {
	if wasReset(b, v) {
		t.reset(u.id)
		b.base = baseline{Links: b.base.Links}
	} else {
		t.memoryErrors(now, u, b, v)
		t.rates(now, u, b, v)
	}
	if r := v.RemappedRows; r != nil {
		t.level(now, u, RemapPending, true, r.Pending, "")
		t.level(now, u, RemapFailed, true, r.Failed, "")
	}
	if r := v.RetiredPages; r != nil {
		t.level(now, u, PagesPending, true, r.Pending, "")
		t.level(now, u, PagesExhausted, true, r.SingleBit+r.DoubleBit >= t.config.RetiredPages, fmt.Sprintf("%d or more", t.config.RetiredPages))
	}
	t.slowdown(now, u, b, v)
	t.links(now, u, b, v)
	if v.RecoveryAction != "" {
		t.recoveryAction(now, u, v.RecoveryAction)
	}
}

// level takes a reading of a signal that is either there or not. A reading
// that is not known changes nothing. A slow signal is shown when it has been
// there for a fifth of the time after which it condemns.
func (t *Tracker) level(now time.Time, u *unit, s Signal, known, bad bool, text string) {
	if !known {
		return
	}
	r, _ := lookup(s)
	after, clearAfter := time.Duration(0), time.Duration(0)
	if r.slow {
		after, clearAfter = t.config.SlowAfter, t.config.SlowClear
	}
	c, sp := u.conditions[s], u.slow[s]
	counts := c != nil && !c.mild
	if bad {
		sp.good = time.Time{}
		if sp.bad.IsZero() {
			sp.bad = now
		}
		switch lasts := now.Sub(sp.bad); {
		case counts || lasts >= after:
			t.begin(now, u, sighting{signal: s, text: text})
		case lasts >= after/5:
			t.begin(now, u, sighting{signal: s, text: text, mild: true})
		}
	} else {
		sp.bad = time.Time{}
		if sp.good.IsZero() {
			sp.good = now
		}
		if c != nil && (c.mild || r.remedy != remedyOperator && now.Sub(sp.good) >= clearAfter) {
			u.over(s)
		}
	}
	u.slow[s] = sp
}

// wasReset reports whether a board was reset, or the driver loaded anew, since
// the last reading: something that is counted from then on has fallen, or the
// driver does not ask for it any more.
func wasReset(b *board, v gpu.Vitals) bool {
	if fell(b.base.EnergyMJ, v.EnergyMJ) {
		return true
	}
	switch b.base.Recovery {
	case "reset", "reboot", "drain-and-reset":
		if v.RecoveryAction == "none" {
			return true
		}
	}
	if v.ECC != nil && (fell(b.base.Uncorrectable, v.ECC.VolatileUncorrected) || fell(b.base.SRAM, v.ECC.SRAMUncorrected)) {
		return true
	}
	old := b.vitals
	return old != nil && (fell(old.PowerViolation, v.PowerViolation) || fell(old.ThermalViolation, v.ThermalViolation) ||
		old.PCIe != nil && v.PCIe != nil && fell(old.PCIe.Replays, v.PCIe.Replays))
}

func fell[T int64 | time.Duration](old, new *T) bool { return old != nil && new != nil && *new < *old }

func rose[T int64 | time.Duration](old, new *T) bool { return old != nil && new != nil && *new > *old }

func (b *baseline) take(v gpu.Vitals) {
	keep := func(old **int64, new *int64) {
		if new != nil {
			n := *new
			*old = &n
		}
	}
	keep(&b.EnergyMJ, v.EnergyMJ)
	if v.ECC != nil {
		keep(&b.Uncorrectable, v.ECC.VolatileUncorrected)
		keep(&b.SRAM, v.ECC.SRAMUncorrected)
	}
	if v.RemappedRows != nil {
		keep(&b.Remapped, &v.RemappedRows.Uncorrected)
	}
	if v.RecoveryAction != "" {
		b.Recovery = v.RecoveryAction
	}
	for _, l := range v.NVLinks {
		if l.Active {
			b.Links[l.Link] = true
		}
	}
}

// memoryErrors looks for uncorrectable errors. Those in the device memory of a
// board that remaps rows are contained by that, and tell of themselves as a
// pending remap; all others condemn it.
func (t *Tracker) memoryErrors(now time.Time, u *unit, b *board, v gpu.Vitals) {
	if v.ECC == nil || !rose(b.base.Uncorrectable, v.ECC.VolatileUncorrected) && !rose(b.base.SRAM, v.ECC.SRAMUncorrected) {
		return
	}
	where := ""
	if r := v.RemappedRows; r != nil {
		switch {
		case rose(b.base.SRAM, v.ECC.SRAMUncorrected):
			where = "on the chip"
		case b.base.SRAM != nil && v.ECC.SRAMUncorrected != nil:
			return // in the device memory
		case r.Pending || rose(b.base.Remapped, &r.Uncorrected):
			return
		}
	}
	t.begin(now, u, sighting{signal: ECCUncorrectable, text: where, event: true})
}

// rates looks at counters of links against the last reading.
func (t *Tracker) rates(now time.Time, u *unit, b *board, v gpu.Vitals) {
	if b.vitals == nil {
		return
	}
	minutes := now.Sub(b.read).Minutes()
	if minutes <= 0 {
		return
	}
	if b.vitals.PCIe != nil && v.PCIe != nil {
		old, new := b.vitals.PCIe.Replays, v.PCIe.Replays
		if old != nil && new != nil && *new >= *old {
			t.level(now, u, PCIeReplays, true, float64(*new-*old)/minutes > float64(t.config.PCIeReplaysPerMinute), "")
		}
	}
	before := make(map[int]gpu.NVLink, len(b.vitals.NVLinks))
	for _, l := range b.vitals.NVLinks {
		before[l.Link] = l
	}
	known, bad := false, false
	for _, l := range v.NVLinks {
		old, ok := before[l.Link]
		if !ok {
			continue
		}
		errors := int64(0)
		for _, c := range [][2]*int64{{old.CRCErrors, l.CRCErrors}, {old.ReplayErrors, l.ReplayErrors}, {old.RecoveryErrors, l.RecoveryErrors}} {
			if c[0] != nil && c[1] != nil && *c[1] >= *c[0] {
				known = true
				errors += *c[1] - *c[0]
			}
		}
		// A link that had to be brought up again lost its traffic meanwhile.
		bad = bad || rose(old.RecoveryErrors, l.RecoveryErrors) || float64(errors)/minutes > float64(t.config.NVLinkErrorsPerMinute)
	}
	t.level(now, u, NVLinkErrors, known && !b.mig, bad, "")
}

// slowdown looks for clocks that the hardware holds down.
func (t *Tracker) slowdown(now time.Time, u *unit, b *board, v gpu.Vitals) {
	has := func(r gpu.ThrottleReason) bool { return slices.Contains(v.Throttle, r) }
	hot := v.TemperatureC != nil && v.SlowdownTemperatureC != nil && *v.TemperatureC >= *v.SlowdownTemperatureC
	if b.vitals != nil && v.ThermalViolation != nil && b.vitals.ThermalViolation != nil {
		// Between two readings it may well have been slow more than in them.
		held := *v.ThermalViolation - *b.vitals.ThermalViolation
		hot = hot || held > 0 && held >= now.Sub(b.read)/2
	}
	known := v.Throttle != nil || hot
	thermal := hot || has(gpu.ThrottleHWThermal) || has(gpu.ThrottleSWThermal)
	power := has(gpu.ThrottleHWPowerBrake)
	t.level(now, u, ThermalSlowdown, known, thermal, "")
	t.level(now, u, PowerSlowdown, v.Throttle != nil, power, "")
	t.level(now, u, HardwareSlowdown, v.Throttle != nil, has(gpu.ThrottleHWSlowdown) && !thermal && !power, "")
}

// links looks at the state of NVLink, PCIe and the fabric.
func (t *Tracker) links(now time.Time, u *unit, b *board, v gpu.Vitals) {
	if v.NVLinks != nil && !b.mig {
		up := make(map[int]bool, len(v.NVLinks))
		for _, l := range v.NVLinks {
			up[l.Link] = l.Active
		}
		var down []string
		for _, link := range slices.Sorted(maps.Keys(b.base.Links)) {
			if !up[link] {
				down = append(down, fmt.Sprint(link))
			}
		}
		// Links that were never up are not connected to anything.
		t.level(now, u, NVLinkDown, true, len(down) > 0, "link "+strings.Join(down, ", "))
	}
	if p := v.PCIe; p != nil {
		if p.Width != nil && p.MaxWidth != nil {
			t.level(now, u, PCIeWidth, *p.Width > 0, *p.Width < *p.MaxWidth, fmt.Sprintf("%d of %d lanes", *p.Width, *p.MaxWidth))
		}
		if p.Generation != nil && p.MaxGeneration != nil {
			// An idle board slows its link down to save power.
			busy := v.Throttle != nil && !slices.Contains(v.Throttle, gpu.ThrottleIdle)
			t.level(now, u, PCIeGeneration, busy, *p.Generation < *p.MaxGeneration, fmt.Sprintf("generation %d of %d", *p.Generation, *p.MaxGeneration))
		}
	}
	switch v.FabricState {
	case "", "not-supported":
	default:
		t.level(now, u, Fabric, true, v.FabricState != "completed", oneLine(v.FabricState))
	}
}

// recoverySignals are what the driver recommends.
var recoverySignals = map[string]Signal{
	"reset": RecoveryReset, "reboot": RecoveryReboot, "drain": RecoveryDrain, "drain-and-reset": RecoveryDrainAnd,
}

func (t *Tracker) recoveryAction(now time.Time, u *unit, action string) {
	for name, s := range recoverySignals {
		t.level(now, u, s, true, name == action, "")
	}
}

// xidRecoveryAction is the code by which the driver tells of a change of what
// it recommends.
const xidRecoveryAction = 154

// recoveryActionOf reads the recommendation out of a line of the kernel log:
// "... changed from 0x0 (None) to 0x2 (Node Reboot Required)".
func recoveryActionOf(text string) (string, bool) {
	_, to, ok := strings.Cut(text, " to ")
	if !ok {
		return "", false
	}
	for _, known := range [][2]string{
		{"GPU Reset Required", "reset"}, {"Node Reboot Required", "reboot"}, {"Drain P2P", "drain"}, {"Drain and Reset", "drain-and-reset"}, {"None", "none"},
	} {
		if strings.Contains(to, "("+known[0]+")") {
			return known[1], true
		}
	}
	return "", false
}

// Compare judges two readings of a board that a check took one after the
// other: nothing may have got worse between them, and nothing be wrong that a
// reset would repair.
func Compare(first, second gpu.Vitals) error {
	var problems []string
	if first.ECC != nil && second.ECC != nil && (rose(first.ECC.VolatileUncorrected, second.ECC.VolatileUncorrected) || rose(first.ECC.SRAMUncorrected, second.ECC.SRAMUncorrected)) {
		problems = append(problems, "uncorrectable memory errors rise")
	}
	if r := second.RemappedRows; r != nil && r.Failed {
		problems = append(problems, "a row of memory could not be replaced")
	} else if r != nil && r.Pending {
		problems = append(problems, "a row of memory awaits its replacement")
	}
	if r := second.RetiredPages; r != nil && r.Pending {
		problems = append(problems, "a page of memory awaits its retirement")
	}
	switch second.RecoveryAction {
	case "reset", "reboot", "drain-and-reset":
		problems = append(problems, "the driver recommends "+second.RecoveryAction)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s", strings.Join(problems, "; "))
	}
	return nil
}
