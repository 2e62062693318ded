package nvml

import (
	"fmt"
	"math"
	"strings"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

// reader reads one board. It remembers the first error after which nothing
// works on it.
type reader struct {
	*Source
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
	r.note(ret)
	return nil
}

// note remembers an error after which nothing works on the board.
func (r *reader) note(ret lib.Return) {
	if concernsBoard(ret) && r.fatal == lib.SUCCESS {
		r.fatal = ret
	}
}

// board reads the board at an index. The result is an error only if the board
// cannot be identified.
func (s *Source) board(index int, minors map[string]int) (gpu.Board, lib.Return) {
	d, ret := s.lib.DeviceGetHandleByIndex(index)
	if ret != lib.SUCCESS {
		return gpu.Board{}, ret
	}
	uuid, ret := d.GetUUID()
	if ret != lib.SUCCESS {
		return gpu.Board{}, ret
	}
	r := &reader{Source: s}
	b := gpu.Board{ID: gpu.ID(trimmed(uuid)), Index: index}
	if name := read(r, d.GetName, "nvmlDeviceGetName"); name != nil {
		b.Product = trimmed(*name)
	}
	if pci := r.pci(d); pci != nil {
		b.PCIBusID, b.PCIDeviceID = busID(*pci), deviceID(*pci)
	}
	if serial := read(r, d.GetSerial, "nvmlDeviceGetSerial"); serial != nil {
		b.Serial = trimmed(*serial)
	}
	b.NUMANode, b.CPUs = r.locality(d, b.PCIBusID)
	b.Minor = read(r, d.GetMinorNumber, "nvmlDeviceGetMinorNumber")
	if b.Minor != nil {
		b.Nodes = s.host.boardNodes(*b.Minor)
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
		r.slices(d, &b, minors)
	case mode != lib.SUCCESS && mode != lib.ERROR_NOT_SUPPORTED:
		// Offered as a whole, it might be a board whose slices are in use.
		b.Fault = "reading the MIG mode: " + reason(mode)
	}
	if r.fatal != lib.SUCCESS {
		b.Fault = reason(r.fatal)
		if r.fatal == lib.ERROR_GPU_IS_LOST {
			b.FaultAction = gpustatus.End
		}
	}
	if b.Product == "" && b.Fault == "" {
		b.Fault = "the driver does not tell the product name"
	}
	return b, lib.SUCCESS
}

func (r *reader) pci(d lib.Device) *lib.PciInfo {
	return read(r, d.GetPciInfo, "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo")
}

// deviceID is "0x233010DE", the model's and then the maker's; "" if unknown.
func deviceID(p lib.PciInfo) string {
	if p.PciDeviceId == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08X", p.PciDeviceId)
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

// counted is nil for a counter that the driver has but that says nothing: all
// bits are set then.
func counted(v *uint64) *int64 {
	if v == nil || *v > math.MaxInt64 {
		return nil
	}
	return integer(*v)
}

func integer[T int | int32 | int64 | uint16 | uint32 | uint64 | lib.Pstates](v T) *int64 {
	n := int64(v)
	return &n
}
