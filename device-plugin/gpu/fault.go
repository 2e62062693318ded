package gpu

import (
	"cmp"
	"slices"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// OK reports whether there is no fault: the zero Fault is none.
func (f Fault) OK() bool { return f.Reason == "" }

// Describe is the health description that Nomad shows: the reason, and what
// becomes of the work that runs there. "" is healthy.
func (f Fault) Describe() string {
	if f.OK() {
		return ""
	}
	return gpustatus.Describe(f.Reason, f.Action)
}

// severity orders actions from mild to severe.
var severity = []gpustatus.Action{gpustatus.Keep, gpustatus.Move, gpustatus.End}

// Worst is the fault that is worst for the work on a device; the first of
// several that are equally bad.
func Worst(faults ...Fault) Fault {
	var worst Fault
	for _, f := range faults {
		if f.OK() {
			continue
		}
		if worst.OK() || cmp.Compare(slices.Index(severity, f.Action), slices.Index(severity, worst.Action)) > 0 {
			worst = f
		}
	}
	return worst
}
