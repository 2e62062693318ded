package nvml

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
)

// Boards lists the boards that can be in MIG mode, as they are. One that
// cannot be read to the end is left out: a plan made from half a reading would
// be wrong.
func (s *Source) Boards(context.Context) ([]mig.Board, error) {
	var boards []mig.Board
	err := s.use("reading MIG boards", func() error {
		count, err := s.count()
		if err != nil {
			return err
		}
		for i := range count {
			d, ret := s.lib.DeviceGetHandleByIndex(i)
			if ret != lib.SUCCESS {
				continue
			}
			r := &reader{Source: s}
			if b, ok := r.migBoard(d); ok && r.fatal == lib.SUCCESS {
				b.Index = i
				boards = append(boards, b)
			}
		}
		return nil
	})
	return boards, err
}

func (r *reader) migBoard(d lib.Device) (mig.Board, bool) {
	if !r.has("nvmlDeviceGetMigMode") {
		return mig.Board{}, false
	}
	current, pending, ret := d.GetMigMode()
	if ret != lib.SUCCESS {
		return mig.Board{}, false
	}
	uuid, ret := d.GetUUID()
	if ret != lib.SUCCESS {
		return mig.Board{}, false
	}
	b := mig.Board{ID: trimmed(uuid), Enabled: current == lib.DEVICE_MIG_ENABLE, Pending: pending == lib.DEVICE_MIG_ENABLE}
	if name := read(r, d.GetName, "nvmlDeviceGetName"); name != nil {
		b.Product = trimmed(*name)
	}
	if pci := r.pci(d); pci != nil {
		b.PCIDeviceID = deviceID(*pci)
	}
	b.ProfileNames = r.profileNames(d)
	if b.Enabled {
		instances, err := r.instances(d)
		if err != nil {
			r.warn("the MIG instances of GPU "+b.ID+" cannot be read; none of them is changed", err)
			return mig.Board{}, false
		}
		b.Instances = instances
	}
	for _, p := range r.listProcesses(d) {
		pid := int(p.Pid)
		if !slices.Contains(b.Processes, pid) {
			b.Processes = append(b.Processes, pid)
		}
		for i := range b.Instances {
			in := &b.Instances[i]
			if uint32(in.GPUInstance) == p.GpuInstanceId && !slices.Contains(in.Processes, pid) {
				in.Processes = append(in.Processes, pid)
			}
		}
	}
	return b, true
}

// profileNames are the profiles that a board has; nil if that cannot be read.
func (r *reader) profileNames(d lib.Device) []string {
	var names []string
	if err := r.eachProfile(d, func(name string, _ lib.GpuInstanceProfileInfo) error {
		names = append(names, name)
		return nil
	}); err != nil {
		return nil
	}
	return names
}

