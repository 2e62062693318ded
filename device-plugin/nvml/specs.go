package nvml

import (
	"fmt"
	"strconv"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func (r *reader) specs(d lib.Device) gpu.Specs {
	specs := gpu.Specs{
		PowerW:           r.powerLimitW(d),
		MemoryMiB:        r.memoryMiB(d),
		PCIBandwidthMBps: r.pciBandwidthMBps(d),
	}
	if bar1 := read(r, d.GetBAR1MemoryInfo, "nvmlDeviceGetBAR1MemoryInfo"); bar1 != nil {
		specs.BAR1MiB = mebibytes(bar1.Bar1Total)
	}
	clock := func(kind lib.ClockType) *int64 {
		mhz := read(r, func() (uint32, lib.Return) { return d.GetMaxClockInfo(kind) }, "nvmlDeviceGetMaxClockInfo")
		return number(mhz)
	}
	specs.CoresClockMHz = clock(lib.CLOCK_GRAPHICS)
	specs.MemoryClockMHz = clock(lib.CLOCK_MEM)
	specs.DisplayState = onOff(read(r, d.GetDisplayMode, "nvmlDeviceGetDisplayMode"))
	specs.PersistenceMode = onOff(read(r, d.GetPersistenceMode, "nvmlDeviceGetPersistenceMode"))
	if mode := read(r, d.GetComputeMode, "nvmlDeviceGetComputeMode"); mode != nil {
		specs.ComputeMode = computeModes[*mode]
	}
	if arch := read(r, d.GetArchitecture, "nvmlDeviceGetArchitecture"); arch != nil {
		specs.Architecture = architectures[*arch]
	}
	if r.has("nvmlDeviceGetCudaComputeCapability") {
		if major, minor, ret := d.GetCudaComputeCapability(); ret == lib.SUCCESS {
			if v, err := strconv.ParseFloat(fmt.Sprintf("%d.%d", major, minor), 64); err == nil {
				specs.ComputeCapability = &v
			}
			if cores := read(r, d.GetNumGpuCores, "nvmlDeviceGetNumGpuCores"); cores != nil && *cores > 0 {
				specs.Cores = integer(*cores)
				if per := coresPerMultiprocessor(major, minor); per > 0 {
					specs.Multiprocessors = integer(*cores / per)
				}
			}
			if links := r.links(d); len(links) > 0 {
				up := int64(0)
				for _, l := range links {
					if l.active {
						up++
					}
				}
				specs.NVLinks = &up
				if each := linkMBps(major, minor); each > 0 {
					total := up * each
					specs.NVLinkMBps = &total
				}
			}
		}
	}
	return specs
}

// memoryMiB is the board's memory. One that has none of its own, as in an
// integrated GPU, uses the machine's.
func (r *reader) memoryMiB(d lib.Device) *int64 {
	if !r.has("nvmlDeviceGetMemoryInfo") {
		return nil
	}
	m, ret := d.GetMemoryInfo()
	switch {
	case ret == lib.SUCCESS:
		return mebibytes(m.Total)
	case ret == lib.ERROR_NOT_SUPPORTED:
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) == nil {
			return mebibytes(info.Totalram * uint64(info.Unit))
		}
	}
	r.note(ret)
	return nil
}

// powerLimitW is the limit in force, of all that may be set.
func (r *reader) powerLimitW(d lib.Device) *int64 {
	mw := read(r, d.GetEnforcedPowerLimit, "nvmlDeviceGetEnforcedPowerLimit")
	if mw == nil {
		mw = read(r, d.GetPowerManagementLimit, "nvmlDeviceGetPowerManagementLimit")
	}
	return watts(mw)
}

// pciBandwidthMBps is nominal: 1024 MB/s for each lane of the third
// generation, and twice as much for each one after it. Jobs compare with such
// round numbers.
func (r *reader) pciBandwidthMBps(d lib.Device) *int64 {
	generation := read(r, d.GetMaxPcieLinkGeneration, "nvmlDeviceGetMaxPcieLinkGeneration")
	width := read(r, d.GetMaxPcieLinkWidth, "nvmlDeviceGetMaxPcieLinkWidth")
	if generation == nil || width == nil || *generation < 1 || *generation > 16 || *width < 1 {
		return nil
	}
	v := int64(*width) * (256 << (*generation - 1))
	return &v
}

var architectures = map[lib.DeviceArchitecture]string{
	lib.DEVICE_ARCH_KEPLER:    "kepler",
	lib.DEVICE_ARCH_MAXWELL:   "maxwell",
	lib.DEVICE_ARCH_PASCAL:    "pascal",
	lib.DEVICE_ARCH_VOLTA:     "volta",
	lib.DEVICE_ARCH_TURING:    "turing",
	lib.DEVICE_ARCH_AMPERE:    "ampere",
	lib.DEVICE_ARCH_ADA:       "ada",
	lib.DEVICE_ARCH_HOPPER:    "hopper",
	lib.DEVICE_ARCH_BLACKWELL: "blackwell",
	lib.DEVICE_ARCH_RUBIN:     "rubin",
}

var computeModes = map[lib.ComputeMode]string{
	lib.COMPUTEMODE_DEFAULT:           "Default",
	lib.COMPUTEMODE_EXCLUSIVE_THREAD:  "Exclusive_Thread",
	lib.COMPUTEMODE_PROHIBITED:        "Prohibited",
	lib.COMPUTEMODE_EXCLUSIVE_PROCESS: "Exclusive_Process",
}

// coresPerMultiprocessor is by compute capability, as the CUDA programming
// guide has it; 0 is unknown.
func coresPerMultiprocessor(major, minor int) int {
	switch major {
	case 3:
		return 192
	case 5:
		return 128
	case 6:
		if minor == 0 {
			return 64
		}
		return 128
	case 7:
		return 64
	case 8:
		if minor == 0 {
			return 64
		}
		return 128
	case 9, 10, 11, 12:
		return 128
	}
	return 0
}

// linkMBps is the nominal bandwidth of one NVLink in one direction, by compute
// capability; 0 is unknown. Jobs compare with such round numbers.
func linkMBps(major, minor int) int64 {
	switch {
	case major == 6:
		return 20_000
	case major == 7, major == 8 && minor == 0, major == 9:
		return 25_000
	case major == 8 && minor == 6: // the bridge of workstation boards
		return 14_062
	case major == 10:
		return 50_000
	}
	return 0
}
