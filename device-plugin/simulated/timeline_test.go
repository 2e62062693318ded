package simulated

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// vitals reads the vitals of a board.
func vitals(t *testing.T, s *Source, board int) gpu.Vitals {
	t.Helper()
	id := s.subjects[board].id
	v, err := s.Vitals(t.Context(), []gpu.ID{id})
	if err != nil {
		t.Fatal(err)
	}
	return v[id]
}

// TestTimes: faults come, go and come back at their times, each with a hint.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		s := start(t, Config{Machine: machine(t, "3xl4"), Script: script(t, `
fault "0" {
  at     = "5s"
  for    = "2s"
  reason = "broken"
}
fault "1" { # plugged in after four seconds
  for  = "4s"
  gone = true
}
fault "2" {
  at     = "10s"
  for    = "1s"
  every  = "3s"
  times  = 2
  reason = "flapping"
}
`)})
		type change struct {
			After  time.Duration
			Faults string
		}
		state := func() string {
			all := ""
			for _, b := range inventory(t, s).Boards {
				all += b.Fault + ";"
			}
			return all
		}
		got := []change{{0, state()}}
		for len(got) < 8 {
			select {
			case <-s.Changes():
			case <-time.After(time.Minute):
				t.Fatalf("no more changes after %v", got)
			}
			if c := (change{time.Since(begin), state()}); got[len(got)-1].Faults != c.Faults {
				got = append(got, c)
			}
		}
		want := []change{
			{0, ";;"}, {4 * time.Second, ";;;"}, {5 * time.Second, "broken;;;"}, {7 * time.Second, ";;;"},
			{10 * time.Second, ";;flapping;"}, {11 * time.Second, ";;;"}, {13 * time.Second, ";;flapping;"}, {14 * time.Second, ";;;"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		m := machine(t, "2xa100-40gb/all-3g.20gb")
		slice := m.inventory(m.described()).Boards[1].Slices[1]
		s := start(t, Config{Machine: m, Script: script(t, `
