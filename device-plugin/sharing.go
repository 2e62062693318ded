package main

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/device-plugin/sharing/mps"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// shared is what sharing does to devices: faults where they cannot be shared
// as configured, and attributes of their replicas. The lock is held.
func (n *node) shared() gpu.Overlay {
	o := gpu.Overlay{Faults: map[gpu.ID]gpu.Fault{}, Attributes: map[gpu.ID]map[string]device.Attribute{}}
	var shares []sharing.Share
	for _, d := range n.state.Devices {
		s, ok := n.settings.sharing.Of(d)
		if !ok || n.settings.policy.Filter.Hides(d) != "" {
			continue
		}
		shares = append(shares, s)
		o.Faults[d.Hardware] = s.Fault()
		o.Attributes[d.Hardware] = s.Attributes(d)
	}
	if n.daemons != nil {
		n.daemons.Want(shares)
		for id, f := range n.daemons.Faults() {
			o.Faults[id] = gpu.Worst(o.Faults[id], f)
		}
	}
	return o
}

// addShares completes a reservation of replicas. It fails if a task cannot use
// them together, or if their limits do not hold.
func (n *node) addShares(ctx context.Context, r *device.Reservation, devices []gpu.Device) error {
	plan := n.settings.sharing
	if err := plan.Together(devices); err != nil {
		return err
	}
	for _, d := range devices {
		s, ok := plan.Of(d)
		if !ok {
			continue
		}
		var access sharing.Access
		if s.Mode == sharing.MPS && n.daemons != nil {
			var err error
			if access, err = n.daemons.Access(ctx, s); err != nil {
				return fmt.Errorf("reserving %s: %w", d.ID, err)
			}
		}
		s.Apply(r, access)
	}
	return nil
}

// newDaemons are the MPS daemons of the machine; a simulated one has none.
func (n *node) newDaemons() *mps.Daemons {
	if n.settings.machine != nil {
		return nil
	}
	return mps.New(mps.Config{Dir: filepath.Join(n.settings.stateDir, "mps"), Logger: n.log.Named("mps")})
}

// runDaemons is a part that keeps a daemon for each device that is shared by
// MPS. While it does not run, nobody gets replicas of those.
func (n *node) runDaemons(ctx context.Context) error {
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return n.daemons.Run(ctx) })
	parts.Go(func() error {
		for ctx.Err() == nil {
			changed := n.daemons.Changed()
			n.again()
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		return nil
	})
	err := parts.Wait()
	n.again()
	return err
}
