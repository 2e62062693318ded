package health_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func TestVitals(t *testing.T) {
	throttled := func(reasons ...gpu.ThrottleReason) func(*gpu.Vitals) {
		return func(v *gpu.Vitals) { v.Throttle = reasons }
	}
	tests := []struct {
		name    string
		change  func(*gpu.Vitals)
		lasting time.Duration // 0 is one reading
		want    string        // the reason's beginning; "" is healthy
		action  gpustatus.Action
		// back is for how long good readings must go on until it is over; -1
		// is that they do not end it.
		back time.Duration
	}{
		{"all well", func(*gpu.Vitals) {}, 0, "", "", 0},
		{"errors on the chip", func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected, *v.ECC.SRAMUncorrected = 1, 1 }, 0,
			"uncorrectable memory errors (on the chip)", gpustatus.Move, 0}, // good() counts 0 again, which is a reset
		{"errors in memory that is remapped", func(v *gpu.Vitals) {
			*v.ECC.VolatileUncorrected, *v.ECC.DRAMUncorrected = 1, 1
			v.RemappedRows.Uncorrected = 1
		}, 0, "", "", 0},
		{"errors in memory that is remapped soon", func(v *gpu.Vitals) {
			*v.ECC.VolatileUncorrected, *v.ECC.DRAMUncorrected, v.RemappedRows.Pending = 1, 1, true
		}, 0, "a row of memory awaits its replacement", gpustatus.Keep, 0},
		{"errors of a board that cannot remap", func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected, v.RemappedRows = 1, nil }, 0,
			"uncorrectable memory errors", gpustatus.Move, 0},
		{"errors that were corrected", func(v *gpu.Vitals) { v.ECC.VolatileCorrected = ref[int64](900) }, 0, "", "", 0},
		{"no spare row", func(v *gpu.Vitals) { v.RemappedRows.Failed = true }, 0, "a row of memory could not be replaced", gpustatus.Move, -1},
		{"page pending", func(v *gpu.Vitals) { v.RetiredPages = &gpu.RetiredPages{Pending: true} }, 0, "a page of memory awaits", gpustatus.Keep, -1},
		{"some pages retired", func(v *gpu.Vitals) { v.RetiredPages = &gpu.RetiredPages{SingleBit: 40, DoubleBit: 19} }, 0, "", "", 0},
		{"too many pages retired", func(v *gpu.Vitals) { v.RetiredPages = &gpu.RetiredPages{SingleBit: 40, DoubleBit: 20} }, 0, "too many pages of memory were retired (60 or more)", gpustatus.Move, -1},
		{"hot for a moment", throttled(gpu.ThrottleHWThermal), 0, "", "", 0},
		{"hot for long", throttled(gpu.ThrottleHWThermal, gpu.ThrottleHWSlowdown), 6 * time.Minute, "heat slows the GPU down", gpustatus.Keep, 5 * time.Minute},
		{"software slows it for heat", throttled(gpu.ThrottleSWThermal), 6 * time.Minute, "heat slows the GPU down", gpustatus.Keep, 5 * time.Minute},
		{"above the temperature", func(v *gpu.Vitals) { v.TemperatureC = ref[int64](95) }, 6 * time.Minute, "heat slows the GPU down", gpustatus.Keep, 5 * time.Minute},
		{"power brake", throttled(gpu.ThrottleHWPowerBrake), 6 * time.Minute, "the power brake slows", gpustatus.Keep, 5 * time.Minute},
		{"hardware slowdown", throttled(gpu.ThrottleHWSlowdown), 6 * time.Minute, "the hardware slows", gpustatus.Keep, 5 * time.Minute},
		{"at its power limit", throttled(gpu.ThrottleSWPowerCap), time.Hour, "", "", 0},
		{"idle", throttled(gpu.ThrottleIdle), time.Hour, "", "", 0},
		{"idle with a slow link", func(v *gpu.Vitals) {
			v.Throttle, v.PCIe.Generation = []gpu.ThrottleReason{gpu.ThrottleIdle}, ref[int64](1)
		}, time.Hour, "", "", 0},
		{"busy with a slow link", func(v *gpu.Vitals) { v.PCIe.Generation = ref[int64](1) }, time.Hour, "", "", 0}, // degraded
		{"lanes lost", func(v *gpu.Vitals) { v.PCIe.Width = ref[int64](4) }, 6 * time.Minute, "the PCIe link has lost lanes (4 of 16 lanes)", gpustatus.Keep, 5 * time.Minute},
		{"a link is down", func(v *gpu.Vitals) { v.NVLinks[1].Active = false }, 0, "an NVLink is down (link 1)", gpustatus.Keep, 0},
		{"a link is gone", func(v *gpu.Vitals) { v.NVLinks = v.NVLinks[:1] }, 0, "an NVLink is down (link 1)", gpustatus.Keep, 0},
		{"fabric at once", func(v *gpu.Vitals) { v.FabricState = "in-progress" }, 0, "", "", 0},
		{"fabric never", func(v *gpu.Vitals) { v.FabricState = "in-progress" }, 6 * time.Minute, "the GPU has not joined the NVSwitch fabric (in-progress)", gpustatus.Keep, 5 * time.Minute},
		{"no fabric", func(v *gpu.Vitals) { v.FabricState = "" }, time.Hour, "", "", 0},
		{"the driver wants a reset", func(v *gpu.Vitals) { v.RecoveryAction = "reset" }, 0, "the driver asks for a reset of the GPU", gpustatus.Move, 0},
		{"the driver wants a reboot", func(v *gpu.Vitals) { v.RecoveryAction = "reboot" }, 0, "the driver asks for a restart of the node", gpustatus.Move, 0},
		{"the driver wants a drain", func(v *gpu.Vitals) { v.RecoveryAction = "drain" }, 0, "the driver asks to move work away", gpustatus.Keep, 0},
		{"the driver wants a drain and a reset", func(v *gpu.Vitals) { v.RecoveryAction = "drain-and-reset" }, 0, "the driver asks for a reset of the GPU after", gpustatus.Keep, 0},
		{"nothing can be read", func(v *gpu.Vitals) { *v = gpu.Vitals{} }, time.Hour, "", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, 4, quick())
			n.set(0, tt.change)
			n.keepReading(tt.lasting)
			f := n.fault(id(0))
			if tt.want == "" && !f.OK() || !strings.HasPrefix(f.Reason, tt.want) || f.Action != tt.action {
				t.Fatalf("fault %+v, want %q and action %q", f, tt.want, tt.action)
			}
			if f.OK() {
				return
			}
			if tt.name == "page pending" { // good() does not say that there are none
				n.set(0, func(v *gpu.Vitals) { v.RetiredPages = &gpu.RetiredPages{} })
				tt.back = 0
			} else {
				n.set(0, func(*gpu.Vitals) {})
			}
			if tt.back < 0 {
				n.keepReading(time.Hour)
				if n.state(0) != health.Condemned {
					t.Errorf("state %s, though only an operator can end this", n.state(0))
				}
				return
			}
			if tt.back > 0 {
				n.keepReading(tt.back - 15*time.Second)
				if n.state(0) != health.Condemned {
					t.Errorf("state %s before it was over for %s", n.state(0), tt.back)
				}
				n.keepReading(15 * time.Second)
			}
			if n.state(0) != health.Waiting {
				t.Errorf("state %s after it is over: %s", n.state(0), n.fault(id(0)).Reason)
			}
		})
	}
}

