package metrics

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// Bounds on what is shown of one board or slice.
const (
	maxConditions = 16
	maxXIDs       = 64
)

// writeHealth writes which devices are out of service, and why.
func (p *page) writeHealth(t *text) {
	if p.looking() {
		p.writeService(t)
	}
	if p.health != nil {
		p.writeReport(t)
	}
	t.family("drover_gpu_mig_phase", gauge, "How far the change of the board's MIG layout is.")
	for _, u := range p.units {
		if phase := p.phases[u.id]; phase != "" && !u.isSlice {
			t.series(u.labels)
			t.label("phase", phase)
			t.value(1)
		}
	}
}

// writeService writes what Nomad is told of the devices on offer.
func (p *page) writeService(t *text) {
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
		t.value(yes(u.fault.OK()))
	})
	t.family("drover_gpu_fault", gauge, "What becomes of the work on a GPU or slice that is out of service.")
	offered(func(u unit) {
		if !u.fault.OK() {
			t.series(u.labels, u.task)
			t.label("action", string(u.fault.Action))
			t.value(1)
		}
	})
	t.family("drover_gpu_health_transitions_total", counter, "How often the GPU or slice went out of service, and came back.")
	offered(func(u unit) {
		t.series(u.labels)
		t.label("to", "healthy")
		t.value(float64(p.turns[u.id].recovered))
		t.series(u.labels)
		t.label("to", "unhealthy")
		t.value(float64(p.turns[u.id].failed))
	})
}

// writeReport writes what the health rules say. A report is a state, which
// holds until the next one, so it does not become stale: that the readings
// behind it fail is in it.
func (p *page) writeReport(t *text) {
	reports := make(map[gpu.ID]*health.DeviceReport, len(p.health.Devices))
	for i := range p.health.Devices {
		reports[p.health.Devices[i].ID] = &p.health.Devices[i]
	}
	each := func(series func(unit, *health.DeviceReport)) {
		for _, u := range p.units {
			if r := reports[u.id]; r != nil {
				series(u, r)
			}
		}
	}
	t.family("drover_gpu_health_state", gauge, "Where the GPU or slice is between service and repair.")
	each(func(u unit, r *health.DeviceReport) {
		t.series(u.labels)
		t.label("state", string(r.State))
		t.value(1)
	})
	t.family("drover_gpu_condition", gauge, "What is wrong with the GPU or slice. A suppressed one does not condemn it.")
	each(func(u unit, r *health.DeviceReport) {
		for _, c := range r.Conditions[:min(len(r.Conditions), maxConditions)] {
			t.series(u.labels, u.task)
			t.label("signal", string(c.Signal))
			t.label("severity", string(c.Severity))
			t.label("action", string(c.Action))
			t.label("suppressed", strconv.FormatBool(c.Suppressed))
			t.value(1)
		}
	})
	t.family("drover_gpu_validation_attempts", gauge, "Checks of the GPU or slice since it was condemned.")
	each(func(u unit, r *health.DeviceReport) {
		t.series(u.labels)
		t.value(float64(r.Attempts))
	})
	t.family("drover_gpu_validation_attempts_allowed", gauge, "Checks after which a person must clear the GPU or slice.")
	each(func(u unit, r *health.DeviceReport) {
		t.series(u.labels)
		t.value(float64(r.MaxAttempts))
	})
	t.family("DCGM_FI_DEV_XID_ERRORS", gauge, "The last Xid error; 0 if none was seen.")
	each(func(u unit, r *health.DeviceReport) {
		last := 0
		if len(r.XIDs) > 0 {
			last = slices.MaxFunc(r.XIDs, func(a, b health.XIDCount) int {
				return cmp.Or(a.Last.Compare(b.Last), cmp.Compare(a.Code, b.Code))
			}).Code
		}
		if last > 0 || p.health.Failure == "" {
			t.series(u.labels, u.task)
			t.value(float64(last))
		}
	})
	t.family("drover_gpu_xid_errors_total", counter, "Xid errors that were seen.")
	each(func(u unit, r *health.DeviceReport) {
		for _, x := range r.XIDs[:min(len(r.XIDs), maxXIDs)] {
			t.series(u.labels)
			t.label("xid", strconv.Itoa(x.Code))
			t.value(float64(x.Count))
		}
	})
	t.family("drover_gpu_driver_answers", gauge, "Whether the GPUs as a whole can be read and watched.")
	t.series()
	t.value(yes(p.health.Failure == ""))
	t.family("drover_gpu_breaker_warnings", gauge, "Signals that too many GPUs have for them to be condemned for it.")
	t.series()
	t.value(float64(len(p.health.Warnings)))
}
