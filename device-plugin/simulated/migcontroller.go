package simulated

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
)

// Boards lists the boards that have a MIG mode.
func (s *Source) Boards(ctx context.Context) ([]mig.Board, error) {
	t, now, err := s.enter(ctx, anyBoard)
	if err != nil {
		return nil, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return nil, err
	}
	users := s.occupants(t, now, views, s.processes.on())
	var boards []mig.Board
	for _, v := range views {
		if _, ok := v.model.migModel(); !ok || !v.there() {
			continue
		}
		boards = append(boards, v.migBoard(users))
	}
	return boards, nil
}

func (v boardView) migBoard(users occupants) mig.Board {
	b := mig.Board{
		ID: string(v.ID), Index: v.Index, Product: v.Product, PCIDeviceID: v.PCIDeviceID,
		Enabled: v.state.Enabled, Pending: v.state.pending(), Processes: users.pids(v.ID),
	}
	for _, in := range v.state.Instances {
		r := mig.Instance{
			GPUInstance: in.id(), Profile: in.Profile, Placement: mig.Placement{Start: in.Start, Size: in.Size},
			Compute: slices.Clone(in.Compute),
		}
		for ci := range in.Compute {
			id := in.deviceID(v.ID, ci)
			r.UUIDs = append(r.UUIDs, string(id))
			r.Processes = append(r.Processes, users.pids(id)...)
		}
		b.Processes = append(b.Processes, r.Processes...)
		b.Instances = append(b.Instances, r)
	}
	return b
}

// errNoRoom is what the driver says where a slice cannot be.
var errNoRoom = errors.New("insufficient resources")

// SetMode turns MIG mode on or off. On boards before Hopper it waits for a
// reset while a process has the board open; later ones refuse it then.
func (s *Source) SetMode(ctx context.Context, board string, enabled bool) (bool, error) {
	pending := false
	err := s.changeMIG(ctx, callMode, board, func(v boardView, users occupants, needsReset bool) (migState, error) {
		state := v.state
		switch {
		case state.pending() == enabled:
			pending = state.Waiting != nil
			return state, nil
		case state.Enabled == enabled: // what waited is taken back
			state.Waiting = nil
			return state, nil
		case !enabled && len(state.Instances) > 0:
			return state, fmt.Errorf("board %s still has %d slices: %w", board, len(state.Instances), mig.ErrInUse)
		}
		busy := len(v.migBoard(users).Processes) > 0
		if needsReset || busy && v.model.computeCapability < 9 {
			now := time.Now()
			state.Waiting, pending = &now, true
			return state, nil
		}
		if busy {
			return state, fmt.Errorf("board %s: %w", board, mig.ErrInUse)
		}
		return migState{Enabled: enabled}, nil
	})
	return pending, err
}

// Create makes a GPU instance where the hardware allows one.
func (s *Source) Create(ctx context.Context, board string, want mig.Instance) error {
	return s.changeMIG(ctx, callCreate, board, func(v boardView, _ occupants, _ bool) (migState, error) {
		state := v.state
		if !state.Enabled {
			return state, fmt.Errorf("board %s is not in MIG mode", board)
		}
		m, _ := v.model.migModel()
		p, err := m.Profile(want.Profile)
		switch {
		case err != nil:
			return state, err
		case want.Placement.Size != p.Size || !slices.Contains(p.Starts, want.Placement.Start):
			return state, fmt.Errorf("%s cannot be at %d:%d", p.Name, want.Placement.Start, want.Placement.Size)
		}
		layout := mig.Layout{Enabled: true, Instances: []mig.Want{{Profile: p.Name, Compute: want.Compute}}}
		for _, in := range state.Instances {
			there := mig.Placement{Start: in.Start, Size: in.Size}
			if there.Slots()&want.Placement.Slots() != 0 {
				return state, fmt.Errorf("%s at %d:%d: %s is at %d:%d: %w", p.Name, want.Placement.Start, want.Placement.Size, in.Profile, in.Start, in.Size, errNoRoom)
			}
			layout.Instances = append(layout.Instances, mig.Want{Profile: in.Profile})
		}
		if err := layout.Check(m); err != nil {
			return state, fmt.Errorf("%w: %w", errNoRoom, err)
		}
		compute := slices.Clone(want.Compute)
		if len(compute) == 0 {
			compute = []int{p.Compute}
		}
		state.Instances = append(slices.Clone(state.Instances), instance{Profile: p.Name, Start: want.Placement.Start, Size: p.Size, Compute: compute})
		return state, nil
	})
}

