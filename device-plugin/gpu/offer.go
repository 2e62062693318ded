package gpu

import (
	"fmt"
	"maps"
	"slices"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// Strategy is what an operator wants of MIG slices.
type Strategy string

// The strategies.
const (
	// Mixed offers slices of any profiles beside whole boards.
	Mixed Strategy = "mixed"
	// Single offers slices only if all boards are cut into slices of one
	// profile. Where they are not, the slices are unhealthy.
	Single Strategy = "single"
	// None offers whole boards only.
	None Strategy = "none"
)

// Policy is what an operator decided about the devices of a node. The zero
// Policy offers them all, as Mixed.
type Policy struct {
	Strategy Strategy
	Filter   Filter
	// Share is how a board or slice is shared; nil shares none. No replicas
	// means that it is for one task.
	Share func(Device) (mode string, replicas int)
}

// Overlay is what is known of a machine's devices beside its inventory.
type Overlay struct {
	// Faults by board or slice. A board's covers its slices.
	Faults map[ID]Fault
	// Attributes by board or slice. A board's hold for its slices.
	Attributes map[ID]map[string]device.Attribute
	// Describe are attributes of a group as a whole; nil has none.
	Describe func(members []Device) map[string]device.Attribute
}

// Offer is what a node offers Nomad at a moment, and what it keeps from it.
type Offer struct {
	// Devices are those on offer, in order.
	Devices []Device
	// hidden tells of each other device why it is not on offer.
	hidden  map[ID]string
	state   State
	overlay Overlay
}

// Offer applies a policy, and what else is known, to the devices.
func (s State) Offer(p Policy, overlay Overlay) Offer {
	o := Offer{hidden: make(map[ID]string), state: s, overlay: overlay}
	for _, d := range s.Devices {
		if d.Slice != nil {
			o.hidden[d.Parent] = "it is in MIG mode: its slices are offered instead"
		}
		// Of faults that are equally bad those tell most that were looked into.
		d.Fault = Worst(overlay.Faults[d.Hardware], overlay.Faults[d.Parent], d.Fault)
		why := p.Filter.Hides(d)
		if why == "" && p.Strategy == None && d.Slice != nil {
			why = "mig_strategy is none, so slices are not offered"
		}
		if why != "" {
			o.hidden[d.ID] = why
			continue
		}
		o.Devices = append(o.Devices, d)
	}
	if fault := p.violation(o.Devices); !fault.OK() {
		for i := range o.Devices {
			if d := &o.Devices[i]; d.Slice != nil {
				d.Fault = Worst(d.Fault, fault)
			}
		}
	}
	o.share(p)
	return o
}

// violation is how the devices are not as the strategy Single wants them.
func (p Policy) violation(devices []Device) Fault {
	if p.Strategy != Single {
		return Fault{}
	}
	first := slices.IndexFunc(devices, func(d Device) bool { return d.Slice != nil })
	if first < 0 {
		return Fault{}
	}
	for _, d := range devices {
		var reason string
		switch {
		case d.Slice == nil:
			reason = fmt.Sprintf("mig_strategy is single, and board %s is not in MIG mode", d.ID)
		case d.Profile != devices[first].Profile:
			reason = fmt.Sprintf("mig_strategy is single, and there are slices of %s and of %s", devices[first].Profile, d.Profile)
		default:
			continue
		}
		return Fault{Reason: reason + "; use one profile on all boards, or mig_strategy mixed", Action: gpustatus.Keep}
	}
	return Fault{}
}

// share puts replicas in the place of devices that are shared. They are of a
// type of their own, so that an ask for a GPU never gets a part of one.
func (o *Offer) share(p Policy) {
	if p.Share == nil {
		return
	}
	var devices []Device
	for _, d := range o.Devices {
		mode, n := p.Share(d)
		if n <= 0 {
			devices = append(devices, d)
			continue
		}
		o.hidden[d.ID] = fmt.Sprintf("it is shared: replicas %s to %s are offered instead", replicaID(d.ID, 0), replicaID(d.ID, n-1))
		for i := range n {
			r := d
			r.ID, r.Type, r.Sharing = replicaID(d.ID, i), SharedType, mode
			devices = append(devices, r)
		}
	}
	o.Devices = devices
}

func replicaID(id ID, n int) ID { return ID(fmt.Sprintf("%s::%d", id, n)) }

// Merge is everything that several overlays know. Of several faults of a
// device the worst counts, of attributes the last.
func Merge(overlays ...Overlay) Overlay {
	all := Overlay{Faults: make(map[ID]Fault), Attributes: make(map[ID]map[string]device.Attribute)}
	for _, o := range overlays {
		for id, f := range o.Faults {
			all.Faults[id] = Worst(all.Faults[id], f)
		}
		for id, attrs := range o.Attributes {
			if all.Attributes[id] == nil {
				all.Attributes[id] = make(map[string]device.Attribute)
			}
			maps.Copy(all.Attributes[id], attrs)
		}
		if o.Describe != nil {
			all.Describe = o.Describe
		}
	}
	return all
}

// Hidden tells why a device is not on offer; "" for one that is, or that is
// not known.
func (o Offer) Hidden(id ID) string { return o.hidden[id] }

// Find looks a device on offer up by its ID.
func (o Offer) Find(id ID) (Device, bool) { return find(o.Devices, id) }
