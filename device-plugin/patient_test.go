package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// hanging is a source whose Inventory waits for release.
type hanging struct {
	gpu.Source
	calls   atomic.Int32
	release chan struct{}
}

func (h *hanging) Inventory(context.Context) (gpu.Inventory, error) {
	h.calls.Add(1)
	<-h.release
	return boards("GPU-0"), nil
}

func TestPatientGivesUpAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{})}
		src := &patient{Source: h, limit: 20 * time.Second}
		for range 3 {
			start := time.Now()
			_, err := src.Inventory(t.Context())
			if err == nil || !strings.Contains(err.Error(), "has not answered for 20s") {
				t.Fatalf("error is %v", err)
			}
			if waited := time.Since(start); waited != 20*time.Second {
				t.Fatalf("waited %s", waited)
			}
		}
		if n := h.calls.Load(); n != 1 {
			t.Errorf("%d calls pile up behind the one that hangs", n)
		}
		close(h.release)
		synctest.Wait()
		inv, err := src.Inventory(t.Context())
		if err != nil || len(inv.Boards) != 1 {
			t.Errorf("after the driver answers: %v, %v", inv, err)
		}
	})
}

func (h *hanging) Close() error {
	<-h.release
	return nil
}

func TestPatientDoesNotHangAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{})}
		start := time.Now()
		if err := (&patient{Source: h, limit: time.Hour}).Close(); err == nil {
			t.Error("no error")
		}
		if waited := time.Since(start); waited >= 2*time.Second {
			t.Errorf("closing took %s; an agent kills a plugin after two seconds", waited)
		}
		close(h.release)
	})
}

// panicking is a source whose Inventory panics.
type panicking struct{ gpu.Source }

func (panicking) Inventory(context.Context) (gpu.Inventory, error) { panic("boom") }

func TestPatientTurnsPanicIntoError(t *testing.T) {
	_, err := (&patient{Source: panicking{}, limit: time.Minute}).Inventory(t.Context())
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error is %v", err)
	}
}

// slow is a source that answers each Sample when it is let.
type slow struct {
	gpu.Source
	let   chan struct{}
	calls atomic.Int32
}

func (s *slow) Sample(_ context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	s.calls.Add(1)
	<-s.let
	of := map[gpu.ID]gpu.Sample{}
	for _, id := range ids {
		of[id] = gpu.Sample{}
	}
	return of, nil
}

// Who asks about other devices than somebody else at the same time gets those.
func TestPatientAnswersWhatWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{let: make(chan struct{})}
		src := &patient{Source: s, limit: time.Minute}
		ask := func(ids ...gpu.ID) {
			of, err := src.Sample(t.Context(), ids)
			if err != nil || len(of) != len(ids) {
				t.Errorf("asked for %v, got %v, %v", ids, of, err)
			}
			for _, id := range ids {
				if _, ok := of[id]; !ok {
					t.Errorf("asked for %v, got %v", ids, of)
				}
			}
		}
		go ask("GPU-0", "GPU-1")
		go ask("GPU-2")
		go ask("GPU-2")
		synctest.Wait()
		if n := s.calls.Load(); n != 1 {
			t.Errorf("%d calls at the same time", n)
		}
		close(s.let)
		synctest.Wait()
		if n := s.calls.Load(); n < 2 || n > 3 {
			t.Errorf("%d calls for two questions", n)
		}
	})
}
