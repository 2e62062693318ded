// Package simulated is a machine with GPUs that is not there: for trying
// things out and for tests on machines without any.
//
// It answers as NVML does on the real boards, with their product names, memory
// sizes and MIG geometry. Everything derives from the description and the
// clock, so two runs agree. A fault file breaks GPUs while it runs.
package simulated

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Config is how to run a simulated machine.
type Config struct {
	Machine Machine
	// FaultFile is read again whenever it changes; "" is none. It need not
	// exist.
	FaultFile string
	Logger    hclog.Logger     // nil discards
	Now       func() time.Time // nil is time.Now
	// Poll is how often the fault file is looked at; 0 is 250 ms.
	Poll time.Duration
}

// New starts a simulated machine. Close it.
func New(c Config) gpu.Source {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Poll == 0 {
		c.Poll = 250 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &source{Config: c, changes: make(chan struct{}, 1), stop: cancel}
	if c.FaultFile != "" {
		// Looked at before it is read, so that no change in between is missed.
		last, _ := os.Stat(c.FaultFile)
		s.reload()
		s.watching.Go(func() { s.watch(ctx, last) })
	}
	return s
}

type source struct {
	Config
	changes  chan struct{}
	stop     context.CancelFunc
	watching sync.WaitGroup

	mu     sync.Mutex
	faults faultFile
}

var _ gpu.Source = (*source)(nil)

func (s *source) Inventory(context.Context) (gpu.Inventory, error) {
	s.mu.Lock()
	faults := s.faults
	s.mu.Unlock()
	inv, _, err := faults.apply(s.Machine.inventory(s.Machine.described()))
	return inv, err
}

func (s *source) Sample(ctx context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	inv, err := s.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	all := make(map[gpu.ID]gpu.Sample)
	for _, b := range inv.Boards {
		if b.Fault != "" {
			continue
		}
		if !b.MIG {
			all[b.ID] = sampleBoard(b, now)
		}
		for _, slice := range b.Slices {
			if slice.Fault == "" {
				all[slice.ID] = sampleSlice(slice, now)
			}
		}
	}
	samples := make(map[gpu.ID]gpu.Sample, len(ids))
	for _, id := range ids {
		if sample, ok := all[id]; ok {
			samples[id] = sample
		}
	}
	return samples, nil
}

func (s *source) Changes() <-chan struct{} { return s.changes }

func (s *source) Close() error {
	s.stop()
	s.watching.Wait()
	return nil
}

// watch reloads the fault file when its identity, size or time is no longer
// that of last; nil is no file.
func (s *source) watch(ctx context.Context, last os.FileInfo) {
	ticker := time.NewTicker(s.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, _ := os.Stat(s.FaultFile)
		if sameFile(last, now) {
			continue
		}
		last = now
		if !s.reload() {
			continue
		}
		select {
		case s.changes <- struct{}{}:
		default: // a hint is pending already
		}
	}
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// reload reads the fault file. A malformed one changes nothing: it may be half
// written.
func (s *source) reload() bool {
	faults, err := readFaults(s.FaultFile)
	if err != nil {
		s.Logger.Error("fault file is not usable, so the faults stay as they were", "file", s.FaultFile, "error", err)
		return false
	}
	if _, unmatched, err := faults.apply(s.Machine.inventory(s.Machine.described())); err == nil && len(unmatched) > 0 {
		s.Logger.Warn("fault file names GPUs that are not there", "file", s.FaultFile, "unmatched", unmatched)
	}
	s.mu.Lock()
	s.faults = faults
	s.mu.Unlock()
	return true
}
