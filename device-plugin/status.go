package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// statusFile is the name of the status file in the state folder.
const statusFile = "status.json"

func (n *node) statusPath() string { return filepath.Join(n.settings.stateDir, statusFile) }

// keepStatus is a part that writes the status file.
func (n *node) keepStatus(ctx context.Context) error {
	written, err := gpustatus.Read(n.statusPath())
	valid := err == nil
	return n.onChange(func(o gpu.Offer) error {
		status := statusOf(o, written, time.Now())
		if valid && equalFaults(status, written) {
			return nil
		}
		if err := gpustatus.Write(n.statusPath(), status); err != nil {
			return err
		}
		written, valid = status, true
		return nil
	})(ctx)
}

// statusOf lists the hardware on offer that has a fault. A fault that was
// there before has been there since then.
func statusOf(o gpu.Offer, before gpustatus.Status, now time.Time) gpustatus.Status {
	s := gpustatus.Status{Updated: now}
	for _, d := range o.Devices {
		if _, listed := s.Find(string(d.Hardware)); listed || d.Fault.OK() {
			continue
		}
		f := gpustatus.Device{ID: string(d.Hardware), Reason: d.Fault.Reason, Action: d.Fault.Action, Since: now}
		if was, ok := before.Find(f.ID); ok && was.Reason == f.Reason && was.Action == f.Action {
			f.Since = was.Since
		}
		s.Devices = append(s.Devices, f)
	}
	return s
}

func equalFaults(a, b gpustatus.Status) bool {
	if len(a.Devices) != len(b.Devices) {
		return false
	}
	for i, d := range a.Devices {
		other := b.Devices[i]
		if d.ID != other.ID || d.Reason != other.Reason || d.Action != other.Action || !d.Since.Equal(other.Since) {
			return false
		}
	}
	return true
}
