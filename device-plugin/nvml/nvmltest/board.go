package nvmltest

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"sync"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
)

// Field is one of NVML's numbered values, of a link where it has a scope.
type Field struct{ ID, Scope uint32 }

// Process is one that has a board open.
type Process struct {
	PID int
	// GPUInstance and ComputeInstance are its slice's; Whole is none.
	GPUInstance, ComputeInstance uint32
	MemoryMiB                    uint64
	SMPercent                    uint32
}

// Board is one GPU. Its fields may be changed with Change only.
type Board struct {
	*server.Device
	BusID     string
	Fields    map[Field]int64
	Links     map[int]bool // active or not
	Fabric    lib.GpuFabricInfo
	Compute   []Process
	Graphics  []Process
	MPS       []Process
	Events    uint64 // the types that it has; 0 is none
	ECC       lib.EnableState
	Throttle  uint64
	Remapped  [2]int // corrected, uncorrected
	Pending   bool   // a remap
	LosesWith lib.Return
	// NeedsReset is set for boards whose MIG mode changes at a reset only while
	// a process has them open.
	NeedsReset bool

	machine   *Machine
	mu        sync.Mutex
	mig, next int // mode, and that after the next reset
	instances map[int]*instance
}

// newBoard gives a board what those of a DGX have. Readings differ between
// boards where that tells them apart.
func newBoard(m *Machine, d *server.Device, index, links int) *Board {
	b := &Board{
		Device: d, BusID: fmt.Sprintf("00000000:%02X:00.0", 7+8*index), machine: m,
		Links: map[int]bool{}, instances: map[int]*instance{}, ECC: lib.FEATURE_ENABLED, LosesWith: lib.SUCCESS,
		Throttle: lib.ClocksEventReasonSwPowerCap,
		Events:   lib.EventTypeXidCriticalError | lib.EventTypeDoubleBitEccError | lib.EventMigConfigChange,
		Fields: map[Field]int64{
			{ID: lib.FI_DEV_MEMORY_TEMP}:             int64(60 + index),
			{ID: lib.FI_DEV_GET_GPU_RECOVERY_ACTION}: int64(lib.GPU_RECOVERY_ACTION_NONE),
		},
		NeedsReset: d.Config.CudaMajor == 8,
	}
	for n := range links {
		b.Links[n] = true
		b.Fields[Field{lib.FI_DEV_NVLINK_ERROR_DL_CRC, uint32(n)}] = int64(n)
		b.Fields[Field{lib.FI_DEV_NVLINK_ERROR_DL_REPLAY, uint32(n)}] = 0
		b.Fields[Field{lib.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, uint32(n)}] = int64(1000 * n)
		b.Fields[Field{lib.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, uint32(n)}] = int64(2000 * n)
	}
	if d.Config.CudaMajor >= 9 {
		b.Fabric = lib.GpuFabricInfo{State: lib.GPU_FABRIC_STATE_COMPLETED}
	}
	d.UUID = fmt.Sprintf("GPU-00000000-0000-0000-0000-%012d", index)
	b.identity(index)
	b.statistics()
	b.health()
	b.wiring()
	b.processes()
	b.migFuncs()
	Unsupported(&d.Device)
	b.loseable()
	return b
}

// Change changes a board while it may be read.
func (b *Board) Change(change func(*Board)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// Lose makes every function of the board answer so; SUCCESS brings it back.
func (b *Board) Lose(ret lib.Return) { b.Change(func(b *Board) { b.LosesWith = ret }) }

func (b *Board) answer() lib.Return {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.LosesWith
}

// loseable makes every function ask first whether the board is lost.
func (b *Board) loseable() {
	v := reflect.ValueOf(&b.Device.Device).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Func || !f.CanSet() {
			continue
		}
		kind, do := f.Type(), reflect.ValueOf(f.Interface())
		f.Set(reflect.MakeFunc(kind, func(args []reflect.Value) []reflect.Value {
			ret := b.answer()
			if ret == lib.SUCCESS {
				return do.Call(args)
			}
			results := make([]reflect.Value, kind.NumOut())
			for n := range results {
				results[n] = reflect.New(kind.Out(n)).Elem()
				if kind.Out(n) == reflect.TypeFor[lib.Return]() {
					results[n].SetInt(int64(ret))
				}
			}
			return results
		}))
	}
}

