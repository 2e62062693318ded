package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// observer looks at a machine's GPUs, remembers what it saw, and tells an
// operator once about everything that changed.
type observer struct {
	log    hclog.Logger
	src    gpu.Source
	policy gpu.Policy

	mu      sync.Mutex
	state   gpu.State
	looked  bool
	trouble string          // why the last look failed; "" if it did not
	warned  map[string]bool // entries of the filter that were reported
	lost    map[int]string  // boards that were reported as unidentified
}

func newObserver(log hclog.Logger, src gpu.Source, policy gpu.Policy) *observer {
	return &observer{log: log, src: src, policy: policy, warned: map[string]bool{}}
}

// look reads the machine and returns the groups to offer. The groups are right
// even with an error: what was seen before is in them, unhealthy.
func (o *observer) look(ctx context.Context) ([]device.Group, error) {
	inv, err := o.src.Inventory(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.state
	if err != nil {
		o.state = before.Failed(err.Error())
	} else {
		o.state = before.Next(inv)
		o.reportInventory(inv)
	}
	o.looked = true
	o.reportTrouble(err, len(o.state.Devices))
	o.reportHealth(before)
	return o.offerLocked().Groups(), err
}

// reserve answers from what was seen last, and looks again before it refuses:
// the plugin may have been started just now, or a GPU may have recovered.
func (o *observer) reserve(ctx context.Context, ids []gpu.ID) (*device.Reservation, error) {
	offer := o.offer()
	devices, err := offer.Select(ids)
	if err == nil {
		return offer.Reservation(devices), nil
	}
	if _, lookErr := o.look(ctx); lookErr != nil && errors.Is(err, gpu.ErrUnknownGPU) {
		return nil, fmt.Errorf("%w (%w)", err, lookErr)
	}
	offer = o.offer()
	if devices, err = offer.Select(ids); err != nil {
		return nil, err
	}
	return offer.Reservation(devices), nil
}

// stats reads the devices that are offered.
func (o *observer) stats(ctx context.Context) ([]device.GroupStats, error) {
	if !o.hasLooked() {
		if _, err := o.look(ctx); err != nil {
			return nil, err
		}
	}
	devices := o.offer().Devices
	var ids []gpu.ID
	for _, d := range devices {
		if !slices.Contains(ids, d.Hardware) {
			ids = append(ids, d.Hardware)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	samples, err := o.src.Sample(ctx, ids)
	if err != nil {
		return nil, err
	}
	return gpu.Stats(devices, samples), nil
}

func (o *observer) offer() gpu.Offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.offerLocked()
}

func (o *observer) offerLocked() gpu.Offer { return o.state.Offer(o.policy, gpu.Overlay{}) }

func (o *observer) hasLooked() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.looked
}

// reportTrouble logs when looking starts to fail, fails for another reason, or
// works again.
func (o *observer) reportTrouble(err error, known int) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == o.trouble {
		return
	}
	o.trouble = text
	switch {
	case err == nil:
		o.log.Info("GPUs can be read again", "devices", known)
	case errors.Is(err, gpu.ErrNoDriver) && known == 0:
		o.log.Info("offering no GPUs", "reason", text)
	default:
		o.log.Error("GPUs cannot be read; those seen before are unhealthy until it works again", "devices", known, "error", text)
	}
}

// reportInventory logs what an operator ought to know of a good reading.
func (o *observer) reportInventory(inv gpu.Inventory) {
	lost := make(map[int]string, len(inv.Lost))
	for _, l := range inv.Lost {
		lost[l.Index] = l.Reason
		if o.lost[l.Index] != l.Reason {
			o.log.Error("a GPU does not tell its ID", "index", l.Index, "reason", l.Reason)
		}
	}
	o.lost = lost
	for _, u := range o.policy.Filter.Unmatched(inv) {
		if o.warned[u.Option] {
			continue
		}
		o.warned[u.Option] = true
		args := []any{"option", u.Option, "entry", u.Entry}
		if u.Meant != "" {
			args = append(args, "meant", u.Meant)
		}
		o.log.Warn("an entry of a device filter matches no GPU of this node, so it does nothing", args...)
	}
}

// reportHealth logs each device that appeared, left, failed or recovered.
func (o *observer) reportHealth(before gpu.State) {
	was := make(map[gpu.ID]gpu.Device, len(before.Devices))
	for _, d := range before.Devices {
		was[d.ID] = d
	}
	for _, d := range o.state.Devices {
		old, known := was[d.ID]
		delete(was, d.ID)
		switch {
		case !d.Fault.OK() && old.Fault != d.Fault:
			o.log.Warn("GPU is unhealthy", "id", d.ID, "name", d.Name, "pci_bus_id", d.PCIBusID, "reason", d.Fault.Reason)
		case !known:
			o.log.Info("found GPU", "id", d.ID, "name", d.Name, "pci_bus_id", d.PCIBusID, "hidden", o.policy.Filter.Hides(d))
		case d.Fault.OK() && !old.Fault.OK():
			o.log.Info("GPU is healthy again", "id", d.ID, "name", d.Name)
		}
	}
	for id := range maps.Keys(was) {
		o.log.Info("GPU slice was removed", "id", id)
	}
}