// TestMissingIsNotGood loses the readings while something is wrong.
func TestMissingIsNotGood(t *testing.T) {
	n := newNode(t, 4, quick())
	n.set(0, func(v *gpu.Vitals) {
		v.Throttle = []gpu.ThrottleReason{gpu.ThrottleHWThermal}
		v.RemappedRows.Pending = true
	})
	n.keepReading(6 * time.Minute)
	n.set(0, func(v *gpu.Vitals) { *v = gpu.Vitals{} })
	n.keepReading(time.Hour)
	if d := n.device(id(0)); d.State != health.Condemned || len(d.Conditions) != 2 {
		t.Errorf("without readings: %+v", d)
	}
}

func TestSlowSignalsAreShownFirst(t *testing.T) {
	n := newNode(t, 4, quick())
	n.set(0, func(v *gpu.Vitals) { v.Throttle = []gpu.ThrottleReason{gpu.ThrottleHWThermal} })
	if d := n.device(id(0)); len(d.Conditions) != 0 {
		t.Errorf("at once: %+v", d)
	}
	n.keepReading(time.Minute)
	if d := n.device(id(0)); d.State != health.Healthy || len(d.Conditions) != 1 || d.Conditions[0].Severity != health.Degraded {
		t.Errorf("after a minute: %+v", d)
	}
	n.set(0, func(*gpu.Vitals) {})
	if d := n.device(id(0)); len(d.Conditions) != 0 {
		t.Errorf("after a good reading: %+v", d)
	}
}

func TestSlowSignalsNeedAnUnbrokenRow(t *testing.T) {
	hot := func(v *gpu.Vitals) { v.Throttle = []gpu.ThrottleReason{gpu.ThrottleHWThermal} }
	n := newNode(t, 4, quick())
	for range 20 { // four minutes hot, then a good reading, for an hour and more
		n.set(0, hot)
		n.keepReading(4 * time.Minute)
		n.set(0, func(*gpu.Vitals) {})
		n.pass(15 * time.Second)
	}
	if n.state(0) != health.Healthy {
		t.Error("short slowdowns condemn")
	}
	n.set(0, hot)
	n.pass(time.Hour) // nobody reads
	n.read()
	if n.state(0) != health.Healthy {
		t.Error("what was not read condemns")
	}
	n.keepReading(5 * time.Minute)
	if n.state(0) != health.Condemned {
		t.Error("a long slowdown does not condemn")
	}
	for range 20 { // and the way back has no shortcuts either
		n.set(0, func(*gpu.Vitals) {})
		n.keepReading(4 * time.Minute)
		n.set(0, hot)
		n.keepReading(time.Minute)
	}
	if n.state(0) != health.Condemned || n.device(id(0)).Conditions[0].Count != 1 {
		t.Errorf("after an hour of ups and downs: %+v", n.device(id(0)))
	}
}

