package simulated

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// fault is a block of a script about a board or slice. It may do several
// things at once.
type fault struct {
	Device string `hcl:"device,label"`
	At     string `hcl:"at,optional"`
	For    string `hcl:"for,optional"`
	Every  string `hcl:"every,optional"`
	Times  *int   `hcl:"times,optional"`

	// What is so while the fault lasts.
	Reason             string   `hcl:"reason,optional"`  // the driver says that it is unusable
	Gone               bool     `hcl:"gone,optional"`    // no longer listed at all
	Lost               bool     `hcl:"lost,optional"`    // listed, but does not even tell its ID
	Hang               bool     `hcl:"hang,optional"`    // calls that read it do not return
	Stalled            bool     `hcl:"stalled,optional"` // readings are those of the moment it began
	TemperatureC       *int64   `hcl:"temperature_c,optional"`
	MemoryTemperatureC *int64   `hcl:"memory_temperature_c,optional"`
	PowerW             *int64   `hcl:"power_w,optional"`
	Throttle           []string `hcl:"throttle,optional"`
	PCIeGeneration     *int64   `hcl:"pcie_generation,optional"`
	PCIeWidth          *int64   `hcl:"pcie_width,optional"`
	NVLinkDown         bool     `hcl:"nvlink_down,optional"`
	RemapPending       bool     `hcl:"remap_pending,optional"`
	RemapFailed        bool     `hcl:"remap_failed,optional"`
	RetirementPending  bool     `hcl:"retirement_pending,optional"`
	FabricState        string   `hcl:"fabric_state,optional"`
	RecoveryAction     string   `hcl:"recovery_action,optional"`

	// What happens each time that it begins.
	XID  int    `hcl:"xid,optional"`
	Text string `hcl:"text,optional"` // of the kernel log
	PID  int    `hcl:"pid,optional"`

	ECCCorrected         int64 `hcl:"ecc_corrected,optional"`
	ECCUncorrected       int64 `hcl:"ecc_uncorrected,optional"`
	ECCSRAMUncorrected   int64 `hcl:"ecc_sram_uncorrected,optional"`
	RemappedCorrected    int64 `hcl:"remapped_corrected,optional"`
	RemappedUncorrected  int64 `hcl:"remapped_uncorrected,optional"`
	RetiredSingleBit     int64 `hcl:"retired_single_bit,optional"`
	RetiredDoubleBit     int64 `hcl:"retired_double_bit,optional"`
	PCIeReplays          int64 `hcl:"pcie_replays,optional"`
	NVLinkCRCErrors      int64 `hcl:"nvlink_crc_errors,optional"`
	NVLinkReplayErrors   int64 `hcl:"nvlink_replay_errors,optional"`
	NVLinkRecoveryErrors int64 `hcl:"nvlink_recovery_errors,optional"`
	// NVLinks are the links that the NVLink part is about; none is all.
	NVLinks []int `hcl:"nvlinks,optional"`

	DeviceRange hcl.Range `hcl:"device,label_range" json:"-"`
	Body        hcl.Body  `hcl:",body" json:"-"`
}

// counters are the amounts that a fault adds each time.
type counters struct {
	eccCorrected, eccUncorrected, eccSRAM int64
	remappedCorrected, remapped           int64
	retiredSingle, retiredDouble          int64
	pcieReplays                           int64
}

// add adds what a fault adds n times.
func (c *counters) add(f *fault, n int64) {
	c.eccCorrected += n * f.ECCCorrected
	c.eccUncorrected += n * (f.ECCUncorrected + f.ECCSRAMUncorrected)
	c.eccSRAM += n * f.ECCSRAMUncorrected
	c.remappedCorrected += n * f.RemappedCorrected
	c.remapped += n * f.RemappedUncorrected
	c.retiredSingle += n * f.RetiredSingleBit
	c.retiredDouble += n * f.RetiredDoubleBit
	c.pcieReplays += n * f.PCIeReplays
}

// throttles are the reasons that a script can give.
var throttles = []gpu.ThrottleReason{
	gpu.ThrottleIdle, gpu.ThrottleAppClocks, gpu.ThrottleSWPowerCap, gpu.ThrottleHWSlowdown, gpu.ThrottleSyncBoost,
	gpu.ThrottleSWThermal, gpu.ThrottleHWThermal, gpu.ThrottleHWPowerBrake, gpu.ThrottleDisplaySettings,
}

var recoveryActions = []string{"none", "reset", "reboot", "drain", "drain-and-reset"}

// maxXID is far beyond the codes that there are.
const maxXID = 999

// lasting reports whether the fault is about a stretch of time.
func (f *fault) lasting() bool {
	return f.Reason != "" || f.Gone || f.Lost || f.Hang || f.Stalled || f.TemperatureC != nil || f.MemoryTemperatureC != nil ||
		f.PowerW != nil || len(f.Throttle) > 0 || f.PCIeGeneration != nil || f.PCIeWidth != nil || f.NVLinkDown ||
		f.RemapPending || f.RemapFailed || f.RetirementPending || f.FabricState != "" || f.RecoveryAction != ""
}

