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
