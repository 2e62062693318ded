package metrics

import (
	"maps"
	"slices"
	"strconv"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// Health is what is known of devices beyond their faults.
type Health struct {
	// BreakerOpen is set while the breaker keeps a signal that too many boards
	// have from condemning them all; nil is not known.
	BreakerOpen *bool
	// Conditions by board or slice.
	Conditions map[gpu.ID]Condition
	// MIG is how far the change of a board's layout is: one of a few words.
	MIG map[gpu.ID]string
}

// Condition is what the health rules say of a board or slice.
type Condition struct {
	State string // one of a few words: "healthy", "degraded", "condemned", ...
	// Codes are what is wrong, as short words of a small set ("xid-79",
	// "row-remap-pending"), with what becomes of the work.
	Codes map[string]gpustatus.Action
	// Attempts are the checks since it was condemned; nil if it isn't.
	Attempts *int64
}

// Bounds on what is shown of one board or slice.
const (
	maxCodes = 16
	maxXIDs  = 64
)

// xids counts the driver's errors on a board. With maxXIDs codes, further ones
// are counted together, under otherXID.
type xids struct {
	last   int
	counts map[int]int64
}

const otherXID = -1

func (x xids) with(code int) xids {
	counts := maps.Clone(x.counts)
	if counts == nil {
		counts = make(map[int]int64, 1)
	}
	key := code
	if _, known := counts[key]; !known && len(counts) >= maxXIDs {
		key = otherXID
	}
	counts[key]++
	return xids{last: code, counts: counts}
}

// writeHealth writes which devices are out of service, and why.
func (p *page) writeHealth(t *text) {
	if p.fresh("inventory", p.ages.Inventory) {
		p.writeFaults(t)
	}
	t.family("drover_gpu_xid_errors_total", counter, "Xid errors that the driver reported since the plugin was started.")
	for _, u := range p.units {
		if u.isSlice {
			continue
		}
		counts := p.events[u.id].counts
		for _, code := range slices.Sorted(maps.Keys(counts)) {
			name := strconv.Itoa(code)
			if code == otherXID {
				name = "other"
			}
			t.series(u.labels)
			t.label("xid", name)
			t.value(float64(counts[code]))
		}
	}
	t.family("drover_gpu_event_watch", gauge, "Whether the driver's events are heard.")
	t.series()
	t.value(flag(p.watching))
	if p.health.BreakerOpen != nil {
		t.family("drover_gpu_breaker_open", gauge, "Whether too many boards have a signal for it to condemn them all.")
		t.series()
		t.value(flag(*p.health.BreakerOpen))
	}
}

// writeFaults writes the health of devices, tasks' or not.
func (p *page) writeFaults(t *text) {
	offered := func(series func(unit)) {
		for _, u := range p.units {
			if u.offered {
				series(u)
			}
		}
	}
	t.family("drover_gpu_healthy", gauge, "Whether the GPU or slice gets new work.")
	offered(func(u unit) {
		t.series(u.labels, u.task)
		t.value(flag(u.fault.OK()))
	})
	t.family("drover_gpu_health_transitions_total", counter, "How often the GPU or slice went out of service, and back.")
	offered(func(u unit) {
		t.series(u.labels)
		t.label("to", "healthy")
		t.value(float64(p.turns[u.id].recovered))
		t.series(u.labels)
		t.label("to", "unhealthy")
		t.value(float64(p.turns[u.id].failed))
	})
	t.family("drover_gpu_fault", gauge, "What is wrong with the GPU or slice, and what becomes of its work.")
	for _, u := range p.units {
		codes := p.health.Conditions[u.id].Codes
		for _, code := range slices.Sorted(maps.Keys(codes))[:min(len(codes), maxCodes)] {
			t.series(u.labels, u.task)
			t.label("code", code)
			t.label("action", string(codes[code]))
			t.value(1)
		}
		if len(codes) == 0 && u.offered && !u.fault.OK() {
			t.series(u.labels, u.task)
			t.label("code", "driver") // the source's own word, which is no code
			t.label("action", string(u.fault.Action))
			t.value(1)
		}
	}
	t.family("drover_gpu_health_state", gauge, "What the health rules take the GPU or slice for.")
	for _, u := range p.units {
		if c := p.health.Conditions[u.id]; c.State != "" {
			t.series(u.labels)
			t.label("state", c.State)
			t.value(1)
		}
	}
	t.family("drover_gpu_validation_attempts", gauge, "Checks of the GPU or slice since it was condemned.")
	for _, u := range p.units {
		if c := p.health.Conditions[u.id]; c.Attempts != nil {
			t.series(u.labels)
			t.value(float64(*c.Attempts))
		}
	}
	t.family("drover_gpu_mig_phase", gauge, "How far the change of the board's MIG layout is.")
	for _, u := range p.units {
		if phase := p.health.MIG[u.id]; phase != "" && !u.isSlice {
			t.series(u.labels)
			t.label("phase", phase)
			t.value(1)
		}
	}
}
