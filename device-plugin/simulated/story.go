package simulated

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Moment is a moment of a script at which something begins or ends.
type Moment struct {
	At     time.Duration // from when the block is first read
	Device string        // the block's label; "" is the driver
	Ends   bool
	What   string // "Xid 79, lost"
}

// Timeline lists what a script does up to a time, in order, and tells whether
// it goes on after that. It lists about a thousand moments at most.
func (s Script) Timeline(until time.Duration) (moments []Moment, more bool) {
	const most = 1000
	for _, st := range s.steps {
		n := st.started(until)
		if _, later := st.next(until); later || n > most-len(moments) {
			more = true
		}
		for i := range max(0, min(n, most-len(moments))) {
			begin := Moment{At: st.start(i), Device: st.target, What: st.what()}
			moments = append(moments, begin)
			if end := begin.At + st.lasts; st.lasts > 0 && end <= until {
				moments = append(moments, Moment{At: end, Device: st.target, What: begin.What, Ends: true})
			}
		}
	}
	slices.SortStableFunc(moments, func(a, b Moment) int { return cmp.Compare(a.At, b.At) })
	return moments, more
}

// what is what a step does, in words.
func (s step) what() string {
	switch {
	case s.reset:
		return "reset"
	case s.driver != nil:
		return s.driver.what()
	case s.mig != nil:
		return s.mig.what()
	case s.process != nil:
		return s.process.what()
	}
	return s.fault.what()
}

func (f *fault) what() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if f.XID != 0 {
		add("Xid %d", f.XID)
	}
	if f.Reason != "" {
		add("unusable: %s", f.Reason)
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{f.Gone, "gone"}, {f.Lost, "lost"}, {f.Hang, "hangs"}, {f.Stalled, "readings stalled"},
		{f.RemapPending, "row remap pending"}, {f.RemapFailed, "row remap failed"}, {f.RetirementPending, "page retirement pending"},
	} {
		if flag.set {
			add("%s", flag.name)
		}
	}
	for _, reading := range []struct {
		v          *int64
		name, unit string
	}{
		{f.TemperatureC, "temperature", " °C"}, {f.MemoryTemperatureC, "memory temperature", " °C"}, {f.PowerW, "power", " W"},
		{f.PCIeGeneration, "PCIe generation", ""}, {f.PCIeWidth, "PCIe lanes", ""},
	} {
		if reading.v != nil {
			add("%s %d%s", reading.name, *reading.v, reading.unit)
		}
	}
	if len(f.Throttle) > 0 {
		add("clocks held down by %s", strings.Join(f.Throttle, ", "))
	}
	if f.NVLinkDown {
		add("%s down", f.links())
	}
	amounts := f.amounts()
	for _, name := range slices.Sorted(maps.Keys(amounts)) {
		if n := amounts[name]; n != 0 && strings.HasPrefix(name, "nvlink") {
			add("%+d %s of %s", n, name, f.links())
		} else if n != 0 {
			add("%+d %s", n, name)
		}
	}
	if f.FabricState != "" {
		add("fabric %s", f.FabricState)
	}
	if f.RecoveryAction != "" {
		add("driver recommends %s", f.RecoveryAction)
	}
	return strings.Join(parts, ", ")
}

// links are those that the NVLink part is about, in words.
func (f *fault) links() string {
	if len(f.NVLinks) == 0 {
		return "all NVLinks"
	}
	return "NVLinks " + strings.Trim(strings.ReplaceAll(fmt.Sprint(f.NVLinks), " ", ", "), "[]")
}

func (d *driverTrouble) what() string {
	switch {
	case d.reload:
		return "driver unloaded"
	case d.hang:
		return "driver hangs"
	case d.delay > 0:
		return fmt.Sprintf("driver answers %s late", d.delay)
	}
	return "driver error: " + d.err
}

func (m *migTrouble) what() string {
	calls := "MIG changes"
	if m.call != "" {
		calls = "MIG " + m.call + " calls"
	}
	if m.nth != 0 {
		calls = fmt.Sprintf("number %d of %s", m.nth, calls)
	}
	var parts []string
	if m.delay > 0 {
		parts = append(parts, fmt.Sprintf("takes %s longer", m.delay))
	}
	if m.needsReset {
		parts = append(parts, "waits for a reset")
	}
	if m.err != "" {
		parts = append(parts, "fails: "+m.err)
	}
	return calls + ": " + strings.Join(parts, ", ")
}

func (p *scriptedProcess) what() string {
	text := string(p.kind) + " process"
	if p.pid != 0 {
		text += fmt.Sprintf(" %d", p.pid)
	}
	if p.memoryMiB != nil {
		text += fmt.Sprintf(", %d MiB", *p.memoryMiB)
	}
	if p.gpuPercent != nil {
		text += fmt.Sprintf(", %d %% busy", *p.gpuPercent)
	}
	return text
}