func (b *Board) identity(index int) {
	d := b.Device
	d.GetSerialFunc = func() (string, lib.Return) { return fmt.Sprintf("165%010d", index), lib.SUCCESS }
	d.GetPciInfoFunc = func() (lib.PciInfo, lib.Return) {
		p := lib.PciInfo{PciDeviceId: d.Config.PciDeviceId}
		for i := range b.BusID {
			p.BusId[i] = int8(b.BusID[i])
		}
		return p, lib.SUCCESS
	}
	d.GetMemoryAffinityFunc = func(int, lib.AffinityScope) ([]uint, lib.Return) {
		return []uint{1 << (index / 4)}, lib.SUCCESS
	}
	d.GetCpuAffinityFunc = func(int) ([]uint, lib.Return) {
		words := make([]uint, 4)
		words[index/4] = 0xFFFFFFFF
		words[2+index/4] = 0xFFFFFFFF
		return words, lib.SUCCESS
	}
	d.GetNumGpuCoresFunc = func() (int, lib.Return) {
		return map[int]int{8: 6912, 9: 16896, 10: 18944}[d.Config.CudaMajor], lib.SUCCESS
	}
	d.GetComputeModeFunc = func() (lib.ComputeMode, lib.Return) { return lib.COMPUTEMODE_DEFAULT, lib.SUCCESS }
	d.GetDisplayModeFunc = func() (lib.EnableState, lib.Return) { return lib.FEATURE_DISABLED, lib.SUCCESS }
	d.GetPersistenceModeFunc = func() (lib.EnableState, lib.Return) { return lib.FEATURE_ENABLED, lib.SUCCESS }
	d.GetEnforcedPowerLimitFunc = func() (uint32, lib.Return) { return 400_000, lib.SUCCESS }
	d.GetMaxClockInfoFunc = func(kind lib.ClockType) (uint32, lib.Return) { return 1410 + uint32(kind), lib.SUCCESS }
	d.GetBAR1MemoryInfoFunc = func() (lib.BAR1Memory, lib.Return) {
		return lib.BAR1Memory{Bar1Total: 64 << 30, Bar1Used: 4 << 20}, lib.SUCCESS
	}
}

func (b *Board) statistics() {
	d := b.Device
	index := uint32(d.Index)
	d.GetPowerUsageFunc = func() (uint32, lib.Return) { return 120_456 + 1000*index, lib.SUCCESS }
	d.GetUtilizationRatesFunc = func() (lib.Utilization, lib.Return) {
		return lib.Utilization{Gpu: 90 + index, Memory: 40}, lib.SUCCESS
	}
	d.GetEncoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 0, 100, lib.SUCCESS }
	d.GetDecoderUtilizationFunc = func() (uint32, uint32, lib.Return) { return 5, 100, lib.SUCCESS }
	d.GetTemperatureFunc = func(lib.TemperatureSensors) (uint32, lib.Return) { return 50 + index, lib.SUCCESS }
	d.GetClockInfoFunc = func(kind lib.ClockType) (uint32, lib.Return) { return 1100 + uint32(kind), lib.SUCCESS }
	d.GetTotalEnergyConsumptionFunc = func() (uint64, lib.Return) { return 123_456_789, lib.SUCCESS }
	d.GetPerformanceStateFunc = func() (lib.Pstates, lib.Return) { return lib.PSTATE_0, lib.SUCCESS }
	d.GetMemoryInfo_v2Func = func() (lib.Memory_v2, lib.Return) {
		return lib.Memory_v2{Total: d.Config.MemoryMB << 20, Reserved: 600 << 20, Used: 1 << 30}, lib.SUCCESS
	}
	d.GetPcieThroughputFunc = func(direction lib.PcieUtilCounter) (uint32, lib.Return) {
		b.machine.count("nvmlDeviceGetPcieThroughput")
		return 1000 * (1 + uint32(direction)), lib.SUCCESS
	}
	d.GetFieldValuesFunc = func(values []lib.FieldValue) lib.Return {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i := range values {
			v := &values[i]
			n, ok := b.Fields[Field{v.FieldId, v.ScopeId}]
			if !ok {
				v.NvmlReturn = uint32(lib.ERROR_NOT_SUPPORTED)
				continue
			}
			v.ValueType = uint32(lib.VALUE_TYPE_UNSIGNED_LONG_LONG)
			binary.NativeEndian.PutUint64(v.Value[:], uint64(n))
		}
		return lib.SUCCESS
	}
	if d.Config.CudaMajor >= 9 {
		d.GpmQueryDeviceSupportFunc = func() (lib.GpmSupport, lib.Return) {
			return lib.GpmSupport{IsSupportedDevice: 1}, lib.SUCCESS
		}
		d.GpmSampleGetFunc = func(lib.GpmSample) lib.Return { return lib.SUCCESS }
		d.GpmMigSampleGetFunc = func(int, lib.GpmSample) lib.Return { return lib.SUCCESS }
	}
}

