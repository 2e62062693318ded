package gpu

import (
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// Vendor and Type are the first two parts of every group's name in job files:
// device "nvidia/gpu".
const (
	Vendor = "nvidia"
	Type   = "gpu"
)

// Groups are the device groups to offer, one for each name of a device that is
// not ignored, in the order of their first devices.
//
// Nomad keys its bookkeeping on vendor/type/name, so two groups of one name
// would overwrite each other on the server. Devices of one name are therefore
// always in one group; see attributes for what it says where they differ.
func (s State) Groups(ignored IgnoreList) []device.Group {
	var names []string
	members := make(map[string][]Device)
	for _, d := range ignored.Visible(s.Devices) {
		if _, ok := members[d.Name]; !ok {
			names = append(names, d.Name)
		}
		members[d.Name] = append(members[d.Name], d)
	}
	groups := make([]device.Group, 0, len(names))
	for _, name := range names {
		g := device.Group{Vendor: Vendor, Type: Type, Name: name, Attributes: attributes(members[name])}
		if s.DriverVersion != "" {
			g.Attributes["driver_version"] = base.String(s.DriverVersion)
		}
		if s.CUDAVersion != "" {
			g.Attributes["cuda_version"] = base.String(s.CUDAVersion)
		}
		for _, d := range members[name] {
			g.Devices = append(g.Devices, device.Device{
				ID: string(d.ID), Healthy: d.Fault == "", HealthDescription: d.Fault, PCIBusID: d.PCIBusID,
			})
		}
		groups = append(groups, g)
	}
	return groups
}

// attributes are what every device of a group can stand up to: where amounts
// differ (a lowered power limit, say) the smallest, and text only where all
// agree. What no device tells, or only some do, is left out.
func attributes(devices []Device) map[string]device.Attribute {
	attrs := make(map[string]device.Attribute)
	amount := func(key, unit string, of func(Specs) *int64) {
		var least *int64
		for _, d := range devices {
			v := of(d.Specs)
			if v == nil {
				return
			}
			if least == nil || *v < *least {
				least = v
			}
		}
		attrs[key] = base.Int(*least, unit)
	}
	text := func(key string, of func(Device) string) {
		v := of(devices[0])
		for _, d := range devices {
			if of(d) != v {
				return
			}
		}
		if v != "" {
			attrs[key] = base.String(v)
		}
	}
	amount("memory", "MiB", func(s Specs) *int64 { return s.MemoryMiB })
	amount("power", "W", func(s Specs) *int64 { return s.PowerW })
	amount("bar1", "MiB", func(s Specs) *int64 { return s.BAR1MiB })
	amount("cores_clock", "MHz", func(s Specs) *int64 { return s.CoresClockMHz })
	amount("memory_clock", "MHz", func(s Specs) *int64 { return s.MemoryClockMHz })
	amount("pci_bandwidth", "MB/s", func(s Specs) *int64 { return s.PCIBandwidthMBps })
	text("display_state", func(d Device) string { return d.Specs.DisplayState })
	text("persistence_mode", func(d Device) string { return d.Specs.PersistenceMode })
	text("architecture", func(d Device) string { return d.Specs.Architecture })
	text("mig_profile", func(d Device) string { return d.Profile })
	if c, ok := computeCapability(devices); ok {
		attrs["compute_capability"] = base.Float(c, "")
	}
	return attrs
}

func computeCapability(devices []Device) (float64, bool) {
	least := devices[0].Specs.ComputeCapability
	for _, d := range devices {
		c := d.Specs.ComputeCapability
		if c == nil {
			return 0, false
		}
		if *c < *least {
			least = c
		}
	}
	return *least, true
}
