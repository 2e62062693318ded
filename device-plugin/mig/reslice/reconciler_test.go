package reslice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/migtest"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func (w *world) check(t *testing.T) {
	t.Helper()
	for _, wrong := range w.wrong {
		t.Error(wrong)
	}
}

func TestIdleBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		w.want(Request{Name: "pair", Layout: layoutOf(t, "3g.20gb", "4g.20gb")}, 0)
		start := time.Now()
		if err := w.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Phase{Desired, Cordoned, Slicing, Verifying, Done}, w.store.phases); diff != "" {
			t.Errorf("phases (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"mode", "create", "create"}, w.done); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		if w.layout(0) != "[3g.20gb@4 4g.20gb@0]" || w.Read()[1].Enabled {
			t.Errorf("boards are %s and %+v", w.layout(0), w.Read()[1])
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("it took %s, want the 5 s that a cordon settles", took)
		}
		if faults := w.reconciler.Faults(); len(faults) > 0 {
			t.Errorf("still cordoned: %v", faults)
		}
		w.check(t)

		w.want(Request{Name: "pair", Layout: layoutOf(t, "3g.20gb", "4g.20gb"), Reached: true}, 0)
		before := string(w.store.content)
		if err := w.settle(t.Context()); err != nil || len(w.done) != 3 || string(w.store.content) != before {
			t.Errorf("wanted again: %v, changes %v", err, w.done)
		}
	})
}

func TestBusyBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "3g.20gb@4", "1g.5gb@0", "1g.5gb@1")...)
		stays := w.Use(0, 0, time.Time{})
		w.Use(0, 1, time.Now().Add(time.Minute))
		w.want(Request{Name: "custom", Layout: layoutOf(t, "3g.20gb", "2g.10gb", "2g.10gb")}, 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- w.settle(ctx) }()

		time.Sleep(30 * time.Second)
		synctest.Wait()
		if len(w.done) > 0 {
			t.Errorf("while a process runs, %v was done", w.done)
		}
		want := map[gpu.ID]gpu.Fault{
			"MIG-GPU-0-2-0": {Reason: "cordoned: MIG layout custom waits for 1 process", Action: gpustatus.Keep},
			"MIG-GPU-0-3-0": {Reason: "cordoned: MIG layout custom waits for 1 process", Action: gpustatus.Keep},
		}
		if diff := cmp.Diff(want, w.reconciler.Faults()); diff != "" {
			t.Errorf("faults (-want +got):\n%s", diff)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"destroy", "destroy", "create", "create"}, w.done); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		kept := w.Read()[0].Instances[0]
		if kept.GPUInstance != 1 || !slices.Contains(kept.Processes, stays) {
			t.Errorf("the slice that the layout keeps is %+v", kept)
		}
		w.check(t)
	})
}

func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "3g.20gb@4", "1g.5gb@0")...)
		w.Use(0, 0, time.Time{})
		moves := w.Use(0, 1, time.Time{})
		w.want(Request{Name: "custom", Layout: layoutOf(t, "3g.20gb", "4g.20gb"), Evict: true}, 0)
		ended := make(chan error, 1)
		go func() { ended <- w.settle(t.Context()) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if phase := w.task(0).Phase; phase != Moving {
			t.Errorf("phase = %s, want %s", phase, Moving)
		}
		if diff := cmp.Diff(map[gpu.ID]gpustatus.Action{"MIG-GPU-0-2-0": gpustatus.Move}, actions(w.reconciler.Faults())); diff != "" {
			t.Errorf("only work on the slice that goes is asked to leave (-want +got):\n%s", diff)
		}
		w.End(moves)
		if err := <-ended; err != nil || w.task(0).Phase != Done {
			t.Errorf("ended with %v in %s", err, w.task(0).Phase)
		}
		w.check(t)
	})
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "7g.40gb@0")...)
		w.Use(0, 0, time.Time{})
		w.want(Request{Name: "off", Timeout: 10 * time.Minute}, 0)
		if err := w.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := w.task(0)
		if got.Phase != Failed || got.Reason != "given up after 10m0s: it waits for 1 process; nothing was changed" {
			t.Errorf("%s: %s", got.Phase, got.Reason)
		}
		if len(w.done) > 0 || len(w.reconciler.Faults()) > 0 {
			t.Errorf("done: %v; faults: %v; want the board in service as before", w.done, w.reconciler.Faults())
		}
	})
}

