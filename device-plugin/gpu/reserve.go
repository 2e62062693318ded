package gpu

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// Errors that Reserve wraps. Nomad fails a task for good on any of them.
var (
	ErrUnknownGPU   = errors.New("no such GPU on this node")
	ErrHiddenGPU    = errors.New("the GPU is not on offer")
	ErrUnhealthyGPU = errors.New("the GPU is unhealthy")
)

// CDIKind is the first part of a device's name in the Container Device
// Interface: "nvidia.com/gpu=GPU-...".
const CDIKind = "nvidia.com/gpu"

// CDIVariable is the environment variable with the CDI names of a task's
// devices, for drivers and tools that speak it; Nomad's protocol does not.
const CDIVariable = "DROVER_CDI_DEVICES"

// Select finds the devices that were reserved, in board and slice order
// whatever order they came in, so that a rank has the same GPU every time. All
// of them can be used, or an error names those that cannot, and why.
func (o Offer) Select(ids []ID) ([]Device, error) {
	var problems []error
	for _, id := range ids {
		d, ok := o.Find(id)
		switch why := o.hidden[id]; {
		case !ok && why != "":
			problems = append(problems, fmt.Errorf("reserving %s: %w: %s", id, ErrHiddenGPU, why))
		case !ok:
			problems = append(problems, fmt.Errorf("reserving %s: %w", id, ErrUnknownGPU))
		case !d.Fault.OK():
			// Worded as the driver words it, so that whoever schedules the task
			// knows that this is not its own doing.
			failed := gpustatus.TaskError(gpustatus.Device{ID: string(id), Reason: d.Fault.Reason})
			problems = append(problems, fmt.Errorf("reserving %s: %w: %w", id, ErrUnhealthyGPU, failed))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	var picked []Device
	for _, d := range o.Devices {
		if slices.Contains(ids, d.ID) {
			picked = append(picked, d)
		}
	}
	return picked, nil
}

// Reservation is what a task needs to use exactly the given devices: how CUDA,
// the container runtime and CDI name them, and their device files. No devices
// give an empty reservation.
//
// It holds no state: Nomad's scheduler keeps the books.
func (o Offer) Reservation(devices []Device) *device.Reservation {
	r := &device.Reservation{Env: map[string]string{}}
	if len(devices) == 0 {
		return r
	}
	var cuda, hardware, cdi, nodes []string
	for _, d := range devices {
		// Two replicas of one board are one device to the program.
		cuda = appendNew(cuda, o.cudaName(d))
		hardware = appendNew(hardware, string(d.Hardware))
		cdi = appendNew(cdi, CDIKind+"="+string(d.Hardware))
		for _, n := range d.Nodes {
			nodes = appendNew(nodes, n)
		}
	}
	for _, n := range nodes {
		r.Devices = append(r.Devices, device.Node{TaskPath: n, HostPath: n, Permissions: "rw"})
	}
	r.Env[gpustatus.NodesVariable] = strings.Join(nodes, ",")
	r.Env["CUDA_VISIBLE_DEVICES"] = strings.Join(cuda, ",")
	r.Env["NVIDIA_VISIBLE_DEVICES"] = strings.Join(hardware, ",")
	r.Env[CDIVariable] = strings.Join(cdi, ",")
	return r
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// firstMIGUUID is the branch of the first driver whose CUDA finds a slice by
// its own UUID. Before it, the slice is named by its board and instances:
// "MIG-GPU-<UUID>/<GPU instance>/<compute instance>".
const firstMIGUUID = 470

// cudaName is what CUDA_VISIBLE_DEVICES says of a device.
func (o Offer) cudaName(d Device) string {
	branch, known := branchOf(o.state.DriverVersion)
	if d.Slice == nil || !known || branch >= firstMIGUUID || strings.Contains(string(d.Hardware), "/") ||
		d.Slice.GPUInstance == nil || d.Slice.ComputeInstance == nil {
		return string(d.Hardware)
	}
	return fmt.Sprintf("MIG-%s/%d/%d", d.Parent, *d.Slice.GPUInstance, *d.Slice.ComputeInstance)
}
