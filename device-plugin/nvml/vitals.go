package nvml

import (
	"context"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Vitals reads what tells the health of boards. A board that does not answer
// is left out; a value that it does not have is nil.
func (s *Source) Vitals(_ context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	vitals := make(map[gpu.ID]gpu.Vitals, len(boards))
	err := s.use("reading the vitals of GPUs", func() error {
		for _, id := range boards {
			s.withDevice(id, func(r *reader, d lib.Device) {
				if v := r.vitals(d); r.fatal == lib.SUCCESS {
					vitals[id] = v
				}
			})
		}
		return nil
	})
	return vitals, err
}

func (r *reader) vitals(d lib.Device) gpu.Vitals {
	v := gpu.Vitals{
		Time:         time.Now(),
		ECC:          r.ecc(d),
		RemappedRows: r.remappedRows(d),
		TemperatureC: r.temperature(d),
		Throttle:     r.throttle(d),
		EnergyMJ:     r.energyMJ(d),
		PCIe:         r.pcie(d),
		NVLinks:      r.linkVitals(d),
		FabricState:  r.fabricState(d),
	}
	if v.RemappedRows == nil {
		v.RetiredPages = r.retiredPages(d)
	}
	threshold := func(kind lib.TemperatureThresholds) *int64 {
		return number(read(r, func() (uint32, lib.Return) {
			return d.GetTemperatureThreshold(kind)
		}, "nvmlDeviceGetTemperatureThreshold"))
	}
	v.SlowdownTemperatureC = threshold(lib.TEMPERATURE_THRESHOLD_SLOWDOWN)
	v.ShutdownTemperatureC = threshold(lib.TEMPERATURE_THRESHOLD_SHUTDOWN)
	violation := func(policy lib.PerfPolicyType) *time.Duration {
		t := read(r, func() (lib.ViolationTime, lib.Return) { return d.GetViolationStatus(policy) }, "nvmlDeviceGetViolationStatus")
		if t == nil {
			return nil
		}
		held := time.Duration(t.ViolationTime) // nanoseconds
		return &held
	}
	v.PowerViolation = violation(lib.PERF_POLICY_POWER)
	v.ThermalViolation = violation(lib.PERF_POLICY_THERMAL)
	f := r.fields(d, field{id: lib.FI_DEV_MEMORY_TEMP}, field{id: lib.FI_DEV_GET_GPU_RECOVERY_ACTION})
	v.MemoryTemperatureC = f[0]
	if f[1] != nil {
		v.RecoveryAction = recoveryActions[lib.DeviceGpuRecoveryAction(*f[1])]
	}
	return v
}

// recoveryActions are what the driver may recommend. What concerns memory
// shared between machines (IMEX) is not for this one to do.
var recoveryActions = map[lib.DeviceGpuRecoveryAction]string{
	lib.GPU_RECOVERY_ACTION_NONE:            "none",
	lib.GPU_RECOVERY_ACTION_GPU_RESET:       "reset",
	lib.GPU_RECOVERY_ACTION_BUS_RESET:       "reset",
	lib.GPU_RECOVERY_ACTION_NODE_REBOOT:     "reboot",
	lib.GPU_RECOVERY_ACTION_SYSTEM_REBOOT:   "reboot",
	lib.GPU_RECOVERY_ACTION_DRAIN_P2P:       "drain",
	lib.GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain-and-reset",
}

// ecc is nil where errors are not looked for.
func (r *reader) ecc(d lib.Device) *gpu.ECC {
	if r.has("nvmlDeviceGetEccMode") {
		current, _, ret := d.GetEccMode()
		r.note(ret)
		if ret != lib.SUCCESS || current != lib.FEATURE_ENABLED {
			return nil
		}
	}
	total := func(kind lib.MemoryErrorType, since lib.EccCounterType) *int64 {
		return counted(read(r, func() (uint64, lib.Return) { return d.GetTotalEccErrors(kind, since) }, "nvmlDeviceGetTotalEccErrors"))
	}
	e := gpu.ECC{
		VolatileCorrected:    total(lib.MEMORY_ERROR_TYPE_CORRECTED, lib.VOLATILE_ECC),
		VolatileUncorrected:  total(lib.MEMORY_ERROR_TYPE_UNCORRECTED, lib.VOLATILE_ECC),
		AggregateCorrected:   total(lib.MEMORY_ERROR_TYPE_CORRECTED, lib.AGGREGATE_ECC),
		AggregateUncorrected: total(lib.MEMORY_ERROR_TYPE_UNCORRECTED, lib.AGGREGATE_ECC),
		SRAMUncorrected:      r.memoryErrors(d, lib.MEMORY_ERROR_TYPE_UNCORRECTED, lib.MEMORY_LOCATION_SRAM),
		DRAMUncorrected:      r.memoryErrors(d, lib.MEMORY_ERROR_TYPE_UNCORRECTED, lib.MEMORY_LOCATION_DRAM),
	}
	if e == (gpu.ECC{}) {
		return nil
	}
	return &e
}

func (r *reader) remappedRows(d lib.Device) *gpu.RemappedRows {
	return read(r, func() (gpu.RemappedRows, lib.Return) {
		corrected, uncorrected, pending, failed, ret := d.GetRemappedRows()
		return gpu.RemappedRows{Corrected: int64(corrected), Uncorrected: int64(uncorrected), Pending: pending, Failed: failed}, ret
	}, "nvmlDeviceGetRemappedRows")
}

func (r *reader) retiredPages(d lib.Device) *gpu.RetiredPages {
	pages := func(cause lib.PageRetirementCause) *[]uint64 {
		return read(r, func() ([]uint64, lib.Return) { return d.GetRetiredPages(cause) }, "nvmlDeviceGetRetiredPages")
	}
	single := pages(lib.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
	double := pages(lib.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
	pending := read(r, d.GetRetiredPagesPendingStatus, "nvmlDeviceGetRetiredPagesPendingStatus")
	if single == nil || double == nil || pending == nil {
		return nil
	}
	return &gpu.RetiredPages{
		SingleBit: int64(len(*single)), DoubleBit: int64(len(*double)), Pending: *pending == lib.FEATURE_ENABLED,
	}
}

// throttleReasons are NVML's bits.
var throttleReasons = []struct {
	bit    uint64
	reason gpu.ThrottleReason
}{
	{lib.ClocksEventReasonGpuIdle, gpu.ThrottleIdle},
	{lib.ClocksEventReasonApplicationsClocksSetting, gpu.ThrottleAppClocks},
	{lib.ClocksEventReasonSwPowerCap, gpu.ThrottleSWPowerCap},
	{lib.ClocksThrottleReasonHwSlowdown, gpu.ThrottleHWSlowdown},
	{lib.ClocksEventReasonSyncBoost, gpu.ThrottleSyncBoost},
	{lib.ClocksEventReasonSwThermalSlowdown, gpu.ThrottleSWThermal},
	{lib.ClocksThrottleReasonHwThermalSlowdown, gpu.ThrottleHWThermal},
	{lib.ClocksThrottleReasonHwPowerBrakeSlowdown, gpu.ThrottleHWPowerBrake},
	{lib.ClocksEventReasonDisplayClockSetting, gpu.ThrottleDisplaySettings},
}

func (r *reader) throttle(d lib.Device) []gpu.ThrottleReason {
	bits := read(r, d.GetCurrentClocksEventReasons, "nvmlDeviceGetCurrentClocksEventReasons")
	if bits == nil {
		bits = read(r, d.GetCurrentClocksThrottleReasons, "nvmlDeviceGetCurrentClocksThrottleReasons")
	}
	if bits == nil {
		return nil
	}
	reasons := []gpu.ThrottleReason{}
	for _, t := range throttleReasons {
		if *bits&t.bit != 0 {
			reasons = append(reasons, t.reason)
		}
	}
	return reasons
}

func (r *reader) pcie(d lib.Device) *gpu.PCIe {
	whole := func(get func() (int, lib.Return), symbol string) *int64 {
		if v := read(r, get, symbol); v != nil {
			return integer(*v)
		}
		return nil
	}
	p := gpu.PCIe{
		Generation:    whole(d.GetCurrPcieLinkGeneration, "nvmlDeviceGetCurrPcieLinkGeneration"),
		MaxGeneration: whole(d.GetMaxPcieLinkGeneration, "nvmlDeviceGetMaxPcieLinkGeneration"),
		Width:         whole(d.GetCurrPcieLinkWidth, "nvmlDeviceGetCurrPcieLinkWidth"),
		MaxWidth:      whole(d.GetMaxPcieLinkWidth, "nvmlDeviceGetMaxPcieLinkWidth"),
		Replays:       whole(d.GetPcieReplayCounter, "nvmlDeviceGetPcieReplayCounter"),
	}
	if p == (gpu.PCIe{}) {
		return nil
	}
	return &p
}

// fabricState tells how far the fabric manager is with a board.
func (r *reader) fabricState(d lib.Device) string {
	f := read(r, d.GetGpuFabricInfo, "nvmlDeviceGetGpuFabricInfo")
	if f == nil {
		return ""
	}
	switch f.State {
	case lib.GPU_FABRIC_STATE_NOT_STARTED:
		return "not started"
	case lib.GPU_FABRIC_STATE_IN_PROGRESS:
		return "in progress"
	case lib.GPU_FABRIC_STATE_COMPLETED:
		if ret := lib.Return(f.Status); ret != lib.SUCCESS {
			return "failed: " + reason(ret)
		}
		return "completed"
	}
	return ""
}
