package nvml

import (
	"context"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Sample reads devices by their IDs: indexes change when a board leaves, and
// differ from minor numbers.
func (s *source) Sample(_ context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	if err := s.load(); err != nil {
		return nil, err
	}
	s.life.RLock()
	defer s.life.RUnlock()
	samples := make(map[gpu.ID]gpu.Sample, len(ids))
	if !s.ready || !s.has("nvmlDeviceGetHandleByUUID") {
		return samples, nil
	}
	for _, id := range ids {
		d, ret := s.lib.DeviceGetHandleByUUID(string(id))
		if ret != lib.SUCCESS {
			continue
		}
		r := &reader{source: s}
		sample := r.sample(d)
		if r.fatal == lib.SUCCESS {
			samples[id] = sample
		}
	}
	return samples, nil
}

// sample reads a board or a slice. Of a slice the driver tells little; it says
// of the rest that it is not supported.
func (r *reader) sample(d lib.Device) gpu.Sample {
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
	s.TemperatureC = number(read(r, func() (uint32, lib.Return) {
		return d.GetTemperature(lib.TEMPERATURE_GPU)
	}, "nvmlDeviceGetTemperature"))
	if m := read(r, d.GetMemoryInfo, "nvmlDeviceGetMemoryInfo"); m != nil {
		s.MemoryUsedMiB, s.MemoryTotalMiB = mebibytes(m.Used), mebibytes(m.Total)
	}
	if b := read(r, d.GetBAR1MemoryInfo, "nvmlDeviceGetBAR1MemoryInfo"); b != nil {
		s.BAR1UsedMiB, s.BAR1TotalMiB = mebibytes(b.Bar1Used), mebibytes(b.Bar1Total)
	}
	errors := func(where lib.MemoryLocation) *int64 {
		n := read(r, func() (uint64, lib.Return) {
			return d.GetMemoryErrorCounter(lib.MEMORY_ERROR_TYPE_CORRECTED, lib.VOLATILE_ECC, where)
		}, "nvmlDeviceGetMemoryErrorCounter")
		if n == nil {
			return nil
		}
		v := int64(*n)
		return &v
	}
	s.ECCL1 = errors(lib.MEMORY_LOCATION_L1_CACHE)
	s.ECCL2 = errors(lib.MEMORY_LOCATION_L2_CACHE)
	s.ECCMemory = errors(lib.MEMORY_LOCATION_DEVICE_MEMORY)
	return s
}
