package nvml

import (
	"slices"
	"strings"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// slices reads the MIG devices of a board. The maximum is a capacity: devices
// sit at any of its indexes, with gaps.
func (r *reader) slices(d lib.Device, b *gpu.Board, minors map[string]int) {
	r.eachSlice(d, func(index int, m lib.Device, id gpu.ID, ret lib.Return) {
		if ret != lib.SUCCESS {
			b.LostSlices = append(b.LostSlices, gpu.Lost{Index: index, Reason: reason(ret)})
			return
		}
		s := r.slice(d, m, b.Specs.MemoryMiB)
		s.ID, s.Index = id, index
		if b.Minor != nil && s.GPUInstance != nil && s.ComputeInstance != nil {
			s.Nodes = append(slices.Clone(b.Nodes), r.host.sliceNodes(minors, *b.Minor, *s.GPUInstance, *s.ComputeInstance)...)
		}
		b.Slices = append(b.Slices, s)
	})
}

// eachSlice visits the MIG devices that there are, and those that do not tell
// their ID.
func (r *reader) eachSlice(d lib.Device, visit func(index int, m lib.Device, id gpu.ID, ret lib.Return)) {
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
		r.note(ret)
		visit(i, m, gpu.ID(trimmed(uuid)), ret)
	}
}

// slice reads a MIG device of a board with so much memory.
func (r *reader) slice(board, m lib.Device, boardMemoryMiB *int64) gpu.Slice {
	var s gpu.Slice
	attributes := read(r, m.GetAttributes, "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes")
	if attributes != nil && attributes.MultiprocessorCount > 0 {
		s.Multiprocessors = number(&attributes.MultiprocessorCount)
	}
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
		s.Profile = sliceProfile(*attributes, boardMemoryMiB)
	}
	s.GPUInstance = read(r, m.GetGpuInstanceId, "nvmlDeviceGetGpuInstanceId")
	s.ComputeInstance = read(r, m.GetComputeInstanceId, "nvmlDeviceGetComputeInstanceId")
	if s.GPUInstance != nil {
		if at := r.placement(board, *s.GPUInstance); at != nil {
			start, size := int(at.Start), int(at.Size)
			s.Start, s.Size = &start, &size
		}
	}
	return s
}

// placement is where a GPU instance is on its board; nil if unknown.
func (r *reader) placement(board lib.Device, gpuInstance int) *lib.GpuInstancePlacement {
	instance := read(r, func() (lib.GpuInstance, lib.Return) {
		return board.GetGpuInstanceById(gpuInstance)
	}, "nvmlDeviceGetGpuInstanceById")
	if instance == nil {
		return nil
	}
	info := read(r, (*instance).GetInfo, "nvmlGpuInstanceGetInfo")
	if info == nil {
		return nil
	}
	return &info.Placement
}
