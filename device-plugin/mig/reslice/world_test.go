package reslice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/migtest"
	"github.com/drover-ml/drover/internal/gpustatus"
)

const a100 = "NVIDIA A100-SXM4-40GB"

// world is a machine, a store and a reconciler between them, which can be
// killed at any point: before and after anything is stored or changed.
type world struct {
	*migtest.Machine
	store memory
	// kills are the points at which the reconciler is killed, and points how
	// many there were.
	kills  map[int]bool
	points int
	// failures are errors of the machine, by the number of the changing call;
	// those of failuresAfter come although it was done.
	failures, failuresAfter map[int]error
	calls                   int
	reconciler              *Reconciler
	done                    []string // changes of the machine, in order
	wrong                   []string // broken promises
	limits                  Limits
}

type killed struct{}

func newWorld(boards int) *world {
	w := &world{Machine: migtest.NewMachine(a100, boards)}
	w.store.world = w
	w.Before = func(c migtest.Call) error {
		if c.Name == "boards" {
			return nil
		}
		w.point()
		w.calls++
		w.checkPermitted(c)
		return w.failures[w.calls]
	}
	w.After = func(c migtest.Call) error {
		if c.Name == "boards" {
			return nil
		}
		w.done = append(w.done, c.Name)
		w.point()
		return w.failuresAfter[w.calls]
	}
	return w
}

// point is where a kill -9 may strike.
func (w *world) point() {
	w.points++
	if w.kills[w.points] {
		panic(killed{})
	}
}

// checkPermitted checks what must hold when something of a board is changed.
func (w *world) checkPermitted(c migtest.Call) {
	t := w.store.load().Boards[c.Board]
	if t.Phase != Slicing || !t.Touched {
		w.wrong = append(w.wrong, fmt.Sprintf("%s while the stored phase is %s, touched %t", c.Name, t.Phase, t.Touched))
	}
	faults := w.reconciler.Faults()
	for _, b := range w.Read() {
		if b.ID != c.Board {
			continue
		}
		if faults[gpu.ID(b.ID)].OK() {
			w.wrong = append(w.wrong, fmt.Sprintf("%s on %s, which is not cordoned", c.Name, b.ID))
		}
		if c.Name == "mode" && len(b.Processes) > 0 {
			w.wrong = append(w.wrong, "the mode is changed under a process")
		}
		for _, in := range b.Instances {
			if c.Name == "destroy" && in.GPUInstance == c.GPUInstance && len(in.Processes) > 0 {
				w.wrong = append(w.wrong, fmt.Sprintf("destroying %s under a process", in.Profile))
			}
		}
	}
}

// memory is a Store that survives kills.
type memory struct {
	world   *world
	mu      sync.Mutex
	content []byte
	phases  []Phase // of the first board, as they were stored
}

func (m *memory) load() State {
	if m.content == nil {
		return State{Version: stateVersion}
	}
	s, err := decode(m.content)
	if err != nil {
		panic(err)
	}
	return s
}

func (m *memory) Load() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load(), nil
}

func (m *memory) Update(change func(*State) error) (State, error) {
	return m.update(change, m.world.point)
}

func (m *memory) update(change func(*State) error, point func()) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.load()
	if err := change(&s); err != nil {
		return State{}, err
	}
	after, err := s.encode()
	if err != nil || bytes.Equal(after, m.content) {
		return s, err
	}
	point()
	m.content = after
	if p := s.Boards["GPU-0"].Phase; len(m.phases) == 0 || m.phases[len(m.phases)-1] != p {
		m.phases = append(m.phases, p)
	}
	point()
	return s, nil
}

// want stores what is wanted, as a command does.
func (w *world) want(r Request, boards ...int) {
	_, _ = w.store.update(func(s *State) error {
		for _, b := range boards {
			s.Want(fmt.Sprintf("GPU-%d", b), r, time.Now())
		}
		return nil
	}, func() {})
}

// settle reconciles until nothing more happens, however often the reconciler
// is killed.
func (w *world) settle(ctx context.Context) error {
	for range 1000 {
		err := w.live(ctx)
		if !errors.Is(err, errKilled) {
			return err
		}
	}
	return errors.New("it never settles")
}

var errKilled = errors.New("killed")

// live is the life of one reconciler.
func (w *world) live(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			err = errKilled
		}
	}()
	before := w.store.load()
	r, err := New(Config{Controller: w.Machine, Store: &w.store, Limits: w.limits})
	if err != nil {
		return err
	}
	w.reconciler = r
	for board, t := range before.Boards {
		if len(t.Cordon) > 0 && !t.Phase.Settled() && len(r.Faults()) == 0 {
			w.wrong = append(w.wrong, fmt.Sprintf("%s is not cordoned any more after a restart", board))
		}
	}
	return r.RunUntilSettled(ctx)
}

// task is the state of a board.
func (w *world) task(board int) Task { return w.store.load().Boards[fmt.Sprintf("GPU-%d", board)] }

func (w *world) layout(board int) string {
	var l []string
	for _, in := range w.Read()[board].Instances {
		l = append(l, fmt.Sprintf("%s@%d", in.Profile, in.Placement.Start))
	}
	slices.Sort(l)
	return fmt.Sprint(l)
}

func placed(t testing.TB, slices ...string) []mig.Placed {
	t.Helper()
	m, _ := mig.ModelOf(a100)
	var all []mig.Placed
	for _, s := range slices {
		var name string
		var start int
		for i := range s {
			if s[i] == '@' {
				name = s[:i]
				_, _ = fmt.Sscan(s[i+1:], &start)
			}
		}
		p, err := m.Profile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, mig.Placed{Profile: p, Placement: mig.Placement{Start: start, Size: p.Size}})
	}
	return all
}

func layoutOf(t testing.TB, profiles ...string) mig.Layout {
	t.Helper()
	m, _ := mig.ModelOf(a100)
	l, err := mig.NewLayout(m, profiles)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func actions(faults map[gpu.ID]gpu.Fault) map[gpu.ID]gpustatus.Action {
	a := make(map[gpu.ID]gpustatus.Action)
	for id, f := range faults {
		a[id] = f.Action
	}
	return a
}

func sortedIDs(faults map[gpu.ID]gpu.Fault) []gpu.ID { return slices.Sorted(maps.Keys(faults)) }
