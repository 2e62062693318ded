package gpu

import (
	"maps"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// The first two parts of every group's name in job files: device "nvidia/gpu".
const (
	Vendor = "nvidia"
	// Type is of boards and slices that one task has for itself.
	Type = "gpu"
	// SharedType is of replicas.
	SharedType = "gpu.shared"
)

// Groups are the device groups of an offer, in the order of their first
// devices.
//
// Nomad keys its bookkeeping on vendor/type/name, so two groups of one name
// would overwrite each other on the server. Devices of one name are therefore
// always in one group; see merge for what it says where they differ.
func (o Offer) Groups() []device.Group {
	type key struct{ kind, name string }
	var keys []key
	members := make(map[key][]Device)
	for _, d := range o.Devices {
		k := key{d.Type, d.Name}
		if _, ok := members[k]; !ok {
			keys = append(keys, k)
		}
		members[k] = append(members[k], d)
	}
	groups := make([]device.Group, 0, len(keys))
	for _, k := range keys {
		g := device.Group{Vendor: Vendor, Type: k.kind, Name: k.name, Attributes: o.attributes(members[k])}
		for _, d := range members[k] {
			g.Devices = append(g.Devices, device.Device{
				ID: string(d.ID), Healthy: d.Fault.OK(), HealthDescription: d.Fault.Describe(), PCIBusID: d.PCIBusID,
			})
		}
		groups = append(groups, g)
	}
	return groups
}

// attributes are those of a group.
func (o Offer) attributes(members []Device) map[string]device.Attribute {
	each := make([]map[string]device.Attribute, len(members))
	for i, d := range members {
		each[i] = d.attributes()
		maps.Copy(each[i], o.overlay.Attributes[d.Parent])
		maps.Copy(each[i], o.overlay.Attributes[d.Hardware])
	}
	attrs := merge(each)
	maps.Copy(attrs, o.state.facts(members))
	if o.overlay.Describe != nil {
		maps.Copy(attrs, o.overlay.Describe(members))
	}
	return attrs
}

// names are the numbers that tell which one, not how much.
var names = map[string]bool{
	"numa_node": true, "nvlink_island": true, "slice_start": true, "slice_size": true,
	"gpu_instance": true, "compute_instance": true,
}

// merge is what every member of a group can stand up to: where amounts differ
// (a lowered power limit, say) the least, and anything else only where all
// agree. What no member tells, or only some do, is left out.
func merge(each []map[string]device.Attribute) map[string]device.Attribute {
	attrs := make(map[string]device.Attribute)
	for key, first := range each[0] {
		common, all := first, true
		for _, other := range each[1:] {
			a, ok := other[key]
			switch {
			case !ok:
				all = false
			case a == common:
			case names[key]:
				all = false
			default:
				var comparable bool
				common, comparable = least(common, a)
				all = all && comparable
			}
		}
		if all {
			attrs[key] = common
		}
	}
	return attrs
}

// least is the smaller of two amounts of one unit.
func least(a, b device.Attribute) (device.Attribute, bool) {
	switch v := a.Value.(type) {
	case int64:
		w, ok := b.Value.(int64)
		if ok && w < v {
			a = b
		}
		return a, ok && a.Unit == b.Unit
	case float64:
		w, ok := b.Value.(float64)
		if ok && w < v {
			a = b
		}
		return a, ok && a.Unit == b.Unit
	}
	return a, false
}

// attributes are what one device tells of itself.
func (d Device) attributes() map[string]device.Attribute {
	attrs := make(map[string]device.Attribute)
	amount := func(key, unit string, v *int64) {
		if v != nil {
			attrs[key] = base.Int(*v, unit)
		}
	}
	number := func(key string, v *int) {
		if v != nil {
			attrs[key] = base.Int(int64(*v), "")
		}
	}
	text := func(key, v string) {
		if v != "" {
			attrs[key] = base.String(v)
		}
	}
	s := d.Specs
	amount("memory", "MiB", s.MemoryMiB)
	amount("power", "W", s.PowerW)
	amount("bar1", "MiB", s.BAR1MiB)
	amount("cores_clock", "MHz", s.CoresClockMHz)
	amount("memory_clock", "MHz", s.MemoryClockMHz)
	amount("pci_bandwidth", "MB/s", s.PCIBandwidthMBps)
	amount("cores", "", s.Cores)
	amount("multiprocessors", "", s.Multiprocessors)
	amount("nvlinks", "", s.NVLinks)
	amount("nvlink_bandwidth", "MB/s", s.NVLinkMBps)
	text("display_state", s.DisplayState)
	text("persistence_mode", s.PersistenceMode)
	text("compute_mode", s.ComputeMode)
	text("architecture", s.Architecture)
	if s.ComputeCapability != nil {
		attrs["compute_capability"] = base.Float(*s.ComputeCapability, "")
	}
	text("pci_bus_id", d.PCIBusID)
	text("pci_device_id", d.Board.PCIDeviceID)
	text("serial", d.Board.Serial)
	number("numa_node", d.Board.NUMANode)
	text("cpus", d.Board.CPUs)
	text("sharing", d.Sharing)
	if d.Slice != nil {
		text("mig_profile", d.Profile)
		text("mig_parent", string(d.Parent))
		number("slice_start", d.Slice.Start)
		number("slice_size", d.Slice.Size)
		number("gpu_instance", d.Slice.GPUInstance)
		number("compute_instance", d.Slice.ComputeInstance)
	}
	return attrs
}