func TestProcessesThatTheDriverDoesNotList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "7g.40gb@0")...)
		inUse := fmt.Errorf("gpu instance: %w", mig.ErrInUse)
		w.failures = map[int]error{1: inUse, 2: inUse, 3: inUse, 4: inUse, 5: inUse, 6: inUse, 7: inUse}
		w.want(Request{Name: "off"}, 0)
		if err := w.settle(t.Context()); err != nil || w.task(0).Phase != Done {
			t.Errorf("ended with %v in %s: %s", err, w.task(0).Phase, w.task(0).Reason)
		}
		if !slices.Contains(w.store.phases, Waiting) {
			t.Errorf("phases were %v", w.store.phases)
		}
		w.check(t)
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "3g.20gb@4", "1g.5gb@0")...)
		broken := errors.New("insufficient resources")
		w.failures = map[int]error{2: broken, 3: broken, 4: broken, 5: broken, 6: broken}
		start := time.Now()
		w.want(Request{Name: "custom", Layout: layoutOf(t, "3g.20gb", "2g.10gb")}, 0)
		if err := w.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := w.task(0)
		want := "given up after 5 attempts: create 2g.10gb at 0:2: insufficient resources"
		if got.Phase != Failed || got.Reason != want {
			t.Errorf("%s: %s\n want %s", got.Phase, got.Reason, want)
		}
		if took := time.Since(start); took != 80*time.Second { // 5 + 5+10+20+40
			t.Errorf("it took %s; want the pauses to double", took)
		}
		if diff := cmp.Diff([]gpu.ID{"GPU-0"}, sortedIDs(w.reconciler.Faults())); diff != "" {
			t.Errorf("a board that was touched stays cordoned (-want +got):\n%s", diff)
		}
		if reason := w.reconciler.Faults()["GPU-0"].Reason; !strings.Contains(reason, want) || !strings.Contains(reason, "apply a layout again") {
			t.Errorf("reason = %s", reason)
		}

		w.want(Request{Name: "custom", Layout: layoutOf(t, "3g.20gb", "2g.10gb")}, 0)
		if err := w.settle(t.Context()); err != nil || w.task(0).Phase != Done || len(w.reconciler.Faults()) > 0 {
			t.Errorf("applied again: %v, %s: %s", err, w.task(0).Phase, w.task(0).Reason)
		}
		w.check(t)
	})
}

// TestDriverThatDoesNothing reports success and changes nothing.
func TestDriverThatDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.want(Request{Name: "on", Layout: mig.Layout{Enabled: true}}, 0)
		idle := &idleDriver{Machine: w.Machine}
		r, err := New(Config{Controller: idle, Store: &w.store})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.RunUntilSettled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.task(0); got.Phase != Failed || !strings.Contains(got.Reason, "the board does not change") {
			t.Errorf("%s: %s", got.Phase, got.Reason)
		}
		if idle.calls > 5*mostSteps {
			t.Errorf("it was tried %d times", idle.calls)
		}
	})
}

type idleDriver struct {
	*migtest.Machine
	calls int
}

func (d *idleDriver) SetMode(context.Context, string, bool) (bool, error) {
	d.calls++
	return false, nil
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.NeedsReset = true
		w.want(Request{Name: "whole", Layout: layoutOf(t, "7g.40gb")}, 0)
		ended := make(chan error, 1)
		go func() { ended <- w.settle(t.Context()) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.task(0); got.Phase != Waiting || !strings.Contains(got.Reason, "waits for a reset") {
			t.Errorf("%s: %s", got.Phase, got.Reason)
		}
		w.Reset(0)
		if err := <-ended; err != nil || w.layout(0) != "[7g.40gb@0]" {
			t.Errorf("ended with %v, %s", err, w.layout(0))
		}
		w.check(t)
	})
}

