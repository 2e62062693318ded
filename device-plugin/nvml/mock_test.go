package nvml

import (
	"errors"
	"fmt"
	"testing"
	"testing/fstest"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

// machine is go-nvml's mock of a DGX A100, made to answer all that the source
// asks.
type machine struct {
	*server.Server
	t *testing.T
}

func newMachine(t *testing.T) machine {
	m := machine{dgxa100.New(), t}
	for i := range m.Devices {
		d := m.gpu(i)
		d.UUID = fmt.Sprintf("GPU-%d", i)
		nvmltest.Unsupported(&d.Device)
		complete(&d.Device, fmt.Sprintf("00000000:%02X:00.0", 7+i))
	}
	m.DeviceGetHandleByUUIDFunc = func(uuid string) (lib.Device, lib.Return) {
		for _, d := range m.Devices {
			if id, ret := d.GetUUID(); ret == lib.SUCCESS && id == uuid {
				return d, lib.SUCCESS
			}
		}
		return nil, lib.ERROR_NOT_FOUND
	}
	return m
}

func (m machine) gpu(i int) *server.Device { return m.Devices[i].(*server.Device) }

// complete sets the getters that the mock leaves out.
func complete(d *mock.Device, busID string) {
	d.GetPciInfoFunc = func() (lib.PciInfo, lib.Return) {
		var p lib.PciInfo
		for i := range busID {
			p.BusId[i] = int8(busID[i])
		}
		return p, lib.SUCCESS
	}
	d.GetEnforcedPowerLimitFunc = func() (uint32, lib.Return) { return 400_000, lib.SUCCESS }
	d.GetBAR1MemoryInfoFunc = func() (lib.BAR1Memory, lib.Return) {
		return lib.BAR1Memory{Bar1Total: 64 << 30, Bar1Used: 4 << 20}, lib.SUCCESS
	}
	d.GetMaxClockInfoFunc = func(c lib.ClockType) (uint32, lib.Return) {
		if c == lib.CLOCK_MEM {
			return 1215, lib.SUCCESS
		}
		return 1410, lib.SUCCESS
	}
	d.GetMaxPcieLinkGenerationFunc = func() (int, lib.Return) { return 4, lib.SUCCESS }
	d.GetMaxPcieLinkWidthFunc = func() (int, lib.Return) { return 16, lib.SUCCESS }
	d.GetDisplayModeFunc = func() (lib.EnableState, lib.Return) { return lib.FEATURE_DISABLED, lib.SUCCESS }
	d.GetPersistenceModeFunc = func() (lib.EnableState, lib.Return) { return lib.FEATURE_ENABLED, lib.SUCCESS }
	d.GetPowerUsageFunc = func() (uint32, lib.Return) { return 123_456, lib.SUCCESS }
	d.GetUtilizationRatesFunc = func() (lib.Utilization, lib.Return) { return lib.Utilization{Gpu: 93, Memory: 41}, lib.SUCCESS }
	d.GetEncoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 0, 100, lib.SUCCESS }
	d.GetDecoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 5, 100, lib.SUCCESS }
	d.GetTemperatureFunc = func(lib.TemperatureSensors) (uint32, lib.Return) { return 61, lib.SUCCESS }
	d.GetMemoryErrorCounterFunc = func(_ lib.MemoryErrorType, _ lib.EccCounterType, l lib.MemoryLocation) (uint64, lib.Return) {
		if l == lib.MEMORY_LOCATION_L1_CACHE {
			return 0, lib.ERROR_NOT_SUPPORTED
		}
		return uint64(l), lib.SUCCESS
	}
}

// lose makes every getter of a board answer with an error.
func (m machine) lose(i int, ret lib.Return) {
	d := m.gpu(i)
	d.GetUUIDFunc = func() (string, lib.Return) { return "", ret }
	m.breakGetters(i, ret)
}