func (b *Board) health() {
	d := b.Device
	d.GetEccModeFunc = func() (lib.EnableState, lib.EnableState, lib.Return) { return b.ECC, b.ECC, lib.SUCCESS }
	d.GetTotalEccErrorsFunc = func(kind lib.MemoryErrorType, since lib.EccCounterType) (uint64, lib.Return) {
		return 10*uint64(since) + uint64(kind), lib.SUCCESS
	}
	d.GetMemoryErrorCounterFunc = func(_ lib.MemoryErrorType, _ lib.EccCounterType, where lib.MemoryLocation) (uint64, lib.Return) {
		if where == lib.MEMORY_LOCATION_L1_CACHE {
			return 0, lib.ERROR_NOT_SUPPORTED
		}
		return uint64(where), lib.SUCCESS
	}
	d.GetRemappedRowsFunc = func() (int, int, bool, bool, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.Remapped[0], b.Remapped[1], b.Pending, false, lib.SUCCESS
	}
	d.GetTemperatureThresholdFunc = func(kind lib.TemperatureThresholds) (uint32, lib.Return) {
		return 92 - 3*uint32(kind), lib.SUCCESS
	}
	d.GetCurrentClocksEventReasonsFunc = func() (uint64, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.Throttle, lib.SUCCESS
	}
	d.GetViolationStatusFunc = func(policy lib.PerfPolicyType) (lib.ViolationTime, lib.Return) {
		return lib.ViolationTime{ViolationTime: 1_000_000 * uint64(1+policy)}, lib.SUCCESS
	}
	d.GetCurrPcieLinkGenerationFunc = func() (int, lib.Return) { return 4, lib.SUCCESS }
	d.GetMaxPcieLinkGenerationFunc = func() (int, lib.Return) { return 4, lib.SUCCESS }
	d.GetCurrPcieLinkWidthFunc = func() (int, lib.Return) { return 8, lib.SUCCESS }
	d.GetMaxPcieLinkWidthFunc = func() (int, lib.Return) { return 16, lib.SUCCESS }
	d.GetPcieReplayCounterFunc = func() (int, lib.Return) { return 3, lib.SUCCESS }
	d.GetSupportedEventTypesFunc = func() (uint64, lib.Return) { return b.Events, lib.SUCCESS }
	d.RegisterEventsFunc = func(_ uint64, to lib.EventSet) lib.Return { return b.machine.register(b, to) }
	d.GetGpuFabricInfoFunc = func() (lib.GpuFabricInfo, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.Fabric.State == lib.GPU_FABRIC_STATE_NOT_SUPPORTED {
			return b.Fabric, lib.ERROR_NOT_SUPPORTED
		}
		return b.Fabric, lib.SUCCESS
	}
}

func (b *Board) wiring() {
	d := b.Device
	d.GetNvLinkStateFunc = func(n int) (lib.EnableState, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		active, ok := b.Links[n]
		switch {
		case !ok && len(b.Links) == 0:
			return 0, lib.ERROR_NOT_SUPPORTED
		case !ok:
			return 0, lib.ERROR_INVALID_ARGUMENT
		case active:
			return lib.FEATURE_ENABLED, lib.SUCCESS
		}
		return lib.FEATURE_DISABLED, lib.SUCCESS
	}
	d.GetNvLinkErrorCounterFunc = func(n int, c lib.NvLinkErrorCounter) (uint64, lib.Return) {
		return uint64(100*n) + uint64(c), lib.SUCCESS
	}
	d.GetNvLinkRemoteDeviceTypeFunc = func(int) (lib.IntNvLinkDeviceType, lib.Return) {
		return lib.NVLINK_DEVICE_TYPE_SWITCH, lib.SUCCESS
	}
	d.GetTopologyCommonAncestorFunc = func(to lib.Device) (lib.GpuTopologyLevel, lib.Return) {
		if other := to.(*server.Device); other.Index/4 == d.Index/4 {
			return lib.TOPOLOGY_NODE, lib.SUCCESS
		}
		return lib.TOPOLOGY_SYSTEM, lib.SUCCESS
	}
}

func (b *Board) processes() {
	d := b.Device
	list := func(name string, of func() []Process) func() ([]lib.ProcessInfo, lib.Return) {
		return func() ([]lib.ProcessInfo, lib.Return) {
			b.machine.count(name)
			b.mu.Lock()
			defer b.mu.Unlock()
			infos := []lib.ProcessInfo{}
			for _, p := range of() {
				memory := p.MemoryMiB << 20
				if p.MemoryMiB == 0 {
					memory = 1<<64 - 1 // the driver's word for unknown
				}
				infos = append(infos, lib.ProcessInfo{
					Pid: uint32(p.PID), UsedGpuMemory: memory, GpuInstanceId: p.GPUInstance, ComputeInstanceId: p.ComputeInstance,
				})
			}
			return infos, lib.SUCCESS
		}
	}
	d.GetComputeRunningProcessesFunc = list("nvmlDeviceGetComputeRunningProcesses", func() []Process { return b.Compute })
	d.GetGraphicsRunningProcessesFunc = list("nvmlDeviceGetGraphicsRunningProcesses", func() []Process { return b.Graphics })
	d.GetMPSComputeRunningProcessesFunc = list("nvmlDeviceGetMPSComputeRunningProcesses", func() []Process { return b.MPS })
	d.GetProcessUtilizationFunc = func(since uint64) ([]lib.ProcessUtilizationSample, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.mig == lib.DEVICE_MIG_ENABLE {
			return nil, lib.ERROR_NOT_SUPPORTED
		}
		var samples []lib.ProcessUtilizationSample
		for _, p := range b.Compute {
			samples = append(samples, lib.ProcessUtilizationSample{Pid: uint32(p.PID), TimeStamp: since + 1, SmUtil: p.SMPercent})
		}
		return samples, lib.SUCCESS
	}
}