func TestRates(t *testing.T) {
	tests := []struct {
		name      string
		perMinute func(v *gpu.Vitals, minutes int64)
		want      string
	}{
		{"few replays", func(v *gpu.Vitals, m int64) { *v.PCIe.Replays = 8 * m }, ""},
		{"many replays", func(v *gpu.Vitals, m int64) { *v.PCIe.Replays = 9 * m }, "transfers over PCIe are repeated often"},
		{"few errors of links", func(v *gpu.Vitals, m int64) { *v.NVLinks[0].CRCErrors = 6000 * m }, ""},
		{"many errors of links", func(v *gpu.Vitals, m int64) { *v.NVLinks[0].CRCErrors = 6001 * m }, "errors on NVLink"},
		{"links recover all the time", func(v *gpu.Vitals, m int64) { *v.NVLinks[0].RecoveryErrors = m }, "errors on NVLink"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, 4, quick())
			for m := range int64(8) {
				n.pass(time.Minute)
				n.set(0, func(v *gpu.Vitals) { tt.perMinute(v, m+1) })
			}
			if got := n.fault(id(0)).Reason; tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}

// TestThermalViolation is of a board that is slow between the readings only.
func TestThermalViolation(t *testing.T) {
	n := newNode(t, 4, quick())
	for m := range 8 {
		n.pass(time.Minute)
		n.set(0, func(v *gpu.Vitals) { v.ThermalViolation = ref(time.Duration(m) * 40 * time.Second) })
	}
	if n.state(0) != health.Condemned {
		t.Error("a GPU that is slow two thirds of the time is healthy")
	}
}

func TestOneGPUNeedsNoNVLink(t *testing.T) {
	n := newNode(t, 1, quick())
	n.set(0, func(v *gpu.Vitals) { v.NVLinks[0].Active = false })
	n.xid(0, 74)
	if n.state(0) != health.Healthy || len(n.device(id(0)).Conditions) != 2 {
		t.Errorf("the only GPU of a node: %+v", n.device(id(0)))
	}
}

func TestSignalOverride(t *testing.T) {
	c := quick()
	c.Signal = map[string]health.Override{"nvlink-down": {Severity: "degraded"}, "row-remap-pending": {Severity: "unhealthy", Action: "move"}}
	n := newNode(t, 4, c)
	n.set(0, func(v *gpu.Vitals) { v.NVLinks[0].Active = false })
	if n.state(0) != health.Healthy {
		t.Error("an override has no effect")
	}
	n.set(1, func(v *gpu.Vitals) { v.RemappedRows.Pending = true })
	if got := n.fault(id(1)).Action; got != gpustatus.Move {
		t.Errorf("action %q", got)
	}
}

func TestUnreadable(t *testing.T) {
	n := newNode(t, 4, quick())
	delete(n.vitals, id(2))
	n.keepReading(6 * time.Minute)
	if f := n.tracker.Faults(); len(f) != 1 || !strings.HasPrefix(f[id(2)].Reason, "the driver does not tell the GPU's health any more") {
		t.Errorf("faults %v", f)
	}
	never := newNode(t, 4, quick())
	never.inv.Boards = append(never.inv.Boards, gpu.Board{ID: "GPU-old", Index: 4, Product: "K80"})
	never.look()
	never.keepReading(time.Hour)
	if f := never.tracker.Faults(); len(f) != 0 {
		t.Errorf("a GPU that never had vitals: %v", f)
	}
}

func TestCompare(t *testing.T) {
	tests := []struct {
		name   string
		change func(*gpu.Vitals)
		want   string
	}{
		{"all well", func(*gpu.Vitals) {}, ""},
		{"errors rise", func(v *gpu.Vitals) { *v.ECC.VolatileUncorrected = 1 }, "uncorrectable memory errors rise"},
		{"remap pending", func(v *gpu.Vitals) { v.RemappedRows.Pending = true }, "a row of memory awaits"},
		{"remap failed", func(v *gpu.Vitals) { v.RemappedRows.Failed = true }, "a row of memory could not be replaced"},
		{"page pending", func(v *gpu.Vitals) { v.RetiredPages = &gpu.RetiredPages{Pending: true} }, "a page of memory awaits"},
		{"recovery", func(v *gpu.Vitals) { v.RecoveryAction = "reset" }, "the driver recommends reset"},
		{"nothing known", func(v *gpu.Vitals) { *v = gpu.Vitals{} }, ""},
	}
	for _, tt := range tests {
		second := good()
		tt.change(&second)
		err := health.Compare(good(), second)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
