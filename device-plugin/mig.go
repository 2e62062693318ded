package main

import (
	"context"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig/holding"
	"github.com/drover-ml/drover/device-plugin/mig/reslice"
)

// newReconciler makes what brings boards to the MIG layouts that are wanted of
// them. The cordons of an earlier plugin are in force from here on.
func (n *node) newReconciler() (*reslice.Reconciler, *reslice.Dir, error) {
	dir, err := reslice.OpenDir(n.settings.stateDir)
	if err != nil {
		return nil, nil, err
	}
	r, err := reslice.New(reslice.Config{Controller: holding.Controller{Controller: n.machine.mig}, Store: dir, Logger: n.log.Named("mig")})
	if err != nil {
		return nil, nil, err
	}
	n.put("mig", gpu.Overlay{Faults: r.Faults()})
	return r, dir, nil
}

// resliceBoards is a part that does what `mig apply` asks for.
func (n *node) resliceBoards(ctx context.Context) error {
	r, dir, err := n.newReconciler()
	if err != nil {
		return err
	}
	release, err := dir.Acquire()
	if err != nil {
		return err
	}
	defer release()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	for {
		n.put("mig", gpu.Overlay{Faults: r.Faults()})
		phases := make(map[gpu.ID]string)
		for board, t := range r.State().Boards {
			phases[gpu.ID(board)] = string(t.Phase)
		}
		n.exporter.MIG(phases)
		select {
		case <-ctx.Done():
			<-done // a step that has begun is not cut short
			return nil
		case <-r.Changes():
			n.lookSoon()
		}
	}
}
