package metrics

import (
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// The tables of this file are the fields of NVIDIA's DCGM, by the names that
// dcgm-exporter and its dashboards know. Names and units are those of DCGM 3
// and 4.0; later versions have new names for many, and keep these as aliases.
// Kinds are dcgm-exporter's, but for fields that it calls counters although
// DCGM gives a rate or a state: those are gauges here.

// field is a field that is read from a T. read reports whether it is known.
type field[T any] struct {
	name, kind, help string
	read             func(T) (float64, bool)
}

// integer and fraction are readings that may be missing.
func integer(v *int64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return float64(*v), true
}

func fraction(v *float64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return *v, true
}

func yes(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

func sampled(name, kind, help string, get func(*gpu.Sample) *int64) field[*gpu.Sample] {
	return field[*gpu.Sample]{name, kind, help, func(s *gpu.Sample) (float64, bool) { return integer(get(s)) }}
}

func profiled(name, help string, get func(*gpu.Profiling) *float64) field[*gpu.Sample] {
	return field[*gpu.Sample]{name, gauge, help, func(s *gpu.Sample) (float64, bool) {
		if s.Profiling == nil {
			return 0, false
		}
		return fraction(get(s.Profiling))
	}}
}

// ofSamples are fields of boards and slices.
var ofSamples = []field[*gpu.Sample]{
	sampled("DCGM_FI_DEV_SM_CLOCK", gauge, "Clock of the multiprocessors (in MHz).", func(s *gpu.Sample) *int64 { return s.SMClockMHz }),
	sampled("DCGM_FI_DEV_MEM_CLOCK", gauge, "Clock of the memory (in MHz).", func(s *gpu.Sample) *int64 { return s.MemoryClockMHz }),
	sampled("DCGM_FI_DEV_VIDEO_CLOCK", gauge, "Clock of the video encoder and decoder (in MHz).", func(s *gpu.Sample) *int64 { return s.VideoClockMHz }),
	sampled("DCGM_FI_DEV_GPU_TEMP", gauge, "Temperature of the GPU (in C).", func(s *gpu.Sample) *int64 { return s.TemperatureC }),
	sampled("DCGM_FI_DEV_MEMORY_TEMP", gauge, "Temperature of the memory (in C).", func(s *gpu.Sample) *int64 { return s.MemoryTemperatureC }),
	sampled("DCGM_FI_DEV_POWER_USAGE", gauge, "Power drawn (in W).", func(s *gpu.Sample) *int64 { return s.PowerW }),
	sampled("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", counter, "Energy used since the driver was loaded (in mJ).", func(s *gpu.Sample) *int64 { return s.EnergyMJ }),
	sampled("DCGM_FI_DEV_FAN_SPEED", gauge, "Speed of the fan (in % of the fastest).", func(s *gpu.Sample) *int64 { return s.FanPercent }),
	sampled("DCGM_FI_DEV_PSTATE", gauge, "Performance state: 0, the fastest, to 15.", func(s *gpu.Sample) *int64 { return s.PerformanceState }),
	sampled("DCGM_FI_DEV_GPU_UTIL", gauge, "Time during which a kernel ran (in %).", func(s *gpu.Sample) *int64 { return s.GPUPercent }),
	sampled("DCGM_FI_DEV_MEM_COPY_UTIL", gauge, "Time during which memory was read or written (in %).", func(s *gpu.Sample) *int64 { return s.MemoryPercent }),
	sampled("DCGM_FI_DEV_ENC_UTIL", gauge, "Time during which the video encoder ran (in %).", func(s *gpu.Sample) *int64 { return s.EncoderPercent }),
	sampled("DCGM_FI_DEV_DEC_UTIL", gauge, "Time during which the video decoder ran (in %).", func(s *gpu.Sample) *int64 { return s.DecoderPercent }),
	sampled("DCGM_FI_DEV_FB_TOTAL", gauge, "Memory (in MiB).", func(s *gpu.Sample) *int64 { return s.MemoryTotalMiB }),
	{"DCGM_FI_DEV_FB_FREE", gauge, "Memory that is free (in MiB).", memoryFree},
	sampled("DCGM_FI_DEV_FB_USED", gauge, "Memory in use (in MiB).", func(s *gpu.Sample) *int64 { return s.MemoryUsedMiB }),
	sampled("DCGM_FI_DEV_FB_RESERVED", gauge, "Memory that the driver keeps for itself (in MiB).", func(s *gpu.Sample) *int64 { return s.MemoryReservedMiB }),
	sampled("DCGM_FI_DEV_BAR1_TOTAL", gauge, "BAR1 memory (in MiB).", func(s *gpu.Sample) *int64 { return s.BAR1TotalMiB }),
	sampled("DCGM_FI_DEV_BAR1_USED", gauge, "BAR1 memory in use (in MiB).", func(s *gpu.Sample) *int64 { return s.BAR1UsedMiB }),
	sampled("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", gauge, "Rate of data sent over PCIe (in KB/s).", func(s *gpu.Sample) *int64 { return s.PCIeTxKBps }),
	sampled("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", gauge, "Rate of data received over PCIe (in KB/s).", func(s *gpu.Sample) *int64 { return s.PCIeRxKBps }),
	profiled("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Share of time during which the graphics or compute engine was active.", func(p *gpu.Profiling) *float64 { return p.GraphicsActive }),
	profiled("DCGM_FI_PROF_SM_ACTIVE", "Share of cycles in which a multiprocessor had a warp.", func(p *gpu.Profiling) *float64 { return p.SMActive }),
	profiled("DCGM_FI_PROF_SM_OCCUPANCY", "Share of the warps that fit on the multiprocessors.", func(p *gpu.Profiling) *float64 { return p.SMOccupancy }),
	profiled("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Share of cycles in which the tensor cores were active.", func(p *gpu.Profiling) *float64 { return p.TensorActive }),
	profiled("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "Share of cycles in which the fp64 pipe was active.", func(p *gpu.Profiling) *float64 { return p.FP64Active }),
	profiled("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "Share of cycles in which the fp32 pipe was active.", func(p *gpu.Profiling) *float64 { return p.FP32Active }),
	profiled("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "Share of cycles in which the fp16 pipe was active.", func(p *gpu.Profiling) *float64 { return p.FP16Active }),
	profiled("DCGM_FI_PROF_DRAM_ACTIVE", "Share of cycles in which the memory sent or received.", func(p *gpu.Profiling) *float64 { return p.DRAMActive }),
	profiled("DCGM_FI_PROF_PCIE_TX_BYTES", "Rate of data sent over PCIe (in B/s).", func(p *gpu.Profiling) *float64 { return p.PCIeTxBps }),
	profiled("DCGM_FI_PROF_PCIE_RX_BYTES", "Rate of data received over PCIe (in B/s).", func(p *gpu.Profiling) *float64 { return p.PCIeRxBps }),
	profiled("DCGM_FI_PROF_NVLINK_TX_BYTES", "Rate of data sent over NVLink (in B/s).", func(p *gpu.Profiling) *float64 { return p.NVLinkTxBps }),
	profiled("DCGM_FI_PROF_NVLINK_RX_BYTES", "Rate of data received over NVLink (in B/s).", func(p *gpu.Profiling) *float64 { return p.NVLinkRxBps }),
}

// memoryFree needs no reserved memory: where it isn't told, it is in what is
// used.
func memoryFree(s *gpu.Sample) (float64, bool) {
	if s.MemoryTotalMiB == nil || s.MemoryUsedMiB == nil {
		return 0, false
	}
	free := *s.MemoryTotalMiB - *s.MemoryUsedMiB
	if s.MemoryReservedMiB != nil {
		free -= *s.MemoryReservedMiB
	}
	return float64(max(free, 0)), true
}

func vital(name, kind, help string, get func(*gpu.Vitals) *int64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, kind, help, func(v *gpu.Vitals) (float64, bool) { return integer(get(v)) }}
}

func ecc(name, help string, get func(*gpu.ECC) *int64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, counter, help, func(v *gpu.Vitals) (float64, bool) {
		if v.ECC == nil {
			return 0, false
		}
		return integer(get(v.ECC))
	}}
}

func retired(name, kind, help string, get func(*gpu.RetiredPages) float64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, kind, help, func(v *gpu.Vitals) (float64, bool) {
		if v.RetiredPages == nil {
			return 0, false
		}
		return get(v.RetiredPages), true
	}}
}

func remapped(name, kind, help string, get func(*gpu.RemappedRows) float64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, kind, help, func(v *gpu.Vitals) (float64, bool) {
		if v.RemappedRows == nil {
			return 0, false
		}
		return get(v.RemappedRows), true
	}}
}

func pcie(name, kind, help string, get func(*gpu.PCIe) *int64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, kind, help, func(v *gpu.Vitals) (float64, bool) {
		if v.PCIe == nil {
			return 0, false
		}
		return integer(get(v.PCIe))
	}}
}

