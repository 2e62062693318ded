package metrics

import (
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
)

// maxUnits bounds the boards and slices. No node comes near it.
const maxUnits = 1024

// unit is a board or a slice.
type unit struct {
	id, board gpu.ID
	isSlice   bool
	parent    int  // of a slice: where its board is among the units
	mig       bool // of a board: it is in MIG mode
	specs     gpu.Specs
	// offered is set for what tasks can get; fault is why they can't.
	offered bool
	fault   gpu.Fault
	// labels say which it is, task whose it is, in the text format.
	labels, task []byte
}

// unitsOf lists each board and slice once, whatever replicas there are.
func unitsOf(node, driver string, devices []gpu.Device, boards []gpu.Board) []unit {
	var units []unit
	seen := make(map[gpu.ID]int)
	add := func(u unit, b gpu.Board, s *gpu.Slice) {
		if _, listed := seen[u.id]; listed || len(units) == maxUnits {
			return
		}
		u.board, u.isSlice, u.parent = b.ID, s != nil, seen[b.ID]
		u.labels = identity(node, driver, b, s)
		seen[u.id] = len(units)
		units = append(units, u)
	}
	for _, b := range boards {
		add(unit{id: b.ID, mig: b.MIG, specs: b.Specs}, b, nil)
	}
	for _, d := range devices {
		add(unit{id: d.Board.ID, mig: d.Slice != nil, specs: d.Board.Specs}, d.Board, nil)
		add(unit{id: d.Hardware, specs: d.Specs}, d.Board, d.Slice)
		if i, ok := seen[d.Hardware]; ok {
			units[i].offered, units[i].fault = true, gpu.Worst(units[i].fault, d.Fault)
		}
	}
	return units
}

// identity are the labels that dcgm-exporter gives a GPU or a slice of it. A
// slice's UUID label is its board's there too, so its own has another name.
func identity(node, driver string, b gpu.Board, s *gpu.Slice) []byte {
	var l []byte
	add := func(name, value string) {
		if value == "" {
			return
		}
		if len(l) > 0 {
			l = append(l, ',')
		}
		l = appendLabel(l, name, strings.ToValidUTF8(value, "\uFFFD"))
	}
	number := func(name, prefix string, n *int) {
		if n != nil {
			add(name, prefix+strconv.Itoa(*n))
		}
	}
	number("gpu", "", &b.Index)
	add("UUID", string(b.ID))
	add("pci_bus_id", b.PCIBusID)
	number("device", "nvidia", b.Minor)
	add("modelName", b.Product)
	if s != nil {
		add("GPU_I_PROFILE", s.Profile)
		number("GPU_I_ID", "", s.GPUInstance)
		add("mig_uuid", string(s.ID))
	}
	add("Hostname", node)
	add("DCGM_FI_DRIVER_VERSION", driver)
	return l
}

// taskLabels name a task.
func taskLabels(t attribution.Task) []byte {
	var l []byte
	for _, label := range []struct{ name, value string }{
		{"namespace", t.Namespace}, {"job", t.Job}, {"task", t.Task}, {"alloc_id", t.Alloc}, {"workspace", t.Workspace},
	} {
		if label.value == "" {
			continue
		}
		if len(l) > 0 {
			l = append(l, ',')
		}
		l = appendLabel(l, label.name, label.value)
	}
	return l
}

// attribute labels each unit with the task that it is used by, if that is one
// task and nothing else.
func (e *Exporter) attribute() {
	units := slices.Clone(e.snapshot.units)
	for i := range units {
		u := &units[i]
		u.task = nil
		if t, ok := e.snapshot.use[u.id].only(); ok && !u.mig {
			u.task = taskLabels(t)
		}
	}
	e.snapshot.units = units
}

// turns counts how often a unit has failed and recovered.
type turns struct{ failed, recovered int64 }

// countTurns goes on from the counts so far. Units that are gone are forgotten.
func countTurns(counts map[gpu.ID]turns, before, after []unit) map[gpu.ID]turns {
	was := make(map[gpu.ID]bool, len(before)) // healthy
	for _, u := range before {
		if u.offered {
			was[u.id] = u.fault.OK()
		}
	}
	next := make(map[gpu.ID]turns, len(after))
	for _, u := range after {
		if !u.offered {
			continue
		}
		n := counts[u.id]
		switch healthy, known := was[u.id]; {
		case u.fault.OK() && known && !healthy:
			n.recovered++
		case !u.fault.OK() && (healthy || !known):
			n.failed++
		}
		next[u.id] = n
	}
	return next
}
