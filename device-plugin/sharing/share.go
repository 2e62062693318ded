package sharing

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// Limits tells how far the limits of a replica hold.
type Limits string

// The ways.
const (
	// None is of time-slicing.
	None Limits = "none"
	// Enforced limits hold for all processes that use the device together: none
	// outside of MPS can while one does within.
	Enforced Limits = "enforced"
	// Trusted limits hold for every process that keeps its environment.
	Trusted Limits = "trusted"
	// Simulated limits are of devices that do not exist.
	Simulated Limits = "simulated"
)

// Share is how one board or slice is shared: the part of each of its replicas.
type Share struct {
	Device   gpu.ID // the board or slice
	Mode     Mode
	Replicas int
	Limits   Limits
	// ThreadPercent is of the device's threads; 0 without a limit.
	ThreadPercent int
	// MemoryMiB is what a process can allocate; 0 without a limit.
	MemoryMiB int64
	// Problem is why the replicas cannot be handed out; "" if they can be, as
	// far as the device's readings tell.
	Problem string
}

// Share tells how a device is shared, as a gpu.Policy wants to know it: no
// replicas if it is not.
func (p Plan) Share(d gpu.Device) (mode string, replicas int) {
	r, ok := p.rule(d)
	if !ok {
		return "", 0
	}
	return string(r.mode), r.Replicas
}

func (p Plan) rule(d gpu.Device) (rule, bool) {
	for _, r := range p.rules {
		if r.selector.Matches(d) {
			return r, true
		}
	}
	return rule{}, false
}

// Of is the share of a device, or of the device that a replica is of; false if
// it is not shared.
func (p Plan) Of(d gpu.Device) (Share, bool) {
	r, ok := p.rule(d)
	if !ok {
		return Share{}, false
	}
	s := Share{Device: d.Hardware, Mode: r.mode, Replicas: r.Replicas, Limits: None}
	switch {
	case r.mode == MPS:
		r.limit(&s, d, p.simulated)
	case d.Specs.ComputeMode == exclusiveProcess && d.Slice == nil:
		s.Problem = fmt.Sprintf("it is shared by time-slicing, and in compute mode %s only one process can use it; run `nvidia-smi -i %s -c DEFAULT`", exclusiveProcess, d.Hardware)
	}
	return s, true
}

// limit fills in the limits of MPS.
func (r rule) limit(s *Share, d gpu.Device, simulated bool) {
	s.ThreadPercent, s.MemoryMiB = r.ThreadPercent, r.memoryMiB
	if s.ThreadPercent == 0 {
		s.ThreadPercent = 100 / r.Replicas
	}
	memory := d.Specs.MemoryMiB
	if s.MemoryMiB == 0 && memory != nil {
		s.MemoryMiB = *memory / int64(r.Replicas)
	}
	switch {
	case simulated:
		s.Limits = Simulated
	case r.TrustTasks:
		s.Limits = Trusted
	default:
		s.Limits = Enforced
	}
	switch sum := s.MemoryMiB * int64(r.Replicas); {
	case memory == nil:
		s.Problem = "it is shared by MPS, and its memory is not known, so no part of it can be"
	case s.MemoryMiB > *memory || sum > *memory && !r.Overcommit:
		s.Problem = fmt.Sprintf("it is shared by MPS, and %d replicas of %d MiB are more than its %d MiB; lower pinned_memory or replicas", r.Replicas, s.MemoryMiB, *memory)
	case s.MemoryMiB == 0:
		s.Problem = fmt.Sprintf("it is shared by MPS, and %d replicas leave none of them 1 MiB", r.Replicas)
	case simulated:
	case d.Specs.ComputeCapability != nil && *d.Specs.ComputeCapability < 7:
		s.Problem = fmt.Sprintf("it is shared by MPS, which has limits from compute capability 7.0 on, and its is %.1f; set mode = %q", *d.Specs.ComputeCapability, TimeSlicing)
	case s.Limits == Trusted:
	case d.Slice != nil:
		s.Problem = "it is shared by MPS, and a slice cannot be in compute mode Exclusive_Process, without which a task can leave MPS and its limits; set trust_tasks = true to accept that"
	case d.Specs.ComputeMode != exclusiveProcess:
		s.Problem = fmt.Sprintf("it is shared by MPS, and in compute mode %s a task can leave MPS and its limits; run `nvidia-smi -i %s -c EXCLUSIVE_PROCESS`, or set trust_tasks = true to accept that", orUnknown(d.Specs.ComputeMode), d.Hardware)
	}
}