func violation(name, help string, get func(*gpu.Vitals) *time.Duration) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, counter, help, func(v *gpu.Vitals) (float64, bool) {
		d := get(v)
		if d == nil {
			return 0, false
		}
		return float64(d.Nanoseconds()), true
	}}
}

// nvlinks is a sum over the links of a board, known only if all are.
func nvlinks(name, help string, get func(gpu.NVLink) *int64) field[*gpu.Vitals] {
	return field[*gpu.Vitals]{name, counter, help, func(v *gpu.Vitals) (float64, bool) { return sumLinks(v.NVLinks, get) }}
}

func sumLinks(links []gpu.NVLink, get func(gpu.NVLink) *int64) (float64, bool) {
	var t total
	for _, l := range links {
		t.add(get(l))
	}
	return float64(t.sum), len(links) > 0 && !t.unknown
}

// ofVitals are fields of boards.
var ofVitals = []field[*gpu.Vitals]{
	vital("DCGM_FI_DEV_SLOWDOWN_TEMP", gauge, "Temperature at which the hardware slows down (in C).", func(v *gpu.Vitals) *int64 { return v.SlowdownTemperatureC }),
	vital("DCGM_FI_DEV_SHUTDOWN_TEMP", gauge, "Temperature at which the hardware switches off (in C).", func(v *gpu.Vitals) *int64 { return v.ShutdownTemperatureC }),
	{"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", gauge, "Why clocks are held down, a sum of bits (older name).", throttleBits},
	{"DCGM_FI_DEV_CLOCKS_EVENT_REASONS", gauge, "Why clocks are held down, a sum of bits.", throttleBits},
	violation("DCGM_FI_DEV_POWER_VIOLATION", "Time during which power held clocks down (in ns).", func(v *gpu.Vitals) *time.Duration { return v.PowerViolation }),
	violation("DCGM_FI_DEV_THERMAL_VIOLATION", "Time during which heat held clocks down (in ns).", func(v *gpu.Vitals) *time.Duration { return v.ThermalViolation }),
	ecc("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected memory errors since the driver was loaded.", func(e *gpu.ECC) *int64 { return e.VolatileCorrected }),
	ecc("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected memory errors since the driver was loaded.", func(e *gpu.ECC) *int64 { return e.VolatileUncorrected }),
	ecc("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "Corrected memory errors since the board was made.", func(e *gpu.ECC) *int64 { return e.AggregateCorrected }),
	ecc("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "Uncorrected memory errors since the board was made.", func(e *gpu.ECC) *int64 { return e.AggregateUncorrected }),
	ecc("drover_gpu_ecc_sram_uncorrected_total", "Uncorrected errors of on-chip memory since the driver was loaded.", func(e *gpu.ECC) *int64 { return e.SRAMUncorrected }),
	ecc("drover_gpu_ecc_dram_uncorrected_total", "Uncorrected errors of device memory since the driver was loaded.", func(e *gpu.ECC) *int64 { return e.DRAMUncorrected }),
	retired("DCGM_FI_DEV_RETIRED_SBE", counter, "Pages retired for corrected errors.", func(r *gpu.RetiredPages) float64 { return float64(r.SingleBit) }),
	retired("DCGM_FI_DEV_RETIRED_DBE", counter, "Pages retired for uncorrected errors.", func(r *gpu.RetiredPages) float64 { return float64(r.DoubleBit) }),
	retired("DCGM_FI_DEV_RETIRED_PENDING", gauge, "Whether pages are retired at the next reset.", func(r *gpu.RetiredPages) float64 { return yes(r.Pending) }),
	remapped("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", counter, "Rows remapped for corrected errors.", func(r *gpu.RemappedRows) float64 { return float64(r.Corrected) }),
	remapped("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", counter, "Rows remapped for uncorrected errors.", func(r *gpu.RemappedRows) float64 { return float64(r.Uncorrected) }),
	remapped("DCGM_FI_DEV_ROW_REMAP_FAILURE", gauge, "Whether a row could not be remapped.", func(r *gpu.RemappedRows) float64 { return yes(r.Failed) }),
	remapped("DCGM_FI_DEV_ROW_REMAP_PENDING", gauge, "Whether rows are remapped at the next reset.", func(r *gpu.RemappedRows) float64 { return yes(r.Pending) }),
	pcie("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", counter, "Packets sent again over PCIe since the driver was loaded.", func(p *gpu.PCIe) *int64 { return p.Replays }),
	pcie("DCGM_FI_DEV_PCIE_LINK_GEN", gauge, "Generation of the PCIe link.", func(p *gpu.PCIe) *int64 { return p.Generation }),
	pcie("DCGM_FI_DEV_PCIE_LINK_WIDTH", gauge, "Lanes of the PCIe link.", func(p *gpu.PCIe) *int64 { return p.Width }),
	pcie("DCGM_FI_DEV_PCIE_MAX_LINK_GEN", gauge, "Highest generation that the PCIe link can have.", func(p *gpu.PCIe) *int64 { return p.MaxGeneration }),
	pcie("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH", gauge, "Most lanes that the PCIe link can have.", func(p *gpu.PCIe) *int64 { return p.MaxWidth }),
	nvlinks("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "CRC errors of all NVLinks.", func(l gpu.NVLink) *int64 { return l.CRCErrors }),
	nvlinks("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "Packets sent again over all NVLinks.", func(l gpu.NVLink) *int64 { return l.ReplayErrors }),
	nvlinks("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "Recoveries of all NVLinks.", func(l gpu.NVLink) *int64 { return l.RecoveryErrors }),
	{"drover_gpu_nvlink_transmitted_bytes_total", counter, "Data sent over all NVLinks since the driver was loaded.", func(v *gpu.Vitals) (float64, bool) {
		kib, ok := sumLinks(v.NVLinks, func(l gpu.NVLink) *int64 { return l.TransmittedKiB })
		return kib * 1024, ok
	}},
	{"drover_gpu_nvlink_received_bytes_total", counter, "Data received over all NVLinks since the driver was loaded.", func(v *gpu.Vitals) (float64, bool) {
		kib, ok := sumLinks(v.NVLinks, func(l gpu.NVLink) *int64 { return l.ReceivedKiB })
		return kib * 1024, ok
	}},
	{"drover_gpu_nvlinks_active", gauge, "NVLinks that are up.", func(v *gpu.Vitals) (float64, bool) {
		n := 0
		for _, l := range v.NVLinks {
			if l.Active {
				n++
			}
		}
		return float64(n), len(v.NVLinks) > 0
	}},
	{"drover_gpu_nvlinks", gauge, "NVLinks that there are.", func(v *gpu.Vitals) (float64, bool) {
		return float64(len(v.NVLinks)), len(v.NVLinks) > 0
	}},
}

// bits are those of DCGM's, and NVML's, sum of reasons.
var bits = map[gpu.ThrottleReason]uint64{
	gpu.ThrottleIdle: 1 << 0, gpu.ThrottleAppClocks: 1 << 1, gpu.ThrottleSWPowerCap: 1 << 2, gpu.ThrottleHWSlowdown: 1 << 3,
	gpu.ThrottleSyncBoost: 1 << 4, gpu.ThrottleSWThermal: 1 << 5, gpu.ThrottleHWThermal: 1 << 6, gpu.ThrottleHWPowerBrake: 1 << 7,
	gpu.ThrottleDisplaySettings: 1 << 8,
}

// throttleBits is nothing if the reasons were not read. A source that reads
// them and finds none says so with an empty list.
func throttleBits(v *gpu.Vitals) (float64, bool) {
	var sum uint64
	for _, r := range v.Throttle {
		sum |= bits[r]
	}
	return float64(sum), v.Throttle != nil
}

// nvlinkRate is what went over a board's NVLinks between two readings, both
// ways together, in MB/s.
func nvlinkRate(before, after gpu.Vitals) (float64, bool) {
	moved := func(v gpu.Vitals) (float64, bool) {
		sent, ok := sumLinks(v.NVLinks, func(l gpu.NVLink) *int64 { return l.TransmittedKiB })
		received, also := sumLinks(v.NVLinks, func(l gpu.NVLink) *int64 { return l.ReceivedKiB })
		return (sent + received) * 1024 / 1e6, ok && also
	}
	was, known := moved(before)
	is, ok := moved(after)
	seconds := after.Time.Sub(before.Time).Seconds()
	// Less than before is a driver that was loaded again.
	return (is - was) / seconds, known && ok && seconds > 0 && is >= was && len(before.NVLinks) == len(after.NVLinks)
}
