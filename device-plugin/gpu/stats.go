package gpu

import (
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/nomadplugin/device"
)

// Readings are the latest ones of a machine's devices. Those that are missing
// are missing in the statistics.
type Readings struct {
	Samples map[ID]Sample // by board or slice
	Vitals  map[ID]Vitals // by board
	// Processes by the board or slice that they are on; nil is not known.
	Processes []Process
}

// notAvailable is what a reading that is missing shows as.
const notAvailable = "N/A"

// Stats are the statistics of a set of devices, by group. Devices without a
// sample are left out, and so are groups without any.
//
// The statistics of HashiCorp's plugin are always there, under its names;
// those of them that are missing are "N/A". What this plugin tells beyond them
// is in groups of its own, and missing where it is missing.
func Stats(devices []Device, r Readings) []device.GroupStats {
	var groups []device.GroupStats
	type key struct{ kind, name string }
	position := make(map[key]int)
	for _, d := range devices {
		sample, ok := r.Samples[d.Hardware]
		if !ok {
			continue
		}
		k := key{d.Type, d.Name}
		i, ok := position[k]
		if !ok {
			i = len(groups)
			position[k] = i
			groups = append(groups, device.GroupStats{
				Vendor: Vendor, Type: d.Type, Name: d.Name, Instances: map[string]device.InstanceStats{},
			})
		}
		stats := instanceStats(d, sample)
		stats.Nested = r.details(d, sample)
		groups[i].Instances[string(d.ID)] = stats
	}
	return groups
}

func instanceStats(d Device, s Sample) device.InstanceStats {
	memory := share(s.MemoryUsedMiB, s.MemoryTotalMiB, "MiB", "Memory in use / total")
	return device.InstanceStats{
		Time:    s.Time,
		Summary: &memory,
		Stats: map[string]device.Stat{
			"Power usage":         share(s.PowerW, d.Specs.PowerW, "W", "Power drawn by the board / power limit"),
			"GPU utilization":     count(s.GPUPercent, "%", "Share of the last sample period during which a kernel ran"),
			"Memory utilization":  count(s.MemoryPercent, "%", "Share of the last sample period during which memory was read or written"),
			"Encoder utilization": count(s.EncoderPercent, "%", "Share of the last sample period during which the video encoder ran"),
			"Decoder utilization": count(s.DecoderPercent, "%", "Share of the last sample period during which the video decoder ran"),
			"Temperature":         count(s.TemperatureC, "C", "Temperature of the GPU"),
			"Memory state":        memory,
			"BAR1 buffer state":   share(s.BAR1UsedMiB, s.BAR1TotalMiB, "MiB", "BAR1 memory in use / total"),
			"ECC L1 errors":       count(s.ECCL1, "#", "Corrected errors of the L1 cache since the driver was loaded"),
			"ECC L2 errors":       count(s.ECCL2, "#", "Corrected errors of the L2 cache since the driver was loaded"),
			"ECC memory errors":   count(s.ECCMemory, "#", "Corrected errors of the device memory since the driver was loaded"),
		},
	}
}

func count(v *int64, unit, description string) device.Stat {
	if v == nil {
		na := notAvailable
		return device.Stat{String: &na, Unit: unit, Description: description}
	}
	return device.Stat{Int: v, Unit: unit, Description: description}
}

// share is a used amount of a total. Without the used amount there is
// nothing; without the total the used amount still says something.
func share(used, total *int64, unit, description string) device.Stat {
	stat := count(used, unit, description)
	if used != nil {
		stat.IntDenominator = total
	}
	return stat
}

// details collects the statistics that are only there if they are known.
type details map[string]map[string]device.Stat

func (n details) put(group, name string, s device.Stat) {
	if n[group] == nil {
		n[group] = make(map[string]device.Stat)
	}
	n[group][name] = s
}

func (n details) amount(group, name string, v *int64, unit, description string) {
	n.of(group, name, v, nil, unit, description)
}