const exclusiveProcess = "Exclusive_Process"

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// Fault is the Problem; running work is not touched by it.
func (s Share) Fault() gpu.Fault {
	if s.Problem == "" {
		return gpu.Fault{}
	}
	return gpu.Fault{Reason: s.Problem, Action: gpustatus.Keep}
}

// Shares are those of all devices that are shared.
func (p Plan) Shares(devices []gpu.Device) []Share {
	var shares []Share
	for _, d := range devices {
		if s, ok := p.Of(d); ok {
			shares = append(shares, s)
		}
	}
	return shares
}

// Unmatched are the selectors of blocks that none of the devices is shared by:
// probably mistyped.
func (p Plan) Unmatched(devices []gpu.Device) []string {
	used := make(map[string]bool)
	for _, d := range devices {
		if r, ok := p.rule(d); ok {
			used[r.Device] = true
		}
	}
	var unmatched []string
	for _, r := range p.rules {
		if !used[r.Device] {
			unmatched = append(unmatched, r.Device)
		}
	}
	return unmatched
}

// Attributes are those of a device's replicas, where they are not the same as
// the device's: an ask for memory must not find more than a replica may use.
func (s Share) Attributes(d gpu.Device) map[string]device.Attribute {
	attrs := map[string]device.Attribute{
		"sharing_replicas": base.Int(int64(s.Replicas), ""),
		"sharing_limits":   base.String(string(s.Limits)),
	}
	if s.Mode != MPS {
		return attrs
	}
	attrs["thread_percent"] = base.Int(int64(s.ThreadPercent), "")
	if s.MemoryMiB > 0 {
		attrs["memory"] = base.Int(s.MemoryMiB, "MiB")
	}
	part := func(key string, of *int64) {
		if of != nil {
			attrs[key] = base.Int(*of*int64(s.ThreadPercent)/100, "")
		}
	}
	part("cores", d.Specs.Cores)
	part("multiprocessors", d.Specs.Multiprocessors)
	return attrs
}

// Environment variables of a reservation of replicas.
const (
	ModeVariable   = "DROVER_GPU_SHARING"        // the Mode
	LimitsVariable = "DROVER_GPU_SHARING_LIMITS" // the Limits
)

// Access is how the processes of a task reach what enforces their limits.
type Access struct {
	// PipeDir is the folder, on the host, in which the device's MPS daemon
	// listens; "" on a simulated machine, which has none.
	PipeDir string
}

// Apply adds to a reservation what the task needs to use its replica, and to
// keep to its part.
func (s Share) Apply(r *device.Reservation, a Access) {
	r.Env[ModeVariable] = string(s.Mode)
	r.Env[LimitsVariable] = string(s.Limits)
	if s.Mode != MPS {
		return
	}
	maps.Copy(r.Env, s.Limit())
	if a.PipeDir == "" {
		return
	}
	r.Env["CUDA_MPS_PIPE_DIRECTORY"] = a.PipeDir
	// Client and server share memory in /dev/shm.
	r.Mounts = append(r.Mounts,
		device.Mount{TaskPath: a.PipeDir, HostPath: a.PipeDir},
		device.Mount{TaskPath: "/dev/shm", HostPath: "/dev/shm"})
}

// Limit is what tells MPS the limits, in the environment of a client or of the
// daemon. A daemon serves one device, which is device 0 to both.
func (s Share) Limit() map[string]string {
	return map[string]string{
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": strconv.Itoa(s.ThreadPercent),
		"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT":  fmt.Sprintf("0=%dM", s.MemoryMiB),
	}
}

// Together checks that one task can use the devices of a reservation. A process
// talks to one MPS daemon, and each device has its own; and limits do not add
// up.
func (p Plan) Together(devices []gpu.Device) error {
	var mps []string
	for _, d := range devices {
		if s, ok := p.Of(d); ok && s.Mode == MPS {
			mps = append(mps, string(d.ID))
		}
	}
	if len(mps) < 2 {
		return nil
	}
	return fmt.Errorf("reserving %s: a task can use one MPS replica, since each device has an MPS daemon of its own; ask for count = 1, or for a whole GPU", strings.Join(mps, ", "))
}
