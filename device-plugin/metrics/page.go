package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// page is a snapshot as it looks at one moment: what is stale is gone.
type page struct {
	snapshot
	now         time.Time
	ages        Ages
	collections map[string]collection
}

// page is that of the present moment.
func (e *Exporter) page() page {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := page{snapshot: e.snapshot, now: e.config.Now(), ages: e.config.Ages, collections: maps.Clone(e.collections)}
	if !p.fresh("processes", p.ages.Processes) {
		p.units, p.use, p.untold, p.processes = slices.Clone(p.units), nil, 0, nil
		for i := range p.units {
			p.units[i].task = nil
		}
	}
	return p
}

// fresh reports whether a kind of reading succeeded within an age.
func (p *page) fresh(collection string, age time.Duration) bool {
	return p.now.Sub(p.collections[collection].lastSuccess) <= age
}

// looking reports whether the machine is still looked at for devices. That the
// looks fail is then known, and in the faults of the devices.
func (p *page) looking() bool {
	return p.now.Sub(p.collections["inventory"].last) <= p.ages.Inventory
}

// sample is the fresh sample of a unit; nil if there is none.
func (p *page) sample(u unit) *gpu.Sample {
	s, ok := p.samples[u.id]
	if !ok || p.old(s.Time, p.ages.Samples) {
		return nil
	}
	return &s
}

// vital are the fresh vitals of a board; nil if there are none.
func (p *page) vital(u unit) *gpu.Vitals {
	v, ok := p.vitals[u.id]
	if !ok || p.old(v.Time, p.ages.Vitals) {
		return nil
	}
	return &v
}

// old reports whether a reading that has a time is too old.
func (p *page) old(at time.Time, age time.Duration) bool {
	return !at.IsZero() && p.now.Sub(at) > age
}

// row is a unit with its readings.
type row struct {
	unit
	sample *gpu.Sample
	vitals *gpu.Vitals
}

func (p *page) rows() []row {
	rows := make([]row, len(p.units))
	samples, vitals := p.fresh("samples", p.ages.Samples), p.fresh("vitals", p.ages.Vitals)
	for i, u := range p.units {
		rows[i].unit = u
		if samples {
			rows[i].sample = p.sample(u)
		}
		if vitals && !u.isSlice {
			rows[i].vitals = p.vital(u)
		}
	}
	return rows
}

// writeDevices writes the readings of boards and slices.
func (p *page) writeDevices(t *text) {
	rows := p.rows()
	divided := make([]bool, len(rows))
	for _, f := range ofSamples {
		// What slices tell, their board doesn't: a sum would have it twice.
		clear(divided)
		for i := range rows {
			if r := &rows[i]; r.isSlice && r.sample != nil {
				if _, ok := f.read(r.sample); ok {
					divided[r.parent] = true
				}
			}
		}
		t.family(f.name, f.kind, f.help)
		for i := range rows {
			if r := &rows[i]; r.sample != nil && !divided[i] {
				if v, ok := f.read(r.sample); ok {
					t.series(r.labels, r.task)
					t.value(v)
				}
			}
		}
	}
	for _, f := range ofVitals {
		t.family(f.name, f.kind, f.help)
		for i := range rows {
			if r := &rows[i]; r.vitals != nil {
				if v, ok := f.read(r.vitals); ok {
					t.series(r.labels, r.task)
					t.value(v)
				}
			}
		}
	}
	p.writeBoards(t, rows)
}

// writeBoards writes what is of boards and neither a sample nor a vital.
func (p *page) writeBoards(t *text, rows []row) {
	if !p.looking() {
		return
	}
	for _, f := range []field[row]{
		{"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", gauge, "Rate of data over all NVLinks, both ways together (in MB/s).",
			func(r row) (float64, bool) { rate, ok := p.nvlink[r.id]; return rate, ok && r.vitals != nil }},
		{"DCGM_FI_DEV_ENFORCED_POWER_LIMIT", gauge, "Power that may be drawn (in W).",
			func(r row) (float64, bool) { return integer(r.specs.PowerW) }},
		{"DCGM_FI_DEV_MAX_SM_CLOCK", gauge, "Highest clock of the multiprocessors (in MHz).",
			func(r row) (float64, bool) { return integer(r.specs.CoresClockMHz) }},
		{"DCGM_FI_DEV_MAX_MEM_CLOCK", gauge, "Highest clock of the memory (in MHz).",
			func(r row) (float64, bool) { return integer(r.specs.MemoryClockMHz) }},
		{"DCGM_FI_DEV_MIG_MODE", gauge, "Whether the board is in MIG mode.",
			func(r row) (float64, bool) { return yes(r.mig), true }},
	} {
		t.family(f.name, f.kind, f.help)
		for _, r := range rows {
			if r.isSlice {
				continue
			}
			if v, ok := f.read(r); ok {
				t.series(r.labels, r.task)
				t.value(v)
			}
		}
	}
}
