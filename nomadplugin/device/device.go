// Package device is Nomad's device plugin protocol, both sides: implement
// Plugin and call Serve in a plugin; use host.Launch to drive one.
package device

import (
	"context"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
)

// Plugin is a Nomad device plugin.
//
// The SDK keeps the streams in the shape that an agent needs: when
// Fingerprint or Stats returns early (even with an error) the stream stays
// open until the agent ends it, since an agent takes an ended fingerprint
// stream as "this plugin has no devices, for good". Panics become logged
// errors. Groups with invalid attributes are refused by publish, instead of
// ending the plugin's session.
type Plugin interface {
	base.Plugin

	// Fingerprint calls publish with the whole set of groups, at once (an
	// empty set if need be; the agent's start waits for it) and on every
	// change, until ctx ends. Each call replaces the set before it.
	Fingerprint(ctx context.Context, publish func([]Group) error) error

	// Reserve returns what a task needs to use the given instances, which are
	// of one group and in no particular order. It may be the first call after
	// a start. There is no release: hold no state.
	Reserve(ctx context.Context, ids []string) (*Reservation, error)

	// Stats calls publish every interval until ctx ends. It must not depend
	// on Fingerprint having run.
	Stats(ctx context.Context, interval time.Duration, publish func([]GroupStats) error) error
}

// Group is a set of like devices, known to jobs as vendor/type/name.
type Group struct {
	Vendor, Type, Name string
	Devices            []Device
	Attributes         map[string]Attribute
}

// Device is one instance: the unit that Nomad allocates to one task.
type Device struct {
	ID                string
	Healthy           bool
	HealthDescription string
	PCIBusID          string // locality; "" if unknown
}

// Reservation is what a task gets of its devices.
type Reservation struct {
	Env     map[string]string
	Mounts  []Mount
	Devices []Node
}

// Mount binds a host path into a task.
type Mount struct {
	TaskPath, HostPath string
	ReadOnly           bool
}

// Node is a device file. Permissions is a subset of "rwm".
type Node struct {
	TaskPath, HostPath, Permissions string
}

// GroupStats is one reading of a group's instances, by device ID.
type GroupStats struct {
	Vendor, Type, Name string
	Instances          map[string]InstanceStats
}

// InstanceStats is one reading of one device. Time must be set.
type InstanceStats struct {
	Summary *Stat
	Stats   map[string]Stat
	Nested  map[string]map[string]Stat
	Time    time.Time
}

// Stat is one value; exactly one of the value pairs is set. With a
// denominator Nomad prints "num / den unit". A value that could not be read is
// left out or given as a String, never as zero.
type Stat struct {
	Int, IntDenominator     *int64
	Float, FloatDenominator *float64
	String                  *string
	Bool                    *bool
	Unit, Description       string
}
