// Package migtest has a machine whose boards can be cut without there being
// any, and what must hold of everything that cuts boards.
package migtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// Machine is a mig.Controller that keeps its boards in memory. It accepts what
// a driver accepts, and nothing else. Safe for concurrent use.
type Machine struct {
	mu     sync.Mutex
	boards []mig.Board
	nextID int
	leave  map[int]time.Time // when a process ends, by PID

	// Before and After are called around each call; an error of Before is the
	// call's, and nothing happens then. An error of After is returned although
	// it happened. Nil are not called. Set them before use.
	Before, After func(Call) error
	// NeedsReset makes changes of the mode wait for Reset.
	NeedsReset bool
}

// Call is a call of a Machine.
type Call struct {
	Name        string // "boards", "mode", "create", "destroy"
	Board       string
	GPUInstance int // of destroy
}

// NewMachine makes a machine with boards of a model ("NVIDIA A100-SXM4-40GB"),
// "GPU-0" and so on, with MIG mode off.
func NewMachine(product string, n int) *Machine {
	m := &Machine{leave: make(map[int]time.Time)}
	for i := range n {
		m.boards = append(m.boards, mig.Board{ID: fmt.Sprintf("GPU-%d", i), Index: i, Product: product})
	}
	return m
}

var _ mig.Controller = (*Machine)(nil)

// around makes a call between Before and After.
func (m *Machine) around(call Call, do func() error) error {
	if m.Before != nil {
		if err := m.Before(call); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := do()
	m.mu.Unlock()
	if err == nil && m.After != nil {
		err = m.After(call)
	}
	return err
}

// Boards implements mig.Controller.
func (m *Machine) Boards(context.Context) ([]mig.Board, error) {
	var boards []mig.Board
	err := m.around(Call{Name: "boards"}, func() error {
		boards = m.read()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return boards, nil
}

// Read is a reading that nothing interferes with.
func (m *Machine) Read() []mig.Board {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read()
}

func (m *Machine) read() []mig.Board {
	boards := slices.Clone(m.boards)
	for i := range boards {
		b := &boards[i]
		b.Processes = m.living(b.Processes)
		b.Instances = slices.Clone(b.Instances)
		for j := range b.Instances {
			b.Instances[j].Processes = m.living(b.Instances[j].Processes)
		}
	}
	return boards
}

func (m *Machine) living(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		at, ends := m.leave[pid]
		return ends && !time.Now().Before(at)
	})
}

func (m *Machine) board(id string) (*mig.Board, error) {
	at := slices.IndexFunc(m.boards, func(b mig.Board) bool { return b.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("no board %s", id)
	}
	return &m.boards[at], nil
}

// SetMode implements mig.Controller.
func (m *Machine) SetMode(_ context.Context, board string, enabled bool) (pending bool, err error) {
	err = m.around(Call{Name: "mode", Board: board}, func() error {
		b, err := m.board(board)
		if err != nil {
			return err
		}
		if len(m.living(b.Processes)) > 0 {
			return fmt.Errorf("setting the mode of %s: %w", board, mig.ErrInUse)
		}
		if len(b.Instances) > 0 && !enabled {
			return fmt.Errorf("%s has instances", board)
		}
		b.Pending = enabled
		if !m.NeedsReset {
			b.Enabled = enabled
		}
		pending = b.Pending != b.Enabled
		return nil
	})
	return pending, err
}

// Create implements mig.Controller.
func (m *Machine) Create(_ context.Context, board string, s mig.Instance) error {
	return m.around(Call{Name: "create", Board: board}, func() error {
		b, err := m.board(board)
		if err != nil {
			return err
		}
		model, _ := b.Model()
		p, err := model.Profile(s.Profile)
		if err != nil {
			return err
		}
		same, compute := 0, 0
		for _, in := range b.Instances {
			if in.Placement.Slots()&s.Placement.Slots() != 0 {
				return fmt.Errorf("%s at %d overlaps %s at %d", s.Profile, s.Placement.Start, in.Profile, in.Placement.Start)
			}
			if in.Profile == s.Profile {
				same++
			}
		}
		for _, c := range s.Compute {
			compute += c
		}
		if !b.Enabled || !slices.Contains(p.Starts, s.Placement.Start) || s.Placement.Size != p.Size || same == p.Max || compute > p.Compute {
			return fmt.Errorf("%s with compute %v at %v is not possible on %s", s.Profile, s.Compute, s.Placement, board)
		}
		m.add(b, s.Profile, s.Placement, s.Compute)
		return nil
	})
}

func (m *Machine) add(b *mig.Board, profile string, at mig.Placement, compute []int) *mig.Instance {
	m.nextID++
	in := mig.Instance{GPUInstance: m.nextID, Profile: profile, Placement: at, Compute: slices.Clone(compute)}
	for i := range compute {
		in.UUIDs = append(in.UUIDs, fmt.Sprintf("MIG-%s-%d-%d", b.ID, m.nextID, i))
	}
	b.Instances = append(b.Instances, in)
	return &b.Instances[len(b.Instances)-1]
}

// Destroy implements mig.Controller.
func (m *Machine) Destroy(_ context.Context, board string, gpuInstance int) error {
	return m.around(Call{Name: "destroy", Board: board, GPUInstance: gpuInstance}, func() error {
		b, err := m.board(board)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(b.Instances, func(in mig.Instance) bool { return in.GPUInstance == gpuInstance })
		if at < 0 {
			return fmt.Errorf("%s has no GPU instance %d", board, gpuInstance)
		}
		if len(m.living(b.Instances[at].Processes)) > 0 {
			return fmt.Errorf("destroying GPU instance %d: %w", gpuInstance, mig.ErrInUse)
		}
		b.Instances = slices.Delete(slices.Clone(b.Instances), at, at+1)
		return nil
	})
}

// Cut puts a board in MIG mode with slices at places, without asking.
func (m *Machine) Cut(board int, placed ...mig.Placed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.boards[board]
	b.Enabled, b.Pending, b.Instances = true, true, nil
	for _, p := range placed {
		m.add(b, p.Profile.Name, p.Placement, []int{p.Profile.Compute})
	}
}

// Use starts a process on an instance of a board, or on a whole board (-1).
// It ends at a time; zero is never. It returns its PID.
func (m *Machine) Use(board, instance int, ends time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nextID++
	pid := 1000 + m.nextID
	b := &m.boards[board]
	b.Processes = append(slices.Clone(b.Processes), pid)
	if instance >= 0 {
		in := &b.Instances[instance]
		in.Processes = append(slices.Clone(in.Processes), pid)
	}
	if !ends.IsZero() {
		m.leave[pid] = ends
	}
	return pid
}

// End ends a process now.
func (m *Machine) End(pid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave[pid] = time.Now()
}

// Reset resets a board, as an operator or a restart of the machine does: its
// mode is what it was set to, and it has no instances.
func (m *Machine) Reset(board int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.boards[board]
	b.Enabled, b.Instances, b.Processes = b.Pending, nil, nil
}
