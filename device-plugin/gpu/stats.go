package gpu

import "github.com/drover-ml/drover/nomadplugin/device"

// notAvailable is what a reading that is missing shows as.
const notAvailable = "N/A"

// Stats are the statistics of a set of devices, by group, from samples of
// their hardware. Devices without a sample are left out, and so are groups
// without any.
func Stats(devices []Device, samples map[ID]Sample) []device.GroupStats {
	var groups []device.GroupStats
	type key struct{ kind, name string }
	position := make(map[key]int)
	for _, d := range devices {
		sample, ok := samples[d.Hardware]
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
		groups[i].Instances[string(d.ID)] = instanceStats(d, sample)
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