func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.Cut(0, placed(t, "7g.40gb@0")...)
		w.Use(0, 0, time.Now().Add(time.Hour))
		w.want(Request{Name: "first", Layout: layoutOf(t, "1g.5gb")}, 0)
		ended := make(chan error, 1)
		go func() { ended <- w.settle(t.Context()) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		w.want(Request{Name: "as it is", Layout: layoutOf(t, "7g.40gb")}, 0)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if len(w.done) > 0 || w.task(0).Name != "as it is" || w.task(0).Phase != Done || len(w.reconciler.Faults()) > 0 {
			t.Errorf("done %v; task %+v", w.done, w.task(0))
		}
	})
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		r, err := New(Config{Controller: w.Machine, Store: &w.store})
		if err != nil {
			t.Fatal(err)
		}
		w.reconciler = r
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() { defer close(stopped); r.Run(ctx) }()
		settled := func() {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		}
		settled()
		hint := func() bool {
			select {
			case <-r.Changes():
				return true
			default:
				return false
			}
		}
		if hint() {
			t.Error("a hint without any change")
		}
		w.want(Request{Name: "half", Layout: layoutOf(t, "3g.20gb")}, 0)
		settled()
		if w.layout(0) != "[3g.20gb@4]" || !hint() {
			t.Errorf("what is wanted while it runs is not done: %s", w.layout(0))
		}

		w.Reset(0)
		settled()
		if w.layout(0) != "[3g.20gb@4]" {
			t.Errorf("what a reset took is not made again: %s", w.layout(0))
		}
		w.Cut(0, placed(t, "1g.5gb@6", "1g.5gb@5")...)
		settled()
		if w.layout(0) != "[1g.5gb@5 1g.5gb@6]" {
			t.Errorf("slices that somebody made by hand were destroyed: %s", w.layout(0))
		}
		if got := w.task(0); got.Phase != Done || got.Reason != "reached, and changed by somebody since" {
			t.Errorf("%s: %s", got.Phase, got.Reason)
		}
		w.want(Request{Name: "half", Layout: layoutOf(t, "3g.20gb")}, 0)
		settled()
		if w.layout(0) != "[3g.20gb@4]" || w.task(0).Reason != "" {
			t.Errorf("applied again it is %s: %s", w.layout(0), w.task(0).Reason)
		}
		cancel()
		<-stopped
		w.check(t)
	})
}

// TestRunWithTrouble has a driver that does not answer for a while: that is
// logged once, and it goes on when it is over.
func TestRunWithTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		over := time.Now().Add(5 * time.Minute)
		before := w.Before
		w.Before = func(c migtest.Call) error {
			if time.Now().Before(over) {
				return errors.New("driver and library differ")
			}
			return before(c)
		}
		var log strings.Builder
		r, err := New(Config{Controller: w.Machine, Store: &w.store, Logger: hclog.New(&hclog.LoggerOptions{Output: &log})})
		if err != nil {
			t.Fatal(err)
		}
		w.reconciler = r
		w.want(Request{Name: "half", Layout: layoutOf(t, "3g.20gb")}, 0)
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() { defer close(stopped); r.Run(ctx) }()
		time.Sleep(6 * time.Minute)
		cancel()
		<-stopped
		if n := strings.Count(log.String(), "driver and library differ"); n != 1 {
			t.Errorf("it is logged %d times:\n%s", n, log.String())
		}
		if w.task(0).Phase != Done || !strings.Contains(log.String(), "can be worked on again") {
			t.Errorf("%s; logged:\n%s", w.task(0).Phase, log.String())
		}
	})
}
