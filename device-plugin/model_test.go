package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// modelSteps changes in each of rapid's 100 checks are ten thousand.
const modelSteps = 100

// TestFingerprintModel changes a machine at random, ten thousand times: boards
// are plugged in and vanish, are cut anew, fail, are lost and recover; health
// condemns and clears; the driver fails and is reloaded; the plugin starts
// anew, with other settings. What is published is always what a naive model
// says.
func TestFingerprintModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machineModel{src: &changingSource{}, driver: "550.54.15"}
		for i := range 5 {
			m.boards = append(m.boards, &modelBoard{id: gpu.ID(fmt.Sprintf("GPU-%d", i)), product: []string{"A100", "A100", "H100", "L4", "A100"}[i], plugged: i < 3})
		}
		m.restart(t)
		for range modelSteps {
			m.change(t)
			if rapid.IntRange(0, 9).Draw(t, "restarts") == 0 {
				m.restart(t)
			}
			_ = m.node.look(t.Context())
			m.observe()
			m.check(t)
		}
	})
}

// machineModel is the machine as it really is, and what a plugin that looks at
// it must remember.
type machineModel struct {
	boards []*modelBoard
	driver string
	failed string // why the driver cannot be read; "" if it can
	health map[gpu.ID]gpu.Fault

	src      *changingSource
	node     *node
	strategy gpu.Strategy
	hidden   []gpu.ID // by the filter: boards and slices
	shared   bool     // L4 boards and their slices, each among two
	known    map[gpu.ID]*modelDevice
}

type modelBoard struct {
	id      gpu.ID
	product string
	plugged bool
	lost    bool // plugged, but does not tell its ID
	fault   string
	mig     bool
	slices  []int // indexes
	profile string
}

type modelDevice struct {
	id, board     gpu.ID
	name, profile string
	fault         gpu.Fault
}

func (b *modelBoard) slice(index int) gpu.ID { return gpu.ID(fmt.Sprintf("MIG-%s-%d", b.id, index)) }

// change does one thing to the machine.
func (m *machineModel) change(t *rapid.T) {
	b := m.boards[rapid.IntRange(0, len(m.boards)-1).Draw(t, "board")]
	switch rapid.SampledFrom([]string{"plug", "lose", "fault", "layout", "layout", "health", "driver"}).Draw(t, "change") {
	case "plug":
		b.plugged, b.lost, b.fault = !b.plugged, false, ""
	case "lose":
		b.lost = b.plugged && !b.lost
	case "fault":
		b.fault = rapid.SampledFrom([]string{"", "needs a reset"}).Draw(t, "fault")
	case "layout":
		b.mig = rapid.Bool().Draw(t, "MIG")
		b.slices, b.profile = nil, rapid.SampledFrom([]string{"1g.10gb", "2g.20gb"}).Draw(t, "profile")
		if b.mig {
			b.slices = rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 0, 3, rapid.ID).Draw(t, "slices")
			slices.Sort(b.slices)
		}
	case "health":
		m.condemn(t, b)
	case "driver":
		m.failed = rapid.SampledFrom([]string{"", "driver/library version mismatch"}).Draw(t, "failure")
		m.driver = rapid.SampledFrom([]string{"550.54.15", "580.95.05"}).Draw(t, "driver")
	}
	m.src.set(m.inventory(), m.err())
}

// condemn has health find something, or clear it.
func (m *machineModel) condemn(t *rapid.T, b *modelBoard) {
	id := b.id
	if len(b.slices) > 0 && rapid.Bool().Draw(t, "slice") {
		id = b.slice(b.slices[0])
	}
	m.health = maps.Clone(m.health)
	if m.health == nil {
		m.health = map[gpu.ID]gpu.Fault{}
	}
	if _, ok := m.health[id]; ok {
		delete(m.health, id)
	} else {
		action := rapid.SampledFrom([]gpustatus.Action{gpustatus.Keep, gpustatus.Move, gpustatus.End}).Draw(t, "action")
		m.health[id] = gpu.Fault{Reason: "condemned", Action: action}
	}
	m.node.put("test", gpu.Overlay{Faults: m.health})
}

