package nvml

import (
	"context"
	"strings"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Sample reads devices by their IDs: indexes change when a board leaves, and
// differ from minor numbers.
func (s *Source) Sample(_ context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	samples := make(map[gpu.ID]gpu.Sample, len(ids))
	err := s.use("reading GPU statistics", func() error {
		for _, id := range ids {
			s.withDevice(id, func(r *reader, d lib.Device) {
				var sample gpu.Sample
				if isSlice(id) {
					sample = r.sampleSlice(d, id)
				} else {
					sample = r.sampleBoard(d, id)
				}
				if r.fatal == lib.SUCCESS {
					samples[id] = sample
				}
			})
		}
		return nil
	})
	return samples, err
}

// withDevice finds a board or slice; nothing is done if there is none.
func (s *Source) withDevice(id gpu.ID, read func(*reader, lib.Device)) {
	if !s.has("nvmlDeviceGetHandleByUUID") {
		return
	}
	if d, ret := s.lib.DeviceGetHandleByUUID(string(id)); ret == lib.SUCCESS {
		read(&reader{Source: s}, d)
	}
}

func isSlice(id gpu.ID) bool { return strings.HasPrefix(string(id), "MIG-") }

func (r *reader) sampleBoard(d lib.Device, id gpu.ID) gpu.Sample {
	s := gpu.Sample{Time: time.Now()}
	s.PowerW = watts(read(r, d.GetPowerUsage, "nvmlDeviceGetPowerUsage"))
	if u := read(r, d.GetUtilizationRates, "nvmlDeviceGetUtilizationRates"); u != nil {
		s.GPUPercent, s.MemoryPercent = number(&u.Gpu), number(&u.Memory)
	}
	video := func(get func() (uint32, uint32, lib.Return), symbol string) *int64 {
		return number(read(r, func() (uint32, lib.Return) {
			percent, _, ret := get()
			return percent, ret
		}, symbol))
	}
	s.EncoderPercent = video(d.GetEncoderUtilization, "nvmlDeviceGetEncoderUtilization")
	s.DecoderPercent = video(d.GetDecoderUtilization, "nvmlDeviceGetDecoderUtilization")
	s.TemperatureC = r.temperature(d)
	s.MemoryUsedMiB, s.MemoryTotalMiB, s.MemoryReservedMiB = r.memory(d)
	s.BAR1UsedMiB, s.BAR1TotalMiB = r.bar1(d)
	errors := func(where lib.MemoryLocation) *int64 {
		return r.memoryErrors(d, lib.MEMORY_ERROR_TYPE_CORRECTED, where)
	}
	s.ECCL1 = errors(lib.MEMORY_LOCATION_L1_CACHE)
	s.ECCL2 = errors(lib.MEMORY_LOCATION_L2_CACHE)
	s.ECCMemory = errors(lib.MEMORY_LOCATION_DEVICE_MEMORY)

	clock := func(kind lib.ClockType) *int64 {
		return number(read(r, func() (uint32, lib.Return) { return d.GetClockInfo(kind) }, "nvmlDeviceGetClockInfo"))
	}
	s.SMClockMHz = clock(lib.CLOCK_SM)
	s.MemoryClockMHz = clock(lib.CLOCK_MEM)
	s.VideoClockMHz = clock(lib.CLOCK_VIDEO)
	s.FanPercent = number(read(r, d.GetFanSpeed, "nvmlDeviceGetFanSpeed"))
	s.EnergyMJ = r.energyMJ(d)
	if p := read(r, d.GetPerformanceState, "nvmlDeviceGetPerformanceState"); p != nil && *p >= 0 && *p <= 15 {
		s.PerformanceState = integer(*p)
	}
	f := r.fields(d, field{id: lib.FI_DEV_MEMORY_TEMP}, field{id: lib.FI_DEV_PCIE_COUNT_TX_BYTES}, field{id: lib.FI_DEV_PCIE_COUNT_RX_BYTES})
	s.MemoryTemperatureC = f[0]
	r.gauges.with(id, r.freeSample, func(g *gauge) {
		s.PCIeTxKBps, s.PCIeRxKBps = r.pcieKBps(d, g, f[1], f[2], s.Time)
		s.Profiling = r.profiling(g, s.Time, func(into lib.GpmSample) lib.Return { return d.GpmSampleGet(into) }, d)
	})
	return s
}

// sampleSlice reads what a driver tells of a slice: its memory, and from
// Hopper on the profiling metrics. The rest is of boards only.
func (r *reader) sampleSlice(m lib.Device, id gpu.ID) gpu.Sample {
	s := gpu.Sample{Time: time.Now()}
	s.MemoryUsedMiB, s.MemoryTotalMiB, s.MemoryReservedMiB = r.memory(m)
	s.BAR1UsedMiB, s.BAR1TotalMiB = r.bar1(m)
	if !r.has("nvmlGpmMigSampleGet") {
		return s
	}
	r.gauges.with(id, r.freeSample, func(g *gauge) {
		if g.unprofiled {
			return
		}
		board := read(r, m.GetDeviceHandleFromMigDeviceHandle, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
		instance := read(r, m.GetGpuInstanceId, "nvmlDeviceGetGpuInstanceId")
		if board == nil || instance == nil {
			return
		}
		s.Profiling = r.profiling(g, s.Time, func(into lib.GpmSample) lib.Return {
			return (*board).GpmMigSampleGet(*instance, into)
		}, *board)
	})
	return s
}

func (r *reader) temperature(d lib.Device) *int64 {
	return number(read(r, func() (uint32, lib.Return) {
		return d.GetTemperature(lib.TEMPERATURE_GPU)
	}, "nvmlDeviceGetTemperature"))
}

// memory is in MiB. Newer drivers tell what they keep for themselves, which
// older ones count as used.
func (r *reader) memory(d lib.Device) (used, total, reserved *int64) {
	if m := read(r, d.GetMemoryInfo_v2, "nvmlDeviceGetMemoryInfo_v2"); m != nil {
		return mebibytes(m.Used), mebibytes(m.Total), mebibytes(m.Reserved)
	}
	if m := read(r, d.GetMemoryInfo, "nvmlDeviceGetMemoryInfo"); m != nil {
		return mebibytes(m.Used), mebibytes(m.Total), nil
	}
	return nil, nil, nil
}

func (r *reader) bar1(d lib.Device) (used, total *int64) {
	if b := read(r, d.GetBAR1MemoryInfo, "nvmlDeviceGetBAR1MemoryInfo"); b != nil {
		return mebibytes(b.Bar1Used), mebibytes(b.Bar1Total)
	}
	return nil, nil
}

// memoryErrors counts those since the driver was loaded.
func (r *reader) memoryErrors(d lib.Device, kind lib.MemoryErrorType, where lib.MemoryLocation) *int64 {
	return counted(read(r, func() (uint64, lib.Return) {
		return d.GetMemoryErrorCounter(kind, lib.VOLATILE_ECC, where)
	}, "nvmlDeviceGetMemoryErrorCounter"))
}

func (r *reader) energyMJ(d lib.Device) *int64 {
	return counted(read(r, d.GetTotalEnergyConsumption, "nvmlDeviceGetTotalEnergyConsumption"))
}
