package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/gpustatus"
)

const (
	// gpuInterval is how often the status of the task's GPUs is looked at. It
	// costs a look at a file's time.
	gpuInterval = 250 * time.Millisecond
	// endGrace is what a task gets between SIGTERM and SIGKILL whose GPU is
	// gone: enough to save what is in its own memory.
	endGrace = 10 * time.Second
	// moveDelay is how long a task may go on whose GPU is to be left. Whoever
	// schedules the task can move it better in that time: with a checkpoint
	// awaited, and a replacement at hand.
	moveDelay = 2 * time.Minute
)

// watchGPUs sends a fault of one of the task's GPUs whenever it is a new one.
func (s *supervisor) watchGPUs(ctx context.Context, faults chan<- gpustatus.Device) {
	if s.spec.GPUStatus == "" || len(s.spec.Devices) == 0 {
		return
	}
	tick := time.NewTicker(gpuInterval)
	defer tick.Stop()
	var seen os.FileInfo
	known := map[string]gpustatus.Device{}
	for {
		info, err := os.Stat(s.spec.GPUStatus)
		changed := err == nil && (seen == nil || !os.SameFile(seen, info) || !seen.ModTime().Equal(info.ModTime()))
		if changed {
			seen = info
			status, err := gpustatus.Read(s.spec.GPUStatus)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.event("gpu-status", "The health of the task's GPUs is not known: "+err.Error(), nil)
			}
			for _, f := range faultsOf(s.spec.Devices, status) {
				if k := known[f.ID]; k.Action == f.Action && k.Since.Equal(f.Since) {
					continue
				}
				known[f.ID] = f
				select {
				case faults <- f:
				case <-ctx.Done():
					return
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// faultsOf are the faults of some devices, the worst first.
func faultsOf(devices []string, status gpustatus.Status) []gpustatus.Device {
	order := []gpustatus.Action{gpustatus.End, gpustatus.Move, gpustatus.Keep}
	var faults []gpustatus.Device
	for _, id := range devices {
		if f, ok := status.Find(id); ok {
			faults = append(faults, f)
		}
	}
	slices.SortStableFunc(faults, func(a, b gpustatus.Device) int {
		return slices.Index(order, a.Action) - slices.Index(order, b.Action)
	})
	return faults
}

// loseGPU begins what a fault of a GPU asks for. The task is killed after
// grace, if it has not ended by then, and must have left the GPU after later; 0
// is never.
func (s *supervisor) loseGPU(f gpustatus.Device, end *ending) (grace, later time.Duration) {
	key := fmt.Sprintf("gpu-%s-%s-%d", f.ID, f.Action, f.Since.Unix())
	tell := func(message string) {
		s.event(key, message, map[string]string{"gpu": f.ID, "action": string(f.Action), "reason": f.Reason})
	}
	switch f.Action {
	case gpustatus.End:
		end.addGPU(f)
		tell(fmt.Sprintf("%s failed: %s; ending the task", f.ID, f.Reason))
		_ = s.command.SignalGroup(syscall.SIGTERM)
		return endGrace, 0
	case gpustatus.Move:
		asked := ""
		if s.command.Catches(syscall.SIGUSR1) && s.command.Signal(syscall.SIGUSR1) == nil {
			asked = "asked the task for a checkpoint; "
		}
		tell(fmt.Sprintf("%s is to be left: %s; %sthe task is ended unless it has moved within %v", f.ID, f.Reason, asked, moveDelay))
		return 0, moveDelay
	}
	tell(fmt.Sprintf("%s gets no new work: %s; the task may finish", f.ID, f.Reason))
	return 0, 0
}

// worstFault is the worst that there is to say of the task's GPUs at present.
func (s *supervisor) worstFault() (gpustatus.Device, bool) {
	if s.spec.GPUStatus == "" {
		return gpustatus.Device{}, false
	}
	status, err := gpustatus.Read(s.spec.GPUStatus)
	if err != nil {
		return gpustatus.Device{}, false
	}
	faults := faultsOf(s.spec.Devices, status)
	if len(faults) == 0 {
		return gpustatus.Device{}, false
	}
	return faults[0], true
}

// blameGPU gives a failed end its cause, if the task's GPU has died: the task
// may hear of that before the supervisor does.
func (s *supervisor) blameGPU(end *ending) {
	if end.code == 0 || end.timeUp {
		return
	}
	if f, ok := s.worstFault(); ok && f.Action == gpustatus.End {
		end.addGPU(f)
	}
}

// addGPU notes the loss of a GPU, once.
func (e *ending) addGPU(f gpustatus.Device) {
	if !gpustatus.IsTaskError(e.err) {
		e.addError(gpustatus.TaskError(f))
	}
}