fault "0" { # before anybody watches
  xid  = 48
  text = "double-bit error"
}
fault "`+string(slice.ID)+`" {
  at  = "1s"
  xid = 43
  pid = 4242
}
fault "*" {
  at    = "2s"
  every = "2s"
  times = 2
  xid   = 63
}
reset "0" { at = "5s" }
driver {
  at     = "6s"
  for    = "1s"
  reload = true
}
`)})
		time.Sleep(time.Millisecond)
		var got []gpu.Event
		err := s.Watch(t.Context(), func(e gpu.Event) { got = append(got, e) })
		if err == nil || err.Error() != reasonUnloaded || time.Since(begin) != 6*time.Second {
			t.Errorf("watching ended after %v: %v", time.Since(begin), err)
		}
		at := func(d time.Duration) time.Time { return begin.Add(d) }
		a, b := s.subjects[0].id, s.subjects[1].id
		want := []gpu.Event{
			{Time: at(0), Board: a, XID: 48, Text: "double-bit error"},
			{Time: at(time.Second), Board: b, GPUInstance: slice.GPUInstance, ComputeInstance: slice.ComputeInstance, XID: 43, PID: 4242},
			{Time: at(2 * time.Second), Board: a, XID: 63},
			{Time: at(2 * time.Second), Board: b, XID: 63},
			{Time: at(4 * time.Second), Board: a, XID: 63},
			{Time: at(4 * time.Second), Board: b, XID: 63},
			{Time: at(5 * time.Second), Board: a, Reset: true},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		time.Sleep(2 * time.Second)
		if err := s.Watch(ctx, func(gpu.Event) {}); err != nil {
			t.Errorf("watching until the context ended: %v", err)
		}
	})
}

// TestVitals: counters grow each time, and a reset of the board forgets what
// a real one does.
func TestVitals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "dgx-h100"), Script: script(t, `
fault "3" {
  at                   = "1s"
  every                = "1s"
  times                = 5
  ecc_corrected        = 2
  ecc_uncorrected      = 1
  remapped_uncorrected = 1
  pcie_replays         = 10
}
fault "3" {
  ecc_sram_uncorrected = 1
  remap_pending        = true
  temperature_c        = 91
  pcie_width           = 8
  throttle             = ["sw-power-cap"]
  fabric_state         = "in-progress"
  recovery_action      = "reset"
}
fault "3" {
  nvlink_down       = true
  nvlink_crc_errors = 7
  nvlinks           = [2, 17]
}
reset "3" { at = "3500ms" }
`)})
		time.Sleep(3 * time.Second)
		v := vitals(t, s, 3)
		n := func(v int64) *int64 { return &v }
		want := gpu.ECC{
			VolatileCorrected: n(6), VolatileUncorrected: n(4), AggregateCorrected: n(6), AggregateUncorrected: n(4),
			SRAMUncorrected: n(1), DRAMUncorrected: n(3),
		}
		if diff := cmp.Diff(&want, v.ECC); diff != "" {
			t.Errorf("ECC before the reset (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(&gpu.RemappedRows{Uncorrected: 3, Pending: true}, v.RemappedRows); diff != "" {
			t.Errorf("remapped rows (-want +got):\n%s", diff)
		}
		if *v.TemperatureC != 91 || *v.PCIe.Width != 8 || *v.PCIe.Replays != 30 || v.FabricState != "in-progress" || v.RecoveryAction != "reset" {
			t.Errorf("vitals %+v, PCIe %+v", v, *v.PCIe)
		}
		throttle := []gpu.ThrottleReason{gpu.ThrottleSWPowerCap, gpu.ThrottleHWSlowdown, gpu.ThrottleHWThermal, gpu.ThrottleIdle}
		if diff := cmp.Diff(throttle, v.Throttle); diff != "" || *v.PowerViolation != 3*time.Second || *v.ThermalViolation != 0 {
			t.Errorf("throttling %v, %v, %v", v.Throttle, *v.PowerViolation, *v.ThermalViolation)
		}
		if len(v.NVLinks) != 18 || v.NVLinks[2].Active || *v.NVLinks[2].CRCErrors != 7 || !v.NVLinks[3].Active || *v.NVLinks[3].CRCErrors != 0 {
			t.Errorf("NVLinks %+v", v.NVLinks)
		}
		if specs := inventory(t, s).Boards[3].Specs; *specs.NVLinks != 16 || *specs.NVLinkMBps != 16*26562 {
			t.Errorf("%d NVLinks with %d MB/s", *specs.NVLinks, *specs.NVLinkMBps)
		}
		other := vitals(t, s, 4)
		if *other.ECC.VolatileCorrected != 0 || other.FabricState != "completed" || other.RecoveryAction != "none" || other.RetiredPages != nil {
			t.Errorf("a healthy board: %+v", other)
		}

		time.Sleep(3 * time.Second)
		after := vitals(t, s, 3)
		want = gpu.ECC{
			VolatileCorrected: n(4), VolatileUncorrected: n(2), AggregateCorrected: n(10), AggregateUncorrected: n(6),
			SRAMUncorrected: n(0), DRAMUncorrected: n(2),
		}
		if diff := cmp.Diff(&want, after.ECC); diff != "" {
			t.Errorf("ECC after the reset (-want +got):\n%s", diff)
		}
		if after.RemappedRows.Pending || after.RemappedRows.Uncorrected != 5 || *after.PCIe.Width != 16 || *after.PowerViolation != 0 {
			t.Errorf("after the reset %+v", after)
		}
		if *after.EnergyMJ >= *v.EnergyMJ {
			t.Error("the energy counter tells nothing of the reset")
		}
	})
}

// TestHang: calls about a board that hangs wait, as those into a driver do;
// calls about others do not.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "2xl4"), Script: script(t, `
fault "0" {
  for  = "10s"
  hang = true
}
driver {
  at    = "20s"
  delay = "300ms"
}
`)})
		begin := time.Now()
		ids := []gpu.ID{s.subjects[0].id, s.subjects[1].id}
		took := func(call func() error) time.Duration {
			from := time.Now()
			if err := call(); err != nil {
				t.Fatal(err)
			}
			return time.Since(from)
		}
		sample := func(ids ...gpu.ID) func() error {
			return func() error { _, err := s.Sample(t.Context(), ids); return err }
		}
		if d := took(sample(ids[1])); d != 0 {
			t.Errorf("the healthy board answers after %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Inventory(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that was given up: %v", err)
		}
		took(sample(ids...))
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("the board answers after %v", d)
		}
		time.Sleep(15 * time.Second)
		if d := took(sample(ids...)); d != 300*time.Millisecond {
			t.Errorf("a slow driver answers after %v", d)
		}
	})
}

// TestHangEnds: closing the machine frees callers.
func TestHangEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "l4"), Script: script(t, `driver { hang = true }`)})
		go func() {
			time.Sleep(time.Second)
			s.Close()
		}()
		if _, err := s.Inventory(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		s := start(t, Config{Machine: machine(t, "l4"), Script: script(t, `