// instances are the GPU instances of a board, by their place.
func (r *reader) instances(d lib.Device) ([]mig.Instance, error) {
	var instances []mig.Instance
	err := r.eachProfile(d, func(name string, info lib.GpuInstanceProfileInfo) error {
		if info.InstanceCount == 0 {
			return nil
		}
		handles, ret := d.GetGpuInstances(&info)
		if ret != lib.SUCCESS {
			return fmt.Errorf("listing GPU instances of profile %s: %s", name, reason(ret))
		}
		for _, h := range handles {
			in, err := r.instance(h)
			if err != nil {
				return err
			}
			in.Profile = name
			instances = append(instances, in)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	type slice struct {
		id                           gpu.ID
		gpuInstance, computeInstance int
	}
	var found []slice
	r.eachSlice(d, func(_ int, m lib.Device, id gpu.ID, ret lib.Return) {
		if ret != lib.SUCCESS {
			return
		}
		gi := read(r, m.GetGpuInstanceId, "nvmlDeviceGetGpuInstanceId")
		ci := read(r, m.GetComputeInstanceId, "nvmlDeviceGetComputeInstanceId")
		if gi != nil && ci != nil {
			found = append(found, slice{id, *gi, *ci})
		}
	})
	slices.SortFunc(found, func(a, b slice) int { return cmp.Compare(a.computeInstance, b.computeInstance) })
	for i := range instances {
		for _, f := range found {
			if f.gpuInstance == instances[i].GPUInstance {
				instances[i].UUIDs = append(instances[i].UUIDs, string(f.id))
			}
		}
	}
	slices.SortFunc(instances, func(a, b mig.Instance) int {
		return cmp.Or(cmp.Compare(a.Placement.Start, b.Placement.Start), cmp.Compare(a.GPUInstance, b.GPUInstance))
	})
	return instances, nil
}

// instance reads a GPU instance, with the sizes of its compute instances in
// the order of their IDs.
func (r *reader) instance(h lib.GpuInstance) (mig.Instance, error) {
	info, ret := h.GetInfo()
	if ret != lib.SUCCESS {
		return mig.Instance{}, fmt.Errorf("reading a GPU instance: %s", reason(ret))
	}
	in := mig.Instance{
		GPUInstance: int(info.Id),
		Placement:   mig.Placement{Start: int(info.Placement.Start), Size: int(info.Placement.Size)},
	}
	compute, err := computeInstances(h)
	for _, c := range compute {
		in.Compute = append(in.Compute, c.slices)
	}
	return in, err
}

// computeInstance is one with its ID and number of compute slices.
type computeInstance struct {
	lib.ComputeInstance
	id, slices int
}

// computeInstances are those of a GPU instance, by their IDs.
func computeInstances(h lib.GpuInstance) ([]computeInstance, error) {
	var all []computeInstance
	for profile := range lib.COMPUTE_INSTANCE_PROFILE_COUNT {
		info, ret := h.GetComputeInstanceProfileInfo(profile, lib.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if isAbsent(ret) || ret == lib.SUCCESS && info.InstanceCount == 0 {
			continue
		}
		var handles []lib.ComputeInstance
		if ret == lib.SUCCESS {
			handles, ret = h.GetComputeInstances(&info)
		}
		if ret != lib.SUCCESS {
			return nil, fmt.Errorf("listing compute instances: %s", reason(ret))
		}
		for _, c := range handles {
			ci, ret := c.GetInfo()
			if ret != lib.SUCCESS {
				return nil, fmt.Errorf("reading a compute instance: %s", reason(ret))
			}
			all = append(all, computeInstance{c, int(ci.Id), int(info.SliceCount)})
		}
	}
	slices.SortFunc(all, func(a, b computeInstance) int { return cmp.Compare(a.id, b.id) })
	return all, nil
}

// isAbsent tells the answers for a profile that a board does not have.
func isAbsent(ret lib.Return) bool {
	return ret == lib.ERROR_NOT_SUPPORTED || ret == lib.ERROR_INVALID_ARGUMENT || ret == lib.ERROR_NOT_FOUND
}

// eachProfile visits the GPU instance profiles that a board has.
func (r *reader) eachProfile(d lib.Device, visit func(name string, info lib.GpuInstanceProfileInfo) error) error {
	if err := r.needs(readsMIG); err != nil {
		return err
	}
	memory := r.memoryMiB(d)
	for profile := range lib.GPU_INSTANCE_PROFILE_COUNT {
		info, ret := d.GetGpuInstanceProfileInfo(profile)
		if isAbsent(ret) {
			continue
		}
		if ret != lib.SUCCESS {
			return fmt.Errorf("reading MIG profiles: %s", reason(ret))
		}
		if err := visit(instanceProfile(profile, info, memory), info); err != nil {
			return err
		}
	}
	return nil
}

// What the library must have to read and to change MIG instances.
var (
	readsMIG = [][]string{
		{"nvmlDeviceGetGpuInstanceProfileInfo"}, {"nvmlDeviceGetGpuInstances"}, {"nvmlGpuInstanceGetInfo"},
		{"nvmlGpuInstanceGetComputeInstanceProfileInfo"}, {"nvmlGpuInstanceGetComputeInstances"},
		{"nvmlComputeInstanceGetInfo_v2", "nvmlComputeInstanceGetInfo"},
	}
	createsMIG  = [][]string{{"nvmlDeviceCreateGpuInstanceWithPlacement"}, {"nvmlGpuInstanceCreateComputeInstance"}, {"nvmlGpuInstanceDestroy"}, {"nvmlComputeInstanceDestroy"}}
	destroysMIG = [][]string{{"nvmlDeviceGetGpuInstanceById"}, {"nvmlGpuInstanceDestroy"}, {"nvmlComputeInstanceDestroy"}}
)

// needs is an error if the library lacks one of the functions; of each, one
// version is enough.
func (s *Source) needs(functions [][]string) error {
	for _, symbols := range functions {
		if !s.has(symbols...) {
			return fmt.Errorf("%s lacks %s; install a newer NVIDIA driver", libraryName, symbols[0])
		}
	}
	return nil
}

// change does something to a board, by use or alone. All errors name the board
// and what was to be done; those for which a process is to blame wrap
// mig.ErrInUse.
func (s *Source) change(with func(func() error) error, board, doing string, do func(*reader, lib.Device) error) error {
	doing = fmt.Sprintf("%s on GPU %s", doing, board)
	err := with(func() error {
		if err := s.needs([][]string{{"nvmlDeviceGetHandleByUUID"}}); err != nil {
			return err
		}
		d, ret := s.lib.DeviceGetHandleByUUID(board)
		if ret != lib.SUCCESS {
			return errors.New(reason(ret))
		}
		return do(&reader{Source: s}, d)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.changed()
	return nil
}

func (s *Source) shared(f func() error) error { return s.use("changing MIG instances", f) }

// migError is why a change of MIG instances failed.
func migError(ret lib.Return) error {
	switch ret {
	case lib.SUCCESS:
		return nil
	case lib.ERROR_IN_USE:
		return mig.ErrInUse
	case lib.ERROR_INSUFFICIENT_RESOURCES:
		return errors.New("the driver has no room for it there")
	case lib.ERROR_NO_PERMISSION:
		return errors.New("no permission to change MIG instances; run it as root")
	}
	return errors.New(reason(ret))
}

// SetMode turns MIG mode on or off. The change is pending where it takes a
// reset of the board. Nothing else of this process has a board open meanwhile.
func (s *Source) SetMode(_ context.Context, board string, enabled bool) (pending bool, err error) {
	mode, doing := lib.DEVICE_MIG_DISABLE, "turning MIG mode off"
	if enabled {
		mode, doing = lib.DEVICE_MIG_ENABLE, "turning MIG mode on"
	}
	err = s.change(s.alone, board, doing, func(r *reader, d lib.Device) error {
		if err := r.needs([][]string{{"nvmlDeviceSetMigMode"}, {"nvmlDeviceGetMigMode"}}); err != nil {
			return err
		}
		activation, ret := d.SetMigMode(mode)
		if ret != lib.SUCCESS {
			return migError(ret)
		}
		current, next, ret := d.GetMigMode()
		if ret != lib.SUCCESS {
			return migError(ret)
		}
		if pending = current != mode; !pending {
			return nil
		}
		if next != mode { // not even for later
			return cmp.Or(migError(activation), errors.New("the driver did not take the change"))
		}
		return nil
	})
	return pending && err == nil, err
}

// Create makes a GPU instance and its compute instances, or nothing.
func (s *Source) Create(_ context.Context, board string, in mig.Instance) error {
	doing := fmt.Sprintf("creating %s at %d:%d", in.Profile, in.Placement.Start, in.Placement.Size)
	return s.change(s.shared, board, doing, func(r *reader, d lib.Device) error {
		if err := r.needs(createsMIG); err != nil {
			return err
		}
		profile, err := r.profile(d, in.Profile)
		if err != nil {
			return err
		}
		place := lib.GpuInstancePlacement{Start: uint32(in.Placement.Start), Size: uint32(in.Placement.Size)}
		instance, ret := d.CreateGpuInstanceWithPlacement(&profile, &place)
		if ret != lib.SUCCESS {
			return fmt.Errorf("its GPU instance: %w", migError(ret))
		}
		for _, compute := range in.Compute {
			if err := createCompute(instance, compute); err != nil {
				// Without them it is of no use, and in the way of the next try.
				return errors.Join(err, destroy(instance))
			}
		}
		return nil
	})
}

// profile finds a GPU instance profile by its name.
func (r *reader) profile(d lib.Device, name string) (lib.GpuInstanceProfileInfo, error) {
	var found *lib.GpuInstanceProfileInfo
	var names []string
	err := r.eachProfile(d, func(n string, info lib.GpuInstanceProfileInfo) error {
		names = append(names, n)
		if n == name {
			found = &info
		}
		return nil
	})
	switch {
	case err != nil:
		return lib.GpuInstanceProfileInfo{}, err
	case found == nil:
		return lib.GpuInstanceProfileInfo{}, fmt.Errorf("the driver has no such profile; it has %v", names)
	}
	return *found, nil
}

// createCompute makes a compute instance of so many compute slices.
func createCompute(instance lib.GpuInstance, compute int) error {
	for profile := range lib.COMPUTE_INSTANCE_PROFILE_COUNT {
		info, ret := instance.GetComputeInstanceProfileInfo(profile, lib.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if ret != lib.SUCCESS || int(info.SliceCount) != compute {
			continue
		}
		if _, ret = instance.CreateComputeInstance(&info); ret != lib.SUCCESS {
			return fmt.Errorf("its compute instance of %d slices: %w", compute, migError(ret))
		}
		return nil
	}
	return fmt.Errorf("the driver has no compute instance of %d slices for it", compute)
}

// Destroy removes a GPU instance and its compute instances. One that is gone
// already is no error.
func (s *Source) Destroy(_ context.Context, board string, gpuInstance int) error {
	return s.change(s.shared, board, fmt.Sprintf("destroying GPU instance %d", gpuInstance), func(r *reader, d lib.Device) error {
		if err := cmp.Or(r.needs(readsMIG), r.needs(destroysMIG)); err != nil {
			return err
		}
		instance, ret := d.GetGpuInstanceById(gpuInstance)
		switch ret {
		case lib.SUCCESS:
			return destroy(instance)
		case lib.ERROR_NOT_FOUND:
			return nil
		}
		return migError(ret)
	})
}

// destroy begins with the compute instances, without which the driver would
// refuse. If one of them is in use all that is left stays.
func destroy(instance lib.GpuInstance) error {
	compute, err := computeInstances(instance)
	if err != nil {
		return err
	}
	for _, c := range compute {
		if ret := c.Destroy(); ret != lib.SUCCESS {
			return fmt.Errorf("its compute instance %d: %w", c.id, migError(ret))
		}
	}
	if ret := instance.Destroy(); ret != lib.SUCCESS {
		return fmt.Errorf("its GPU instance: %w", migError(ret))
	}
	return nil
}
