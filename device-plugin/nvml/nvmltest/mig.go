package nvmltest

import (
	"fmt"
	"slices"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// profileNumbers are NVML's numbers of the profiles of boards with seven
// compute slices.
var profileNumbers = map[int]struct {
	compute, size int
	suffix        string
}{
	lib.GPU_INSTANCE_PROFILE_1_SLICE:      {1, 1, ""},
	lib.GPU_INSTANCE_PROFILE_1_SLICE_REV1: {1, 1, "+me"},
	lib.GPU_INSTANCE_PROFILE_1_SLICE_REV2: {1, 2, ""},
	lib.GPU_INSTANCE_PROFILE_2_SLICE:      {2, 2, ""},
	lib.GPU_INSTANCE_PROFILE_3_SLICE:      {3, 4, ""},
	lib.GPU_INSTANCE_PROFILE_4_SLICE:      {4, 4, ""},
	lib.GPU_INSTANCE_PROFILE_7_SLICE:      {7, 8, ""},
}

// computeProfiles are NVML's numbers of compute instance profiles.
var computeProfiles = map[int]int{
	lib.COMPUTE_INSTANCE_PROFILE_1_SLICE: 1, lib.COMPUTE_INSTANCE_PROFILE_2_SLICE: 2,
	lib.COMPUTE_INSTANCE_PROFILE_3_SLICE: 3, lib.COMPUTE_INSTANCE_PROFILE_4_SLICE: 4, lib.COMPUTE_INSTANCE_PROFILE_7_SLICE: 7,
}

// instance is a GPU instance.
type instance struct {
	mock.GpuInstance
	board   *Board
	id      int
	number  int // NVML's, of its profile
	profile mig.Profile
	place   lib.GpuInstancePlacement
	compute map[int]*computeInstance
}

// computeInstance is a compute instance, and the MIG device that comes with
// it.
type computeInstance struct {
	mock.ComputeInstance
	id, slices int
	index      int // of the MIG device
	uuid       string
	device     *mock.Device
}

// profile is one that the board has. The go-nvml mocks' own tables are not
// those of hardware for boards after the A100.
func (b *Board) profile(number int) (mig.Profile, bool) {
	model, ok := mig.ModelOf(b.Config.Name)
	kind, known := profileNumbers[number]
	if !ok || !known {
		return mig.Profile{}, false
	}
	for _, p := range model.Profiles {
		want := fmt.Sprintf("%dg.", kind.compute)
		if p.Compute == kind.compute && p.Size == kind.size && len(p.Name) > len(want) && suffixOf(p.Name) == kind.suffix {
			return p, true
		}
	}
	return mig.Profile{}, false
}

func suffixOf(name string) string {
	if i := slices.IndexFunc([]byte(name), func(c byte) bool { return c == '+' || c == '-' }); i >= 0 {
		return name[i:]
	}
	return ""
}

func (b *Board) migFuncs() {
	d := b.Device
	d.GetMigModeFunc = func() (int, int, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.mig, b.next, lib.SUCCESS
	}
	d.SetMigModeFunc = b.setMode
	d.GetMaxMigDeviceCountFunc = func() (int, lib.Return) { return 7, lib.SUCCESS }
	d.GetMigDeviceHandleByIndexFunc = func(index int) (lib.Device, lib.Return) {
		if c := b.find(func(_ *instance, c *computeInstance) bool { return c.index == index }); c != nil {
			return c.device, lib.SUCCESS
		}
		return nil, lib.ERROR_NOT_FOUND
	}
	d.GetGpuInstanceProfileInfoFunc = func(number int) (lib.GpuInstanceProfileInfo, lib.Return) {
		p, ok := b.profile(number)
		if !ok {
			return lib.GpuInstanceProfileInfo{}, lib.ERROR_NOT_SUPPORTED
		}
		return lib.GpuInstanceProfileInfo{
			Id: profileID(number), SliceCount: uint32(p.Compute), InstanceCount: uint32(p.Max), MemorySizeMB: uint64(b.memoryMiB(p)),
		}, lib.SUCCESS
	}
	d.GetGpuInstancesFunc = func(info *lib.GpuInstanceProfileInfo) ([]lib.GpuInstance, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		handles := []lib.GpuInstance{}
		for _, in := range b.instances {
			if profileID(in.number) == info.Id {
				handles = append(handles, in)
			}
		}
		return handles, lib.SUCCESS
	}
	d.GetGpuInstanceByIdFunc = func(id int) (lib.GpuInstance, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if in, ok := b.instances[id]; ok {
			return in, lib.SUCCESS
		}
		return nil, lib.ERROR_NOT_FOUND
	}
	d.CreateGpuInstanceWithPlacementFunc = b.create
}

// profileID is not the number in NVML's list, on hardware.
func profileID(number int) uint32 { return uint32(19 - number) }

func (b *Board) memoryMiB(p mig.Profile) int64 {
	if p.MemoryMiB != nil {
		return *p.MemoryMiB
	}
	return int64(b.Config.MemoryMB) * int64(p.Size) / 8
}

// setMode refuses while there are instances, and waits for a reset while the
// board is in use, where it is of that kind.
func (b *Board) setMode(mode int) (lib.Return, lib.Return) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case mode == b.mig:
		b.next = mode
		return lib.SUCCESS, lib.SUCCESS
	case len(b.instances) > 0:
		return lib.ERROR_IN_USE, lib.ERROR_IN_USE
	case len(b.Compute)+len(b.Graphics)+len(b.MPS) == 0:
		b.mig, b.next = mode, mode
		return lib.SUCCESS, lib.SUCCESS
	case b.NeedsReset:
		b.next = mode
		return lib.ERROR_IN_USE, lib.SUCCESS
	}
	return lib.ERROR_IN_USE, lib.ERROR_IN_USE
}