func (n details) of(group, name string, v, total *int64, unit, description string) {
	if v != nil {
		n.put(group, name, share(v, total, unit, description))
	}
}

func (n details) percent(group, name string, v *float64, description string) {
	if v != nil {
		p := *v * 100
		n.put(group, name, device.Stat{Float: &p, Unit: "%", Description: description})
	}
}

func (n details) text(group, name, v, description string) {
	n.put(group, name, device.Stat{String: &v, Description: description})
}

func (n details) flag(group, name string, v bool, description string) {
	n.put(group, name, device.Stat{Bool: &v, Description: description})
}

func (r Readings) details(d Device, s Sample) map[string]map[string]device.Stat {
	n := make(details)
	n.clocks(d, s)
	n.profiling(s.Profiling)
	n.amount("Thermal", "Memory temperature", s.MemoryTemperatureC, "C", "Temperature of the memory")
	n.amount("Thermal", "Fan speed", s.FanPercent, "%", "Speed of the fan")
	n.amount("PCIe", "Sent", s.PCIeTxKBps, "KB/s", "Rate of data sent")
	n.amount("PCIe", "Received", s.PCIeRxKBps, "KB/s", "Rate of data received")
	if r.Processes != nil {
		on := int64(0)
		for _, p := range r.Processes {
			if p.Device == d.Hardware {
				on++
			}
		}
		n.amount("Processes", "Running", &on, "#", "Processes that have the device open, of whatever task")
	}
	v, ok := r.Vitals[d.Parent]
	if d.Slice != nil {
		// A slice has no power or heat of its own.
		if b, sampled := r.Samples[d.Parent]; sampled {
			n.of("Board", "Power usage", b.PowerW, d.Board.Specs.PowerW, "W", "Power drawn by the whole board / power limit")
			n.amount("Board", "Temperature", b.TemperatureC, "C", "Temperature of the board")
		}
		if ok {
			n.throttle("Board", v.Throttle)
		}
	} else if ok {
		n.vitals(v)
	}
	if len(n) == 0 {
		return nil
	}
	return n
}

func (n details) clocks(d Device, s Sample) {
	n.of("Clocks", "SM clock", s.SMClockMHz, d.Specs.CoresClockMHz, "MHz", "Clock of the multiprocessors / highest")
	n.of("Clocks", "Memory clock", s.MemoryClockMHz, d.Specs.MemoryClockMHz, "MHz", "Clock of the memory / highest")
	n.amount("Clocks", "Video clock", s.VideoClockMHz, "MHz", "Clock of the video encoder and decoder")
	n.amount("Clocks", "Performance state", s.PerformanceState, "", "0 is the fastest")
}

func (n details) profiling(p *Profiling) {
	if p == nil {
		return
	}
	n.percent("Profiling", "SM active", p.SMActive, "Share of cycles in which a multiprocessor had a warp")
	n.percent("Profiling", "SM occupancy", p.SMOccupancy, "Share of the warps that fit on the multiprocessors")
	n.percent("Profiling", "Tensor active", p.TensorActive, "Share of cycles in which the tensor cores were active")
	n.percent("Profiling", "Memory active", p.DRAMActive, "Share of cycles in which the memory sent or received")
}

func (n details) throttle(group string, reasons []ThrottleReason) {
	if reasons == nil {
		return // not read
	}
	names := make([]string, 0, len(reasons))
	for _, r := range reasons {
		names = append(names, string(r))
	}
	slices.Sort(names)
	text := strings.Join(names, ", ")
	if text == "" {
		text = "none"
	}
	n.text(group, "Throttle reasons", text, "Why clocks are held down at present")
}

