package main

import (
	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// shared is what sharing does to devices: faults where they cannot be shared
// as configured, and attributes of their replicas.
func shared(plan sharing.Plan, devices []gpu.Device) gpu.Overlay {
	o := gpu.Overlay{Faults: map[gpu.ID]gpu.Fault{}, Attributes: map[gpu.ID]map[string]device.Attribute{}}
	for _, d := range devices {
		if s, ok := plan.Of(d); ok {
			o.Faults[d.Hardware] = s.Fault()
			o.Attributes[d.Hardware] = s.Attributes(d)
		}
	}
	return o
}

// addShares completes a reservation of replicas. It fails if a task cannot use
// them together.
func addShares(r *device.Reservation, plan sharing.Plan, devices []gpu.Device, access func(sharing.Share) sharing.Access) error {
	if err := plan.Together(devices); err != nil {
		return err
	}
	for _, d := range devices {
		if s, ok := plan.Of(d); ok {
			s.Apply(r, access(s))
		}
	}
	return nil
}