// breakGetters makes all but the ID of a board answer with an error.
func (m machine) breakGetters(i int, ret lib.Return) {
	d := m.gpu(i)
	d.GetNameFunc = func() (string, lib.Return) { return "", ret }
	d.GetPciInfoFunc = func() (lib.PciInfo, lib.Return) { return lib.PciInfo{}, ret }
	d.GetMinorNumberFunc = func() (int, lib.Return) { return 0, ret }
	d.GetMemoryInfoFunc = func() (lib.Memory, lib.Return) { return lib.Memory{}, ret }
	d.GetEnforcedPowerLimitFunc = func() (uint32, lib.Return) { return 0, ret }
	d.GetPowerManagementLimitFunc = func() (uint32, lib.Return) { return 0, ret }
	d.GetPowerUsageFunc = func() (uint32, lib.Return) { return 0, ret }
	d.GetBAR1MemoryInfoFunc = func() (lib.BAR1Memory, lib.Return) { return lib.BAR1Memory{}, ret }
	d.GetMaxClockInfoFunc = func(lib.ClockType) (uint32, lib.Return) { return 0, ret }
	d.GetMaxPcieLinkGenerationFunc = func() (int, lib.Return) { return 0, ret }
	d.GetMaxPcieLinkWidthFunc = func() (int, lib.Return) { return 0, ret }
	d.GetDisplayModeFunc = func() (lib.EnableState, lib.Return) { return 0, ret }
	d.GetPersistenceModeFunc = func() (lib.EnableState, lib.Return) { return 0, ret }
	d.GetArchitectureFunc = func() (lib.DeviceArchitecture, lib.Return) { return 0, ret }
	d.GetCudaComputeCapabilityFunc = func() (int, int, lib.Return) { return 0, 0, ret }
	d.GetMigModeFunc = func() (int, int, lib.Return) { return 0, 0, ret }
	d.GetUtilizationRatesFunc = func() (lib.Utilization, lib.Return) { return lib.Utilization{}, ret }
	d.GetEncoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 0, 0, ret }
	d.GetDecoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 0, 0, ret }
	d.GetTemperatureFunc = func(lib.TemperatureSensors) (uint32, lib.Return) { return 0, ret }
	d.GetMemoryErrorCounterFunc = func(lib.MemoryErrorType, lib.EccCounterType, lib.MemoryLocation) (uint64, lib.Return) {
		return 0, ret
	}
}

// slice puts a board in MIG mode with 1g.5gb slices at the given indexes.
func (m machine) slice(i int, indexes ...int) {
	d := m.gpu(i)
	d.MigMode = lib.DEVICE_MIG_ENABLE
	d.GetMaxMigDeviceCountFunc = func() (int, lib.Return) { return 7, lib.SUCCESS }
	slices := map[int]*mock.Device{}
	for _, j := range indexes {
		s := migDevice(fmt.Sprintf("MIG-%d-%d", i, j), j)
		slices[j] = s
		m.addByUUID(s)
	}
	d.GetMigDeviceHandleByIndexFunc = func(j int) (lib.Device, lib.Return) {
		if s, ok := slices[j]; ok {
			return s, lib.SUCCESS
		}
		return nil, lib.ERROR_NOT_FOUND
	}
}

func (m machine) addByUUID(d lib.Device) {
	next := m.DeviceGetHandleByUUIDFunc
	m.DeviceGetHandleByUUIDFunc = func(uuid string) (lib.Device, lib.Return) {
		if id, _ := d.GetUUID(); id == uuid {
			return d, lib.SUCCESS
		}
		return next(uuid)
	}
}

// migDevice is a 1g.5gb slice. Of its statistics only memory is supported.
func migDevice(uuid string, gpuInstance int) *mock.Device {
	d := &mock.Device{
		GetUUIDFunc: func() (string, lib.Return) { return uuid, lib.SUCCESS },
		GetNameFunc: func() (string, lib.Return) {
			return "NVIDIA A100-SXM4-40GB MIG 1g.5gb", lib.SUCCESS
		},
		GetMemoryInfoFunc: func() (lib.Memory, lib.Return) {
			return lib.Memory{Total: 4864 << 20, Used: 13 << 20}, lib.SUCCESS
		},
		GetAttributesFunc: func() (lib.DeviceAttributes, lib.Return) {
			return lib.DeviceAttributes{GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1, MemorySizeMB: 4864}, lib.SUCCESS
		},
		GetGpuInstanceIdFunc:     func() (int, lib.Return) { return gpuInstance, lib.SUCCESS },
		GetComputeInstanceIdFunc: func() (int, lib.Return) { return 0, lib.SUCCESS },
	}
	nvmltest.Unsupported(d)
	return d
}

// only makes the library lack all functions but the given ones.
func (m machine) only(symbols ...string) {
	m.LookupSymbolFunc = func(name string) error {
		for _, s := range symbols {
			if s == name {
				return nil
			}
		}
		return errors.New("no such symbol: " + name)
	}
}

func (m machine) source() *Source { return New(Config{Library: m.Server, Host: testHost()}) }

func testHost() Host {
	return Host{
		IsDevice: func(path string) bool { return path != "/dev/nvidia-uvm-tools" },
		Files: fstest.MapFS{"proc/driver/nvidia-caps/mig-minors": {Data: []byte(
			"config 1\nmonitor 2\ngpu1/gi0/access 12\ngpu1/gi0/ci0/access 13\ngpu1/gi2/access 30\ngpu1/gi2/ci0/access 31\n")}},
	}
}