// amounts are the counters by their attributes.
func (f *fault) amounts() map[string]int64 {
	return map[string]int64{
		"ecc_corrected": f.ECCCorrected, "ecc_uncorrected": f.ECCUncorrected, "ecc_sram_uncorrected": f.ECCSRAMUncorrected,
		"remapped_corrected": f.RemappedCorrected, "remapped_uncorrected": f.RemappedUncorrected,
		"retired_single_bit": f.RetiredSingleBit, "retired_double_bit": f.RetiredDoubleBit, "pcie_replays": f.PCIeReplays,
		"nvlink_crc_errors": f.NVLinkCRCErrors, "nvlink_replay_errors": f.NVLinkReplayErrors, "nvlink_recovery_errors": f.NVLinkRecoveryErrors,
	}
}

// nvlinkErrors reports whether the fault counts errors of links.
func (f *fault) nvlinkErrors() bool {
	return f.NVLinkCRCErrors|f.NVLinkReplayErrors|f.NVLinkRecoveryErrors != 0
}

// isAbout reports whether the fault's NVLink part is about a link.
func (f *fault) isAbout(link int) bool {
	return len(f.NVLinks) == 0 || slices.Contains(f.NVLinks, link)
}

func (r *scriptReader) fault(f fault) {
	s := r.step(f.Device, f.DeviceRange, timing{f.At, f.For, f.Every, f.Times, f.Body})
	s.fault = &f
	at := func(attribute string) hcl.Range { return rangeOf(f.Body, attribute, f.DeviceRange) }
	counts := false
	for name, n := range f.amounts() {
		counts = counts || n != 0
		if n < 0 {
			r.wrong(at(name), "%s is %d; it is what is added, and cannot be negative", name, n)
		}
	}
	switch {
	case !f.lasting() && !counts && f.XID == 0:
		r.wrong(f.DeviceRange, "a fault has a reason, gone = true, xid = 79 or another effect; see docs/gpu-simulation.md")
	case f.lasting() && f.Every != "" && f.For == "":
		r.wrong(at("every"), "what comes back has to end in between: set for")
	}
	if f.XID != 0 && (f.XID < 1 || f.XID > maxXID) {
		r.wrong(at("xid"), "xid is %d; it is 1 to %d", f.XID, maxXID)
	}
	if f.XID == 0 && (f.Text != "" || f.PID != 0) {
		r.wrong(at("text"), "text and pid need xid")
	}
	r.physics(f, at)
	if strings.HasPrefix(f.Device, slicePrefix) {
		board := f
		board.Reason, board.Gone, board.Stalled, board.XID = "", false, false, 0
		more := board.lasting() || counts
		if more {
			r.wrong(f.DeviceRange, "of a slice a fault can have reason, gone, stalled and xid; the rest is of boards")
		}
	}
	r.add(s, "fault "+content(f))
}

// physics checks the readings that a fault sets.
func (r *scriptReader) physics(f fault, at func(string) hcl.Range) {
	within := func(attribute string, v *int64, least, most int64) {
		if v != nil && (*v < least || *v > most) {
			r.wrong(at(attribute), "%s is %d; it is %d to %d", attribute, *v, least, most)
		}
	}
	within("temperature_c", f.TemperatureC, -50, 150)
	within("memory_temperature_c", f.MemoryTemperatureC, -50, 150)
	within("power_w", f.PowerW, 0, 10000)
	within("pcie_generation", f.PCIeGeneration, 1, 7)
	if w := f.PCIeWidth; w != nil && !slices.Contains([]int64{1, 2, 4, 8, 16}, *w) {
		r.wrong(at("pcie_width"), "pcie_width is %d; it is 1, 2, 4, 8 or 16", *w)
	}
	for _, t := range f.Throttle {
		if !slices.Contains(throttles, gpu.ThrottleReason(t)) {
			r.wrong(at("throttle"), "throttle reason %q is unknown; use %s", t, joined(throttles))
		}
	}
	if a := f.RecoveryAction; a != "" && !slices.Contains(recoveryActions, a) {
		r.wrong(at("recovery_action"), "recovery_action is %q; it is %s", a, joined(recoveryActions))
	}
	for _, n := range f.NVLinks {
		if n < 0 || n >= maxNVLinks {
			r.wrong(at("nvlinks"), "there is no NVLink %d; links are 0 to %d", n, maxNVLinks-1)
		}
	}
	if len(f.NVLinks) > 0 && !f.NVLinkDown && !f.nvlinkErrors() {
		r.wrong(at("nvlinks"), "nvlinks goes with nvlink_down or the counters of NVLink errors")
	}
}

// joined is "a, b, c".
func joined[T ~string](names []T) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}

// content is what a block says, whatever it looks like: the attributes that it
// gives, sorted.
func content(block any) string {
	given := make(map[string]any)
	v := reflect.ValueOf(block)
	for i := range v.NumField() {
		if f := v.Type().Field(i); !v.Field(i).IsZero() && f.Tag.Get("json") != "-" {
			given[f.Name] = v.Field(i).Interface()
		}
	}
	text, err := json.Marshal(given)
	if err != nil {
		return fmt.Sprintf("%+v", given)
	}
	return string(text)
}