// restart starts the plugin anew, with other settings.
func (m *machineModel) restart(t *rapid.T) {
	m.strategy = rapid.SampledFrom([]gpu.Strategy{gpu.Mixed, gpu.Single, gpu.None}).Draw(t, "strategy")
	m.hidden = rapid.SampledFrom([][]gpu.ID{nil, {"GPU-1"}, {"MIG-GPU-0-0", "GPU-9"}}).Draw(t, "hidden")
	m.shared = rapid.Bool().Draw(t, "shared")
	config := defaultConfig()
	config.StateDir = "/dev/null/none"
	config.MIGStrategy = string(m.strategy)
	for _, id := range m.hidden {
		config.Exclude = append(config.Exclude, string(id))
	}
	if m.shared {
		config.Sharing = append(config.Sharing, sharing.Block{Device: "model:L4", Mode: string(sharing.TimeSlicing), Replicas: 2})
	}
	s, err := config.check()
	if err != nil {
		t.Fatal(err)
	}
	if m.node, err = newNode(hclog.NewNullLogger(), m.src, s); err != nil {
		t.Fatal(err)
	}
	m.node.health = noJudge{}
	m.node.put("test", gpu.Overlay{Faults: m.health})
	m.known = map[gpu.ID]*modelDevice{}
	m.src.set(m.inventory(), m.err())
}

func (m *machineModel) err() error {
	if m.failed == "" {
		return nil
	}
	return errors.New(m.failed)
}

// inventory is what the driver says of the machine.
func (m *machineModel) inventory() gpu.Inventory {
	inv := gpu.Inventory{DriverVersion: m.driver, CUDAVersion: "12.4"}
	index := 0
	for _, b := range m.boards {
		if !b.plugged {
			continue
		}
		if b.lost {
			inv.Lost = append(inv.Lost, gpu.Lost{Index: index, Reason: "GPU is lost"})
		} else {
			reading := gpu.Board{ID: b.id, Index: index, Product: b.product, Fault: b.fault, MIG: b.mig}
			for _, i := range b.slices {
				reading.Slices = append(reading.Slices, gpu.Slice{ID: b.slice(i), Index: i, Profile: b.profile})
			}
			inv.Boards = append(inv.Boards, reading)
		}
		index++
	}
	return inv
}

// observe is what a look at the machine makes known.
func (m *machineModel) observe() {
	if m.failed != "" {
		for _, d := range m.known {
			if d.fault.OK() || d.fault.Action == gpustatus.Keep {
				d.fault = gpu.Fault{Reason: m.failed, Action: gpustatus.Keep}
			}
		}
		return
	}
	lost := slices.ContainsFunc(m.boards, func(b *modelBoard) bool { return b.plugged && b.lost })
	for _, b := range m.boards {
		remembered := false
		for _, d := range m.known {
			remembered = remembered || d.board == b.id
		}
		switch {
		case !b.plugged || b.lost:
			fault := gpu.Fault{Reason: "the driver no longer lists this GPU", Action: gpustatus.End}
			if lost {
				fault.Reason = "GPU is lost"
			}
			m.fail(b, fault)
		case b.fault != "" && remembered:
			m.fail(b, gpu.Fault{Reason: b.fault, Action: gpustatus.Move})
		default:
			maps.DeleteFunc(m.known, func(_ gpu.ID, d *modelDevice) bool { return d.board == b.id })
			m.learn(b)
		}
	}
}

func (m *machineModel) fail(b *modelBoard, f gpu.Fault) {
	for _, d := range m.known {
		if d.board == b.id {
			d.fault = f
		}
	}
}