// vitals are of whole boards.
func (n details) vitals(v Vitals) {
	n.throttle("Clocks", v.Throttle)
	n.seconds("Clocks", "Held down by power", v.PowerViolation)
	n.seconds("Clocks", "Held down by heat", v.ThermalViolation)
	n.amount("Thermal", "Slowdown temperature", v.SlowdownTemperatureC, "C", "At which the hardware slows down")
	n.amount("Thermal", "Shutdown temperature", v.ShutdownTemperatureC, "C", "At which the hardware switches off")
	if e := v.ECC; e != nil {
		n.amount("ECC", "Corrected", e.VolatileCorrected, "#", "Corrected errors since the driver was loaded")
		n.amount("ECC", "Uncorrected", e.VolatileUncorrected, "#", "Uncorrected errors since the driver was loaded")
		n.amount("ECC", "Corrected, lifetime", e.AggregateCorrected, "#", "Corrected errors since the board was made")
		n.amount("ECC", "Uncorrected, lifetime", e.AggregateUncorrected, "#", "Uncorrected errors since the board was made")
		n.amount("ECC", "Uncorrected, on chip", e.SRAMUncorrected, "#", "Uncorrected errors of caches and registers since the driver was loaded")
		n.amount("ECC", "Uncorrected, memory", e.DRAMUncorrected, "#", "Uncorrected errors of the device memory since the driver was loaded")
	}
	if rows := v.RemappedRows; rows != nil {
		n.amount("Remapped rows", "For corrected errors", &rows.Corrected, "#", "Rows of memory replaced by spare ones")
		n.amount("Remapped rows", "For uncorrected errors", &rows.Uncorrected, "#", "Rows of memory replaced by spare ones")
		n.flag("Remapped rows", "Pending", rows.Pending, "A row is replaced at the next reset")
		n.flag("Remapped rows", "Failed", rows.Failed, "There was no spare row left")
	}
	if pages := v.RetiredPages; pages != nil {
		n.amount("Retired pages", "For corrected errors", &pages.SingleBit, "#", "Pages of memory no longer used")
		n.amount("Retired pages", "For uncorrected errors", &pages.DoubleBit, "#", "Pages of memory no longer used")
		n.flag("Retired pages", "Pending", pages.Pending, "A page is retired at the next reset")
	}
	if p := v.PCIe; p != nil {
		n.of("PCIe", "Generation", p.Generation, p.MaxGeneration, "", "Generation of the link / highest that board and slot can have")
		n.of("PCIe", "Width", p.Width, p.MaxWidth, "lanes", "Lanes of the link / most that board and slot can have")
		n.amount("PCIe", "Replays", p.Replays, "#", "Packets sent again since the driver was loaded")
	}
	n.nvlinks(v.NVLinks)
}

func (n details) seconds(group, name string, d *time.Duration) {
	if d != nil {
		seconds := d.Seconds()
		n.put(group, name, device.Stat{Float: &seconds, Unit: "s", Description: "Time since the driver was loaded"})
	}
}

func (n details) nvlinks(links []NVLink) {
	if len(links) == 0 {
		return
	}
	all, active := int64(len(links)), int64(0)
	for _, l := range links {
		if l.Active {
			active++
		}
	}
	n.of("NVLink", "Links", &active, &all, "#", "Links that are up / that there are")
	n.amount("NVLink", "CRC errors", sum(links, func(l NVLink) *int64 { return l.CRCErrors }), "#", "Of all links, since the driver was loaded")
	n.amount("NVLink", "Replays", sum(links, func(l NVLink) *int64 { return l.ReplayErrors }), "#", "Of all links, since the driver was loaded")
	n.amount("NVLink", "Recoveries", sum(links, func(l NVLink) *int64 { return l.RecoveryErrors }), "#", "Of all links, since the driver was loaded")
	n.amount("NVLink", "Sent", sum(links, func(l NVLink) *int64 { return l.TransmittedKiB }), "KiB", "Over all links, since the driver was loaded")
	n.amount("NVLink", "Received", sum(links, func(l NVLink) *int64 { return l.ReceivedKiB }), "KiB", "Over all links, since the driver was loaded")
}

// sum is that of all links; nil unless all tell.
func sum(links []NVLink, get func(NVLink) *int64) *int64 {
	total := int64(0)
	for _, l := range links {
		v := get(l)
		if v == nil {
			return nil
		}
		total += *v
	}
	return &total
}
