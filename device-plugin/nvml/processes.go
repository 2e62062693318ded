package nvml

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// processesFor is for how long a list of processes is good enough. Making one
// takes the driver milliseconds for each board, in which others wait for it.
const processesFor = 5 * time.Second

// processCache remembers the last list.
type processCache struct {
	mu   sync.Mutex
	at   time.Time
	last []gpu.Process
	// seen is until when the use of each board by its processes was told, in
	// the driver's microseconds.
	seen map[gpu.ID]uint64
}

// Processes lists what runs on the boards and slices. The list may be up to
// five seconds old.
func (s *Source) Processes(context.Context) ([]gpu.Process, error) {
	c := &s.running
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < processesFor {
		return slices.Clone(c.last), nil
	}
	var all []gpu.Process
	err := s.use("listing GPU processes", func() error {
		count, err := s.count()
		if err != nil {
			return err
		}
		for i := range count {
			d, ret := s.lib.DeviceGetHandleByIndex(i)
			if ret != lib.SUCCESS {
				continue
			}
			if uuid, ret := d.GetUUID(); ret == lib.SUCCESS {
				r := &reader{Source: s}
				all = append(all, r.processes(d, gpu.ID(trimmed(uuid)), c)...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.at, c.last = time.Now(), all
	return slices.Clone(all), nil
}

// processes are those of one board.
func (r *reader) processes(d lib.Device, board gpu.ID, c *processCache) []gpu.Process {
	listed := r.listProcesses(d)
	if len(listed) == 0 {
		return nil
	}
	use := r.processUse(d, board, c)
	var all []gpu.Process
	for _, l := range listed {
		p := gpu.Process{PID: int(l.Pid), Device: r.deviceOf(board, l.ProcessInfo), Kind: l.kind, GPUPercent: use[l.Pid]}
		if l.UsedGpuMemory <= math.MaxInt64 { // all bits are set where it is unknown
			p.MemoryMiB = mebibytes(l.UsedGpuMemory)
		}
		if !slices.ContainsFunc(all, func(q gpu.Process) bool { return q.PID == p.PID && q.Device == p.Device && q.Kind == p.Kind }) {
			all = append(all, p)
		}
	}
	return all
}

// listedProcess is a process as the driver lists it.
type listedProcess struct {
	lib.ProcessInfo
	kind gpu.ProcessKind
}

func (r *reader) listProcesses(d lib.Device) []listedProcess {
	var all []listedProcess
	for _, list := range []struct {
		kind    gpu.ProcessKind
		get     func() ([]lib.ProcessInfo, lib.Return)
		symbols []string
	}{
		{gpu.ProcessCompute, d.GetComputeRunningProcesses, []string{
			"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses",
		}},
		{gpu.ProcessGraphics, d.GetGraphicsRunningProcesses, []string{
			"nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2", "nvmlDeviceGetGraphicsRunningProcesses",
		}},
		{gpu.ProcessMPS, d.GetMPSComputeRunningProcesses, []string{
			"nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses",
		}},
	} {
		infos := read(r, list.get, list.symbols...)
		if infos == nil {
			continue
		}
		for _, info := range *infos {
			all = append(all, listedProcess{info, list.kind})
		}
	}
	return all
}

// deviceOf is the slice that a process runs in, or else the board.
func (s *Source) deviceOf(board gpu.ID, p lib.ProcessInfo) gpu.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.seen {
		if b.ID != board || !b.MIG {
			continue
		}
		for _, slice := range b.Slices {
			if slice.GPUInstance != nil && *slice.GPUInstance == int(p.GpuInstanceId) &&
				slice.ComputeInstance != nil && *slice.ComputeInstance == int(p.ComputeInstanceId) {
				return slice.ID
			}
		}
	}
	return board
}

// processUse is the share of a board's time that each process had, by the
// driver's newest sample of it. Boards in MIG mode do not tell.
func (r *reader) processUse(d lib.Device, board gpu.ID, c *processCache) map[uint32]*int64 {
	samples := read(r, func() ([]lib.ProcessUtilizationSample, lib.Return) {
		return d.GetProcessUtilization(c.seen[board])
	}, "nvmlDeviceGetProcessUtilization")
	if samples == nil {
		return nil
	}
	use := make(map[uint32]*int64)
	newest := make(map[uint32]uint64)
	if c.seen == nil {
		c.seen = make(map[gpu.ID]uint64)
	}
	for _, s := range *samples {
		if s.SmUtil > 100 || s.TimeStamp < newest[s.Pid] {
			continue
		}
		newest[s.Pid] = s.TimeStamp
		use[s.Pid] = number(&s.SmUtil)
		c.seen[board] = max(c.seen[board], s.TimeStamp)
	}
	return use
}