// Reset resets the board, after which it has no instances.
func (b *Board) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mig, b.instances = b.next, map[int]*instance{}
	b.Pending = false
}

func (b *Board) create(info *lib.GpuInstanceProfileInfo, at *lib.GpuInstancePlacement) (lib.GpuInstance, lib.Return) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mig != lib.DEVICE_MIG_ENABLE {
		return nil, lib.ERROR_NOT_SUPPORTED
	}
	number := 19 - int(info.Id)
	p, ok := b.profile(number)
	if !ok || int(at.Size) != p.Size || !slices.Contains(p.Starts, int(at.Start)) {
		return nil, lib.ERROR_INVALID_ARGUMENT
	}
	same := 0
	for _, in := range b.instances {
		if in.number == number {
			same++
		}
		if at.Start < in.place.Start+in.place.Size && in.place.Start < at.Start+at.Size {
			return nil, lib.ERROR_INSUFFICIENT_RESOURCES
		}
	}
	if same >= p.Max {
		return nil, lib.ERROR_INSUFFICIENT_RESOURCES
	}
	// Large ones have the lower IDs, as on hardware; 0 is a whole board's.
	id := map[int]int{7: 0, 4: 1, 3: 1, 2: 3, 1: 7}[p.Compute]
	for b.instances[id] != nil {
		id++
	}
	in := &instance{board: b, id: id, number: number, profile: p, place: *at, compute: map[int]*computeInstance{}}
	in.funcs()
	b.instances[id] = in
	return in, lib.SUCCESS
}

func (in *instance) funcs() {
	b := in.board
	in.GetInfoFunc = func() (lib.GpuInstanceInfo, lib.Return) {
		return lib.GpuInstanceInfo{Device: b.Device, Id: uint32(in.id), ProfileId: profileID(in.number), Placement: in.place}, lib.SUCCESS
	}
	in.DestroyFunc = func() lib.Return {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(in.compute) > 0 {
			return lib.ERROR_IN_USE
		}
		delete(b.instances, in.id)
		return lib.SUCCESS
	}
	in.GetComputeInstanceProfileInfoFunc = func(number, _ int) (lib.ComputeInstanceProfileInfo, lib.Return) {
		compute, ok := computeProfiles[number]
		if !ok || compute > in.profile.Compute {
			return lib.ComputeInstanceProfileInfo{}, lib.ERROR_NOT_SUPPORTED
		}
		return lib.ComputeInstanceProfileInfo{
			Id: uint32(number), SliceCount: uint32(compute), InstanceCount: uint32(in.profile.Compute / compute), MultiprocessorCount: uint32(14 * compute),
		}, lib.SUCCESS
	}
	in.GetComputeInstancesFunc = func(info *lib.ComputeInstanceProfileInfo) ([]lib.ComputeInstance, lib.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		handles := []lib.ComputeInstance{}
		for _, c := range in.compute {
			if c.slices == int(info.SliceCount) {
				handles = append(handles, c)
			}
		}
		return handles, lib.SUCCESS
	}
	in.CreateComputeInstanceFunc = in.create
	Unsupported(&in.GpuInstance)
}

