package gpu_test

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
	return healthy(1), nil
}

func TestPatientGivesUpAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{})}
		src := gpu.Patient(h, 20*time.Second)
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

// panicking is a source whose Inventory panics.
type panicking struct{ gpu.Source }

func (panicking) Inventory(context.Context) (gpu.Inventory, error) { panic("boom") }

func TestPatientTurnsPanicIntoError(t *testing.T) {
	_, err := gpu.Patient(panicking{}, time.Minute).Inventory(t.Context())
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error is %v", err)
	}
}
