package gpu

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drover-ml/drover/nomadplugin/device"
)

// Errors that Reserve wraps. Nomad fails a task for good on any of them.
var (
	ErrUnknownGPU   = errors.New("no such GPU on this node")
	ErrIgnoredGPU   = errors.New("the GPU is in ignored_gpu_ids")
	ErrUnhealthyGPU = errors.New("the GPU is unhealthy")
)

// Reserve is what a task needs to use exactly the given devices: their IDs in
// NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, in board and slice order
// whatever order they came in, so that a rank has the same GPU every time, and
// their device files. All of the IDs can be used, or an error names those that
// cannot. No IDs give an empty reservation.
//
// Reserve holds no state: Nomad's scheduler keeps the books.
func (s State) Reserve(ignored IgnoreList, ids []ID) (*device.Reservation, error) {
	var picked []Device
	var problems []error
	for _, id := range ids {
		d, ok := s.Find(id)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("reserving %s: %w", id, ErrUnknownGPU))
		case ignored.Hides(d):
			problems = append(problems, fmt.Errorf("reserving %s: %w", id, ErrIgnoredGPU))
		case d.Fault != "":
			problems = append(problems, fmt.Errorf("reserving %s: %w: %s", id, ErrUnhealthyGPU, d.Fault))
		default:
			picked = append(picked, d)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	slices.SortFunc(picked, byPosition)
	picked = slices.CompactFunc(picked, func(a, b Device) bool { return a.ID == b.ID })

	r := &device.Reservation{Env: map[string]string{}}
	var visible, nodes []string
	for _, d := range picked {
		visible = append(visible, string(d.ID))
		for _, n := range d.Nodes {
			if !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
	}
	if len(visible) > 0 {
		list := strings.Join(visible, ",")
		r.Env["NVIDIA_VISIBLE_DEVICES"] = list
		r.Env["CUDA_VISIBLE_DEVICES"] = list
	}
	for _, n := range nodes {
		r.Devices = append(r.Devices, device.Node{TaskPath: n, HostPath: n, Permissions: "rw"})
	}
	return r, nil
}