func (m *machineModel) learn(b *modelBoard) {
	var fault gpu.Fault
	if b.fault != "" {
		fault = gpu.Fault{Reason: b.fault, Action: gpustatus.Move}
	}
	if !b.mig {
		m.known[b.id] = &modelDevice{id: b.id, board: b.id, name: b.product, fault: fault}
		return
	}
	for _, i := range b.slices {
		id := b.slice(i)
		m.known[id] = &modelDevice{id: id, board: b.id, name: b.product + " MIG " + b.profile, profile: b.profile, fault: fault}
	}
}

// expected are the devices that must be published, each as
// "type/name description".
func (m *machineModel) expected() map[string]string {
	var visible []*modelDevice
	profiles, boards := map[string]bool{}, 0
	for _, d := range m.known {
		if slices.Contains(m.hidden, d.id) || slices.Contains(m.hidden, d.board) || m.strategy == gpu.None && d.profile != "" {
			continue
		}
		visible = append(visible, d)
		if d.profile == "" {
			boards++
		} else {
			profiles[d.profile] = true
		}
	}
	mixture := m.strategy == gpu.Single && (len(profiles) > 1 || len(profiles) == 1 && boards > 0)
	want := map[string]string{}
	for _, d := range visible {
		f := d.fault
		for _, other := range []gpu.Fault{m.health[d.board], m.health[d.id]} {
			if rank(other) >= rank(f) && rank(other) > 0 {
				f = other
			}
		}
		if mixture && d.profile != "" && rank(f) == 0 {
			f = gpu.Fault{Reason: "mig_strategy is single", Action: gpustatus.Keep}
		}
		text := "healthy"
		if rank(f) > 0 {
			text = f.Reason + " " + string(f.Action)
		}
		if m.shared && strings.HasPrefix(d.name, "L4") {
			want[string(d.id)+"::0"], want[string(d.id)+"::1"] = "gpu.shared/"+d.name+" "+text, "gpu.shared/"+d.name+" "+text
			continue
		}
		want[string(d.id)] = "gpu/" + d.name + " " + text
	}
	return want
}

func rank(f gpu.Fault) int {
	return map[gpustatus.Action]int{"": 0, gpustatus.Keep: 1, gpustatus.Move: 2, gpustatus.End: 3}[f.Action]
}

func (m *machineModel) check(t *rapid.T) {
	_, groups, _ := m.node.current()
	if err := device.ValidateGroups(groups); err != nil {
		t.Fatalf("an agent refuses what is published: %v", err)
	}
	got := map[string]string{}
	for _, g := range groups {
		for _, d := range g.Devices {
			text := "healthy"
			if !d.Healthy {
				reason, action := gpustatus.ParseDescription(d.HealthDescription)
				if strings.HasPrefix(reason, "mig_strategy is single") {
					reason = "mig_strategy is single"
				}
				text = reason + " " + string(action)
			}
			got[d.ID] = g.Type + "/" + g.Name + " " + text
		}
		if v := g.Attributes["driver_version"].Value; m.failed == "" && v != m.driver {
			t.Fatalf("driver_version is %v, want %s", v, m.driver)
		}
	}
	if diff := gocmp.Diff(m.expected(), got); diff != "" {
		t.Fatalf("published (-want +got):\n%s", diff)
	}
	m.checkReserve(t, got)
}

// checkReserve: exactly what is published as healthy can be had.
func (m *machineModel) checkReserve(t *rapid.T, published map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(published)) {
		_, err := m.node.reserve(t.Context(), []gpu.ID{gpu.ID(id)})
		healthy := strings.HasSuffix(published[id], " healthy")
		if healthy != (err == nil) || err != nil && !errors.Is(err, gpu.ErrUnhealthyGPU) {
			t.Fatalf("reserving %s, which is %s: %v", id, published[id], err)
		}
	}
	for _, b := range m.boards {
		if _, offered := published[string(b.id)]; offered {
			continue
		}
		_, err := m.node.reserve(t.Context(), []gpu.ID{b.id})
		if err == nil {
			t.Fatalf("%s is not on offer and was reserved (%s)", b.id, cmp.Or(m.failed, "driver works"))
		}
	}
}
