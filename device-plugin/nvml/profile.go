package nvml

import (
	"fmt"
	"math"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// profileSuffixes are what tells profiles of one size apart.
var profileSuffixes = map[int]string{
	lib.GPU_INSTANCE_PROFILE_1_SLICE_REV1:   "+me",
	lib.GPU_INSTANCE_PROFILE_2_SLICE_REV1:   "+me",
	lib.GPU_INSTANCE_PROFILE_1_SLICE_GFX:    "+gfx",
	lib.GPU_INSTANCE_PROFILE_2_SLICE_GFX:    "+gfx",
	lib.GPU_INSTANCE_PROFILE_3_SLICE_GFX:    "+gfx",
	lib.GPU_INSTANCE_PROFILE_4_SLICE_GFX:    "+gfx",
	lib.GPU_INSTANCE_PROFILE_1_SLICE_NO_ME:  "-me",
	lib.GPU_INSTANCE_PROFILE_2_SLICE_NO_ME:  "-me",
	lib.GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
	lib.GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
}

// instanceProfile names a GPU instance profile, "1g.10gb+me". The number is
// that of NVML's list of profiles, not the profile's ID.
func instanceProfile(profile int, info lib.GpuInstanceProfileInfo, boardMemoryMiB *int64) string {
	return fmt.Sprintf("%dg.%dgb%s", info.SliceCount, profileGB(info.MemorySizeMB, boardMemoryMiB), profileSuffixes[profile])
}

// sliceProfile names a slice whose driver does not: "2g.10gb", or
// "1c.2g.10gb" for a part of its compute slices.
func sliceProfile(a lib.DeviceAttributes, boardMemoryMiB *int64) string {
	name := fmt.Sprintf("%dg.%dgb", a.GpuInstanceSliceCount, profileGB(a.MemorySizeMB, boardMemoryMiB))
	if a.ComputeInstanceSliceCount != a.GpuInstanceSliceCount {
		name = fmt.Sprintf("%dc.%s", a.ComputeInstanceSliceCount, name)
	}
	return name
}

// profileGB is the memory in a profile's name: so many eighths of the board's
// as the slice has, rounded. A slice's own memory is a bit less, by what the
// driver needs: on an H200 a 1g.18gb has 16 GiB. Where the board's memory is
// not known the slice's is rounded up, which is right for most boards.
func profileGB(sliceMiB uint64, boardMemoryMiB *int64) int {
	if boardMemoryMiB == nil || *boardMemoryMiB <= 0 {
		return int((sliceMiB + 1023) / 1024)
	}
	board := float64(*boardMemoryMiB)
	const slack = .1 // of an eighth; boards tell their memory with and without what the driver needs
	eighths := math.Ceil(float64(sliceMiB)/board*8 - slack)
	return int(math.Round(eighths / 8 * math.Ceil(board/1024)))
}
