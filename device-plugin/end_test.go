package main

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// replaced is a source whose library was replaced under the process.
type replaced struct{ gpu.Source }

func (replaced) Inventory(context.Context) (gpu.Inventory, error) {
	return gpu.Inventory{}, fmt.Errorf("initialising NVML: %w", gpu.ErrRestart)
}

func (replaced) Changes() <-chan struct{} { return nil }

// A process that cannot read the GPUs any more, but a new one could, ends; but
// not at once, since an agent starts it again without a pause.
func TestEndsForANewProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := defaultConfig().check()
		if err != nil {
			t.Fatal(err)
		}
		n, err := newNode(hclog.NewNullLogger(), replaced{}, s)
		if err != nil {
			t.Fatal(err)
		}
		ended := 0
		n.end = func() { ended++ }
		if err := n.look(t.Context()); err == nil || ended != 0 {
			t.Errorf("a young process: %v, ended %d times", err, ended)
		}
		time.Sleep(endAfter) // of the bubble's time
		if err := n.look(t.Context()); err == nil || ended != 1 {
			t.Errorf("an old process: %v, ended %d times", err, ended)
		}
	})
}