// Destroy removes a GPU instance that no process has open.
func (s *Source) Destroy(ctx context.Context, board string, gpuInstance int) error {
	return s.changeMIG(ctx, callDestroy, board, func(v boardView, users occupants, _ bool) (migState, error) {
		state := v.state
		at := slices.IndexFunc(state.Instances, func(in instance) bool { return in.id() == gpuInstance })
		if at < 0 {
			return state, fmt.Errorf("board %s has no GPU instance %d", board, gpuInstance)
		}
		if pids := v.migBoard(users).Instances[at].Processes; len(pids) > 0 {
			return state, fmt.Errorf("GPU instance %d of board %s: %w %d", gpuInstance, board, mig.ErrInUse, pids[0])
		}
		state.Instances = slices.Delete(slices.Clone(state.Instances), at, at+1)
		return state, nil
	})
}

// changeMIG changes the MIG state of a board, unless the script or change is
// against it.
func (s *Source) changeMIG(ctx context.Context, call, board string, change func(v boardView, users occupants, needsReset bool) (migState, error)) error {
	b, err := s.find(board)
	if err != nil {
		return err
	}
	if _, ok := s.machine.boards[b.index].migModel(); !ok {
		return fmt.Errorf("%s (%s) has no MIG mode", s.machine.boards[b.index].product, board)
	}
	t, now, err := s.enter(ctx, func(other subject) bool { return other == b })
	if err != nil {
		return err
	}
	trouble := s.migTrouble(t, now, call, b)
	if trouble.delay > 0 {
		if err := wait(ctx, s.ctx, time.After(trouble.delay)); err != nil {
			return err
		}
		now = time.Now()
	}
	if trouble.err != "" {
		return errors.New(trouble.err)
	}
	views, err := s.boards(t, now)
	if err != nil {
		return err
	}
	if v := views[b.index]; !v.there() {
		return errors.New(reasonLost)
	}
	users := s.occupants(t, now, views, s.processes.fresh())
	err = s.store.update(func(kept *stored) error {
		v := views[b.index]
		v.state = kept.stateOf(b.id, v.model, v.loaded) // another process may have been here
		next, err := change(v, users, trouble.needsReset)
		if err != nil {
			return err
		}
		kept.Boards[b.id] = storedBoard{migState: next, Described: v.model.described.String()}
		return nil
	})
	if err == nil {
		wake(s.changes)
	}
	return err
}

// migTrouble is what the script has against a call, and counts the call.
func (s *Source) migTrouble(t timeline, now time.Time, call string, b subject) migTrouble {
	var all migTrouble
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range t.steps {
		if st.mig == nil || !st.isBoard(b.id, b.index) || st.mig.call != "" && st.mig.call != call {
			continue
		}
		if _, ok := st.active(now); !ok {
			continue
		}
		s.migCalls[st.key]++
		if st.mig.nth != 0 && st.mig.nth != s.migCalls[st.key] {
			continue
		}
		all.delay += st.mig.delay
		all.needsReset = all.needsReset || st.mig.needsReset
		if all.err == "" {
			all.err = st.mig.err
		}
	}
	return all
}

// occupants are the programs on each device.
type occupants map[gpu.ID][]occupant

// occupant is a program on a device.
type occupant struct {
	gpu.Process
	// scripted are the amounts that a script gives.
	scriptedMemoryMiB, scriptedPercent *int64
}

func (o occupants) pids(id gpu.ID) []int {
	var pids []int
	for _, p := range o[id] {
		if !slices.Contains(pids, p.PID) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// occupants are those of the script and of this host.
func (s *Source) occupants(t timeline, now time.Time, views []boardView, users []user) occupants {
	all := make(occupants)
	offered := make(map[gpu.ID]bool)
	for _, v := range views {
		offered[v.ID] = true
		for _, slice := range v.Slices {
			offered[slice.ID] = true
		}
	}
	for _, u := range users {
		if offered[u.device] {
			all[u.device] = append(all[u.device], occupant{Process: gpu.Process{PID: u.pid, Device: u.device, Kind: gpu.ProcessCompute}})
		}
	}
	for _, st := range t.steps {
		if st.process == nil {
			continue
		}
		if _, ok := st.active(now); !ok {
			continue
		}
		for _, v := range views {
			for _, id := range v.devicesOf(st.step) {
				all[id] = append(all[id], st.occupant(id))
			}
		}
	}
	return all
}

// devicesOf are the devices of a board that a step is about: the board, or its
// slices if it is in MIG mode.
func (v boardView) devicesOf(st step) []gpu.ID {
	board := st.isBoard(v.ID, v.Index)
	if board && !v.MIG {
		return []gpu.ID{v.ID}
	}
	var ids []gpu.ID
	for _, slice := range v.Slices {
		if board || st.target == string(slice.ID) {
			ids = append(ids, slice.ID)
		}
	}
	return ids
}

// occupant is a scripted process on a device.
func (s placedStep) occupant(id gpu.ID) occupant {
	p := s.process
	o := occupant{Process: gpu.Process{PID: p.pid, Device: id, Kind: p.kind}, scriptedMemoryMiB: p.memoryMiB, scriptedPercent: p.gpuPercent}
	if o.PID == 0 { // above any that the kernel gives
		const most = 1 << 22
		o.PID = most + int(chance(s.key+string(id))*most)
	}
	return o
}
