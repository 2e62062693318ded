package nvml

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// reader reads one board. It remembers the first error after which nothing
// works on it.
type reader struct {
	*source
	fatal lib.Return
}

// read calls a getter of the library, if the library has it. Nil is a value
// that cannot be had.
func read[T any](r *reader, get func() (T, lib.Return), symbols ...string) *T {
	if !r.has(symbols...) {
		return nil
	}
	v, ret := get()
	if ret == lib.SUCCESS {
		return &v
	}
	if concernsBoard(ret) && r.fatal == lib.SUCCESS {
		r.fatal = ret
	}
	return nil
}

// board reads the board at an index. The result is an error only if the board
// cannot be identified.
func (s *source) board(index int, minors map[string]int) (gpu.Board, lib.Return) {
	d, ret := s.lib.DeviceGetHandleByIndex(index)
	if ret != lib.SUCCESS {
		return gpu.Board{}, ret
	}
	uuid, ret := d.GetUUID()
	if ret != lib.SUCCESS {
		return gpu.Board{}, ret
	}
	r := &reader{source: s}
	b := gpu.Board{ID: gpu.ID(trimmed(uuid)), Index: index}
	if name := read(r, d.GetName, "nvmlDeviceGetName"); name != nil {
		b.Product = trimmed(*name)
	}
	if pci := read(r, d.GetPciInfo, "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"); pci != nil {
		b.PCIBusID = busID(*pci)
	}
	minor := read(r, d.GetMinorNumber, "nvmlDeviceGetMinorNumber")
	if minor != nil {
		b.Nodes = s.host.boardNodes(*minor)
	}
	b.Specs = r.specs(d)

	mode := lib.Return(lib.ERROR_NOT_SUPPORTED)
	if s.has("nvmlDeviceGetMigMode") {
		var current int
		current, _, mode = d.GetMigMode()
		b.MIG = mode == lib.SUCCESS && current == lib.DEVICE_MIG_ENABLE
	}
	switch {
	case b.MIG:
		r.slices(d, &b, minor, minors)
	case mode != lib.SUCCESS && mode != lib.ERROR_NOT_SUPPORTED:
		// Offered as a whole, it might be a board whose slices are in use.
		b.Fault = "reading the MIG mode: " + reason(mode)
	}
	if r.fatal != lib.SUCCESS {
		b.Fault = reason(r.fatal)
	}
	if b.Product == "" && b.Fault == "" {
		b.Fault = "the driver does not tell the product name"
	}
	return b, lib.SUCCESS
}

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
	if arch := read(r, d.GetArchitecture, "nvmlDeviceGetArchitecture"); arch != nil {
		specs.Architecture = architectures[*arch]
	}
	if r.has("nvmlDeviceGetCudaComputeCapability") {
		if major, minor, ret := d.GetCudaComputeCapability(); ret == lib.SUCCESS {
			if v, err := strconv.ParseFloat(fmt.Sprintf("%d.%d", major, minor), 64); err == nil {
				specs.ComputeCapability = &v
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
	case concernsBoard(ret) && r.fatal == lib.SUCCESS:
		r.fatal = ret
	}
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

// slices reads the MIG devices of a board. The maximum is a capacity: devices
// sit at any of its indexes, with gaps.
func (r *reader) slices(d lib.Device, b *gpu.Board, minor *int, minors map[string]int) {
	most := read(r, d.GetMaxMigDeviceCount, "nvmlDeviceGetMaxMigDeviceCount")
	if most == nil || !r.has("nvmlDeviceGetMigDeviceHandleByIndex") {
		return
	}
	for i := range *most {
		m, ret := d.GetMigDeviceHandleByIndex(i)
		if ret == lib.ERROR_NOT_FOUND || ret == lib.ERROR_INVALID_ARGUMENT {
			continue
		}
		var uuid string
		if ret == lib.SUCCESS {
			uuid, ret = m.GetUUID()
		}
		if ret != lib.SUCCESS {
			if concernsBoard(ret) && r.fatal == lib.SUCCESS {
				r.fatal = ret
			}
			b.LostSlices = append(b.LostSlices, gpu.Lost{Index: i, Reason: reason(ret)})
			continue
		}
		b.Slices = append(b.Slices, r.slice(m, gpu.ID(trimmed(uuid)), i, b.Nodes, minor, minors))
	}
}

func (r *reader) slice(m lib.Device, id gpu.ID, index int, boardNodes []string, minor *int, minors map[string]int) gpu.Slice {
	s := gpu.Slice{ID: id, Index: index}
	attributes := read(r, m.GetAttributes, "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes")
	if memory := read(r, m.GetMemoryInfo, "nvmlDeviceGetMemoryInfo"); memory != nil {
		s.MemoryMiB = mebibytes(memory.Total)
	} else if attributes != nil {
		v := int64(attributes.MemorySizeMB)
		s.MemoryMiB = &v
	}
	if name := read(r, m.GetName, "nvmlDeviceGetName"); name != nil {
		if _, profile, ok := strings.Cut(trimmed(*name), " MIG "); ok {
			s.Product, s.Profile = trimmed(*name), profile
		}
	}
	if s.Profile == "" && attributes != nil {
		s.Profile = profileOf(*attributes)
	}
	gi := read(r, m.GetGpuInstanceId, "nvmlDeviceGetGpuInstanceId")
	ci := read(r, m.GetComputeInstanceId, "nvmlDeviceGetComputeInstanceId")
	if minor != nil && gi != nil && ci != nil {
		s.Nodes = append(slices.Clone(boardNodes), r.host.sliceNodes(minors, *minor, *gi, *ci)...)
	}
	return s
}

// profileOf names a slice whose driver does not: "2g.10gb", or "1c.2g.10gb"
// for a part of its compute slices. The memory in a name is rounded up.
func profileOf(a lib.DeviceAttributes) string {
	name := fmt.Sprintf("%dg.%dgb", a.GpuInstanceSliceCount, (a.MemorySizeMB+1023)/1024)
	if a.ComputeInstanceSliceCount != a.GpuInstanceSliceCount {
		name = fmt.Sprintf("%dc.%s", a.ComputeInstanceSliceCount, name)
	}
	return name
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

// busID is "00000000:07:00.0", without the padding of the library's buffer.
func busID(p lib.PciInfo) string {
	text := make([]byte, 0, len(p.BusId))
	for _, c := range p.BusId {
		text = append(text, byte(c))
	}
	return trimmed(string(text))
}

// trimmed cuts a C string at its end.
func trimmed(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return strings.TrimSpace(s)
}

func onOff(s *lib.EnableState) string {
	switch {
	case s == nil:
		return ""
	case *s == lib.FEATURE_ENABLED:
		return "Enabled"
	}
	return "Disabled"
}

func mebibytes(bytes uint64) *int64 {
	v := int64(bytes >> 20)
	return &v
}

func number(v *uint32) *int64 {
	if v == nil {
		return nil
	}
	n := int64(*v)
	return &n
}

func watts(milliwatts *uint32) *int64 {
	if milliwatts == nil {
		return nil
	}
	w := int64(*milliwatts) / 1000
	return &w
}