fault "0" {
  at      = "3s"
  stalled = true
}
`)})
		time.Sleep(10 * time.Second)
		id := s.subjects[0].id
		samples, err := s.Sample(t.Context(), []gpu.ID{id})
		if err != nil || !samples[id].Time.Equal(begin.Add(3*time.Second)) {
			t.Errorf("sample of %v, %v", samples[id].Time, err)
		}
	})
}

// TestReload: a driver that was reloaded has forgotten the faults from before.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "l4"), Script: script(t, `
fault "0" {
  reason        = "broken"
  ecc_corrected = 3
}
driver {
  at     = "5s"
  for    = "2s"
  reload = true
}
`)})
		if f := inventory(t, s).Boards[0].Fault; f != "broken" {
			t.Errorf("fault is %q", f)
		}
		time.Sleep(6 * time.Second)
		if _, err := s.Inventory(t.Context()); err == nil || err.Error() != reasonUnloaded {
			t.Errorf("without a driver: %v", err)
		}
		time.Sleep(time.Second)
		if f := inventory(t, s).Boards[0].Fault; f != "" {
			t.Errorf("after the reload the fault is %q", f)
		}
		if e := vitals(t, s, 0).ECC; *e.VolatileCorrected != 0 || *e.AggregateCorrected != 3 {
			t.Errorf("after the reload: %+v", e)
		}
	})
}

// TestClocks: a block keeps its clock while it stays in the file, and over a
// restart if there is a state file; its events are not told again.
func TestClocks(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "faults.hcl"), filepath.Join(dir, "state.json")
	const old = "fault \"0\" {\n  xid = 79\n  reason = \"old\"\n}\n"
	write(t, file, old)
	config := Config{Machine: machine(t, "2xl4"), FaultFile: file, StateFile: state}
	first := start(t, config)
	origin := first.timeline.steps[0].origin
	write(t, file, "fault \"1\" { reason = \"new\" }\n"+old)
	steps := func(s *Source) map[string]time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		origins := map[string]time.Time{}
		for _, st := range s.timeline.steps {
			origins[st.target] = st.origin
		}
		return origins
	}
	before := steps(first)
	for len(before) < 2 {
		await(t, first.Changes())
		before = steps(first)
	}
	if !before["0"].Equal(origin) || !before["1"].After(origin) {
		t.Errorf("clocks begin at %v; the old block's began at %v", before, origin)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, config)
	after := steps(second)
	for _, board := range []string{"0", "1"} {
		if !after[board].Equal(before[board]) {
			t.Errorf("the clock of fault %s began at %v, after a restart at %v", board, before[board], after[board])
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	write(t, file, "fault \"1\" { xid = 13 }")
	err := second.Watch(ctx, func(e gpu.Event) {
		if e.XID != 13 {
			t.Errorf("told again after a restart: %+v", e)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}
