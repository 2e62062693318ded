// Package gpustatus is what the GPU device plugin tells the others of the
// health of a node's GPUs, beyond what Nomad's device protocol carries.
//
// Two ways lead there. On the node, the plugin keeps a file, whose path each
// task finds in the variable DROVER_GPU_STATUS of its reservation: the driver
// watches it and ends a task whose GPU is gone. Across the cluster, the health
// description that Nomad shows ends with what becomes of the work that runs on
// the device: the orchestrator reads it from there.
package gpustatus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Environment variables of a reservation.
const (
	// Variable has the status file's path.
	Variable = "DROVER_GPU_STATUS"
	// NodesVariable lists the device files that belong to the reservation,
	// separated by commas. Nomad's protocol has them too, but gives them to
	// the driver only once: not again when a task is restarted.
	NodesVariable = "DROVER_GPU_NODES"
)

// Action is what becomes of the work that runs on a device with a fault.
type Action string

// The actions, from mild to severe.
const (
	Keep Action = "keep" // it may go on, and finish
	Move Action = "move" // it should checkpoint and go elsewhere
	End  Action = "end"  // it cannot go on
)

// endings are what a health description ends with, for each action.
var endings = map[Action]string{
	Keep: "; running work may finish",
	Move: "; running work moves away",
	End:  "; running work is ended",
}

// Describe is the health description of a device.
func Describe(reason string, a Action) string { return reason + endings[a] }

// ParseDescription takes a health description apart. The description of a
// plugin that does not say what becomes of running work means Move: the device
// is unhealthy, and nothing says that it is safe to stay.
func ParseDescription(description string) (reason string, a Action) {
	for a, ending := range endings {
		if reason, ok := strings.CutSuffix(description, ending); ok {
			return reason, a
		}
	}
	return description, Move
}

// taskError is how the error of a task begins that lost its GPU.
const taskError = "GPU failed: "

// TaskError is the error of a task that was ended because of its GPU.
func TaskError(d Device) error { return fmt.Errorf("%s%s: %s", taskError, d.ID, d.Reason) }

// IsTaskError reports whether a task's error, as Nomad shows it, is one of
// TaskError's.
func IsTaskError(text string) bool { return strings.Contains(text, taskError) }

// ParseTaskError takes apart a task's error, as Nomad shows it, if it is one of
// TaskError's.
func ParseTaskError(text string) (device, reason string, ok bool) {
	_, text, ok = strings.Cut(text, taskError)
	if !ok {
		return "", "", false
	}
	device, reason, ok = strings.Cut(text, ": ")
	return device, reason, ok
}

// Status is the content of the file: the devices that have a fault.
//
//	{"version":1,"updated":"2026-01-02T15:04:05Z","devices":[
//	  {"id":"GPU-...","reason":"Xid 79: GPU has fallen off the bus","action":"end","since":"..."}]}
type Status struct {
	Version int       `json:"version"`
	Updated time.Time `json:"updated"`
	Devices []Device  `json:"devices"`
}

// Device is a device with a fault. A board's fault is listed for each of its
// slices too, so a reader need not know which board a slice is of.
type Device struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	Action Action    `json:"action"`
	Since  time.Time `json:"since"`
}

const (
	version  = 1
	maxBytes = 4 << 20
)

// Find is the entry of a device.
func (s Status) Find(id string) (Device, bool) {
	for _, d := range s.Devices {
		if d.ID == id {
			return d, true
		}
	}
	return Device{}, false
}

// Write replaces the file in one step. Readers see the old content or the new.
func Write(path string, s Status) error {
	s.Version = version
	if s.Devices == nil {
		s.Devices = []Device{}
	}
	content, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing GPU status: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".status-*")
	if err != nil {
		return fmt.Errorf("writing GPU status: %w", err)
	}
	_, err = f.Write(append(content, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing GPU status: %w", err)
	}
	return nil
}

// Read reads the file. A file that is not there is an error of kind
// fs.ErrNotExist.
func Read(path string) (Status, error) {
	f, err := os.Open(path)
	if err != nil {
		return Status{}, fmt.Errorf("reading GPU status: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return Status{}, fmt.Errorf("reading GPU status: %w", err)
	}
	if len(content) > maxBytes {
		return Status{}, fmt.Errorf("reading GPU status: %s is larger than %d bytes", path, maxBytes)
	}
	var s Status
	if err := json.Unmarshal(content, &s); err != nil {
		return Status{}, fmt.Errorf("reading GPU status %s: %w", path, err)
	}
	if s.Version != version {
		return Status{}, fmt.Errorf("reading GPU status %s: version %d is not %d; driver and device plugin are of different releases", path, s.Version, version)
	}
	return s, nil
}
