package main

import (
	"errors"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// reporter tells an operator once about everything that changed.
type reporter struct {
	log    hclog.Logger
	failed string          // why the last look failed; "" if it did not
	warned map[string]bool // what was told once
	lost   map[int]string  // boards that were told as unidentified
}

// trouble logs when looking starts to fail, fails for another reason, or
// works again.
func (r *reporter) trouble(err error, known int) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == r.failed {
		return
	}
	r.failed = text
	switch {
	case err == nil:
		r.log.Info("GPUs can be read again", "devices", known)
	case errors.Is(err, gpu.ErrNoDriver) && known == 0:
		r.log.Info("offering no GPUs", "reason", text)
	default:
		r.log.Error("GPUs cannot be read; those seen before are unhealthy until it works again", "devices", known, "error", text)
	}
}

// inventory logs what an operator ought to know of a good reading.
func (r *reporter) inventory(inv gpu.Inventory, filter gpu.Filter) {
	lost := make(map[int]string, len(inv.Lost))
	for _, l := range inv.Lost {
		lost[l.Index] = l.Reason
		if r.lost[l.Index] != l.Reason {
			r.log.Error("a GPU does not tell its ID", "index", l.Index, "reason", l.Reason)
		}
	}
	r.lost = lost
	for _, u := range filter.Unmatched(inv) {
		args := []any{"option", u.Option, "entry", u.Entry}
		if u.Meant != "" {
			args = append(args, "meant", u.Meant)
		}
		r.warnOnce(u.Option, "an entry of a device filter matches no GPU of this node, so it does nothing", args...)
	}
}

// sharing warns of sharing blocks that match no device.
func (r *reporter) sharing(unmatched []string) {
	for _, device := range unmatched {
		r.warnOnce("sharing "+device, "a sharing block matches no GPU of this node, so it does nothing", "device", device)
	}
}

func (r *reporter) warnOnce(about, message string, args ...any) {
	if r.warned == nil {
		r.warned = map[string]bool{}
	}
	if !r.warned[about] {
		r.warned[about] = true
		r.log.Warn(message, args...)
	}
}

// devices logs each device that appeared, left, failed or recovered. Devices
// that fail together are one line. What health found is left out, since that
// tells itself.
func (r *reporter) devices(before, after gpu.Offer, told map[gpu.ID]gpu.Fault) {
	was := make(map[gpu.ID]gpu.Device, len(before.Devices))
	for _, d := range before.Devices {
		was[d.ID] = d
	}
	var reasons []string
	failed := make(map[string][]gpu.ID)
	for _, d := range after.Devices {
		old, known := was[d.ID]
		delete(was, d.ID)
		switch {
		case !d.Fault.OK() && (d.Fault == told[d.Hardware] || d.Fault == told[d.Parent]):
		case !d.Fault.OK() && old.Fault != d.Fault:
			text := d.Fault.Describe()
			if failed[text] == nil {
				reasons = append(reasons, text)
			}
			failed[text] = append(failed[text], d.ID)
		case !known:
			r.log.Info("found GPU", "id", d.ID, "name", d.Name, "pci_bus_id", d.PCIBusID)
		case d.Fault.OK() && !old.Fault.OK():
			r.log.Info("GPU is healthy again", "id", d.ID, "name", d.Name)
		}
	}
	for _, text := range reasons {
		r.log.Warn("GPU is unhealthy", "ids", failed[text], "reason", text)
	}
	for id := range was {
		if why := after.Hidden(id); why != "" {
			r.log.Info("GPU is no longer offered", "id", id, "reason", why)
		} else {
			r.log.Info("GPU slice was removed", "id", id)
		}
	}
}
