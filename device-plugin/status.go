package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func (n *node) statusPath() string { return filepath.Join(n.settings.stateDir, "status.json") }

// keepStatus writes the status file whenever the offer changes. It ends with
// an error when it cannot, to be started again.
func (n *node) keepStatus(ctx context.Context) error {
	written, err := gpustatus.Read(n.statusPath())
	for first := true; ; first = false {
		offer, _, changed := n.current()
		status := statusOf(offer, written, time.Now())
		if first && err != nil || !equalFaults(status, written) {
			if err := gpustatus.Write(n.statusPath(), status); err != nil {
				return err
			}
			written = status
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
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