func (in *instance) create(info *lib.ComputeInstanceProfileInfo) (lib.ComputeInstance, lib.Return) {
	b := in.board
	b.mu.Lock()
	defer b.mu.Unlock()
	used := 0
	for _, c := range in.compute {
		used += c.slices
	}
	if used+int(info.SliceCount) > in.profile.Compute {
		return nil, lib.ERROR_INSUFFICIENT_RESOURCES
	}
	c := &computeInstance{slices: int(info.SliceCount)}
	for in.compute[c.id] != nil {
		c.id++
	}
	taken := func(index int) bool {
		for _, other := range b.instances {
			for _, d := range other.compute {
				if d.index == index {
					return true
				}
			}
		}
		return false
	}
	for taken(c.index) {
		c.index++
	}
	c.uuid = fmt.Sprintf("MIG-%08d-0000-0000-%04d-%012d", b.Device.Index, in.id, c.id)
	c.device = in.device(c)
	c.GetInfoFunc = func() (lib.ComputeInstanceInfo, lib.Return) {
		return lib.ComputeInstanceInfo{Device: b.Device, GpuInstance: in, Id: uint32(c.id), ProfileId: info.Id}, lib.SUCCESS
	}
	c.DestroyFunc = func() lib.Return {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range slices.Concat(b.Compute, b.Graphics, b.MPS) {
			if int(p.GPUInstance) == in.id && int(p.ComputeInstance) == c.id {
				return lib.ERROR_IN_USE
			}
		}
		delete(in.compute, c.id)
		return lib.SUCCESS
	}
	Unsupported(&c.ComputeInstance)
	in.compute[c.id] = c
	return c, lib.SUCCESS
}

// device is the MIG device of a compute instance. Of its statistics the driver
// tells the memory only.
func (in *instance) device(c *computeInstance) *mock.Device {
	b := in.board
	memory := uint64(b.memoryMiB(in.profile))
	name := in.profile.Name
	if c.slices != in.profile.Compute {
		name = fmt.Sprintf("%dc.%s", c.slices, name)
	}
	d := &mock.Device{
		GetUUIDFunc: func() (string, lib.Return) { return c.uuid, lib.SUCCESS },
		GetNameFunc: func() (string, lib.Return) { return b.Config.Name + " MIG " + name, lib.SUCCESS },
		GetMemoryInfoFunc: func() (lib.Memory, lib.Return) {
			return lib.Memory{Total: memory << 20, Used: 13 << 20}, lib.SUCCESS
		},
		GetAttributesFunc: func() (lib.DeviceAttributes, lib.Return) {
			return lib.DeviceAttributes{
				GpuInstanceSliceCount: uint32(in.profile.Compute), ComputeInstanceSliceCount: uint32(c.slices),
				MemorySizeMB: memory, MultiprocessorCount: uint32(14 * c.slices),
			}, lib.SUCCESS
		},
		GetGpuInstanceIdFunc:                   func() (int, lib.Return) { return in.id, lib.SUCCESS },
		GetComputeInstanceIdFunc:               func() (int, lib.Return) { return c.id, lib.SUCCESS },
		GetDeviceHandleFromMigDeviceHandleFunc: func() (lib.Device, lib.Return) { return b.Device, lib.SUCCESS },
	}
	Unsupported(d)
	return d
}

// find is the first compute instance of which something holds.
func (b *Board) find(holds func(*instance, *computeInstance) bool) *computeInstance {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, in := range b.instances {
		for _, c := range in.compute {
			if holds(in, c) {
				return c
			}
		}
	}
	return nil
}

func (b *Board) slice(uuid string) lib.Device {
	if c := b.find(func(_ *instance, c *computeInstance) bool { return c.uuid == uuid }); c != nil {
		return c.device
	}
	return nil
}
