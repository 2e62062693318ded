package simulated

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/migtest"
)

func at(profile string, start, size int) mig.Instance {
	return mig.Instance{Profile: profile, Placement: mig.Placement{Start: start, Size: size}}
}

func migBoard(t *testing.T, s *Source, index int) mig.Board {
	t.Helper()
	boards, err := s.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return boards[index]
}

func TestController(t *testing.T) {
	migtest.Suite(t, func(t *testing.T) mig.Controller { return start(t, Config{Machine: machine(t, "a100-40gb")}) })
}

func TestCreateAndDestroy(t *testing.T) {
	s := start(t, Config{Machine: machine(t, "2xa100-40gb")})
	id := string(s.subjects[0].id)
	create := func(in mig.Instance, refused string) {
		t.Helper()
		err := s.Create(t.Context(), id, in)
		switch {
		case refused == "" && err != nil:
			t.Fatal(err)
		case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
			t.Fatalf("error is %v, want one about %q", err, refused)
		}
	}
	create(at("3g.20gb", 4, 4), "is not in MIG mode")
	if pending, err := s.SetMode(t.Context(), id, true); pending || err != nil {
		t.Fatal(pending, err)
	}
	create(at("5g.30gb", 0, 4), "no MIG profile")
	create(at("3g.20gb", 2, 4), "3g.20gb cannot be at 2:4")
	create(at("3g.20gb", 4, 2), "3g.20gb cannot be at 4:2")
	create(at("3g.20gb", 4, 4), "")
	create(at("3g.20gb", 4, 4), "insufficient resources")
	split := at("3g.20gb", 0, 4)
	split.Compute = []int{1, 2}
	create(split, "")
	create(at("1g.5gb", 0, 1), "insufficient resources")

	slices := inventory(t, s).Boards[0].Slices
	var got []string
	for _, slice := range slices {
		got = append(got, slice.Profile)
	}
	if diff := cmp.Diff([]string{"1c.3g.20gb", "2c.3g.20gb", "3g.20gb"}, got); diff != "" {
		t.Errorf("slices (-want +got):\n%s", diff)
	}
	if a, b := slices[0], slices[1]; a.ID == b.ID || *a.MemoryMiB != *b.MemoryMiB || *a.GPUInstance != *b.GPUInstance || *b.Multiprocessors != 28 {
		t.Errorf("compute instances of one GPU instance: %+v and %+v", a, b)
	}
	board := migBoard(t, s, 0)
	if err := s.Destroy(t.Context(), id, 99); err == nil {
		t.Error("an unknown instance was destroyed")
	}
	if _, err := s.SetMode(t.Context(), id, false); !errors.Is(err, mig.ErrInUse) {
		t.Errorf("MIG mode ends under slices: %v", err)
	}
	for _, in := range board.Instances {
		if err := s.Destroy(t.Context(), id, in.GPUInstance); err != nil {
			t.Error(err)
		}
	}
	if pending, err := s.SetMode(t.Context(), id, false); pending || err != nil {
		t.Error(pending, err)
	}
	if diff := cmp.Diff(migBoard(t, s, 1).Enabled, migBoard(t, s, 0).Enabled); diff != "" {
		t.Error("the board is still in MIG mode")
	}
}

// TestInUse: what a process has open stays as it is; Ampere boards change
// their mode with the next reset then.
func TestInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "a100-40gb/all-3g.20gb"), Script: script(t, `
process "0" {
  pid = 4242
  for = "5s"
}
reset "0" { at = "10s" }
`)})
		id := string(s.subjects[0].id)
		board := migBoard(t, s, 0)
		if !slices.Equal(board.Processes, []int{4242, 4242}) || !slices.Equal(board.Instances[0].Processes, []int{4242}) {
			t.Errorf("processes of the board: %+v", board)
		}
		if err := s.Destroy(t.Context(), id, board.Instances[0].GPUInstance); !errors.Is(err, mig.ErrInUse) {
			t.Errorf("a slice in use was destroyed: %v", err)
		}
		time.Sleep(6 * time.Second)
		if err := s.Destroy(t.Context(), id, board.Instances[0].GPUInstance); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "a100-40gb"), Script: script(t, `
process "0" {}
reset "0" { at = "10s" }
`)})
		id := string(s.subjects[0].id)
		if pending, err := s.SetMode(t.Context(), id, true); !pending || err != nil {
			t.Errorf("the mode of a board in use: %v, %v", pending, err)
		}
		if b := migBoard(t, s, 0); b.Enabled || !b.Pending {
			t.Errorf("before the reset: %+v", b)
		}
		time.Sleep(11 * time.Second)
		if b := migBoard(t, s, 0); !b.Enabled || !b.Pending {
			t.Errorf("after the reset: %+v", b)
		}
		if !inventory(t, s).Boards[0].MIG {
			t.Error("the inventory does not show MIG mode")
		}
	})
	t.Run("Hopper", func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "h100"), Script: script(t, `process "0" {}`)})
		if _, err := s.SetMode(t.Context(), string(s.subjects[0].id), true); !errors.Is(err, mig.ErrInUse) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestMIGTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: machine(t, "2xh100/all-enabled"), Script: script(t, `
mig "0" {
  call  = "create"
  nth   = 2
  error = "Insufficient Resources"
}
mig "1" {
  call        = "mode"
  needs_reset = true
  delay       = "3s"
}
`)})
		first, second := string(s.subjects[0].id), string(s.subjects[1].id)
		for i, want := range []string{"", "Insufficient Resources", ""} {
			err := s.Create(t.Context(), first, at("1g.10gb", i, 1))
			if got := ""; err != nil && err.Error() != want || err == nil && got != want {
				t.Errorf("call %d: %v", i+1, err)
			}
		}
		begin := time.Now()
		if pending, err := s.SetMode(t.Context(), second, false); !pending || err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("a slow change that needs a reset: %v, %v after %v", pending, err, time.Since(begin))
		}
		if _, err := s.SetMode(t.Context(), second, true); err != nil {
			t.Error(err)
		}
		if b := migBoard(t, s, 1); !b.Enabled || !b.Pending {
			t.Errorf("a change that was taken back: %+v", b)
		}
		if _, err := s.SetMode(t.Context(), "GPU-unknown", true); err == nil {
			t.Error("an unknown board changed its mode")
		}
	})
}

// TestStateFile: how a board is cut outlives the process, and other processes
// see it; a description that was changed counts more.
func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	m := machine(t, "2xa100-40gb")
	first, other := start(t, Config{Machine: m, StateFile: path}), start(t, Config{Machine: m, StateFile: path})
	id := string(first.subjects[1].id)
	if _, err := first.SetMode(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	if err := first.Create(t.Context(), id, at("3g.20gb", 4, 4)); err != nil {
		t.Fatal(err)
	}
	await(t, other.Changes())
	if err := other.Create(t.Context(), id, at("4g.20gb", 0, 4)); err != nil {
		t.Fatal(err)
	}
	want := inventory(t, first)
	if n := len(want.Boards[1].Slices); n != 2 {
		t.Fatalf("%d slices", n)
	}
	if diff := cmp.Diff(want, inventory(t, start(t, Config{Machine: m, StateFile: path}))); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	recut := machine(t, "2xa100-40gb/all-7g.40gb")
	if got := inventory(t, start(t, Config{Machine: recut, StateFile: path})); got.Boards[1].Slices[0].Profile != "7g.40gb" {
		t.Errorf("with another description: %+v", got.Boards[1].Slices)
	}
}

// TestStoredFormat: a state file of the first version can be read for ever,
// and what is none is refused rather than forgotten.
func TestStoredFormat(t *testing.T) {
	m := machine(t, "2xa100-40gb")
	const sample = "testdata/state-1.json"
	board := inventory(t, start(t, Config{Machine: m, StateFile: sample})).Boards[1]
	var got []string
	for _, slice := range board.Slices {
		got = append(got, slice.Profile)
	}
	if diff := cmp.Diff([]string{"2g.10gb", "1c.3g.20gb", "2c.3g.20gb"}, got); diff != "" {
		t.Errorf("slices (-want +got):\n%s", diff)
	}
	path := filepath.Join(t.TempDir(), "state.json")
	for _, content := range []string{"", "{", `{"version":2}`, `{"version":1,"boards":{"GPU-1":{"instances":[{"start":-1,"size":1}]}}}`, `{"version":1,"more":1}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := start(t, Config{Machine: m, StateFile: path}).Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("with the state %q: %v", content, err)
		}
	}
}

func FuzzParseStored(f *testing.F) {
	if sample, err := os.ReadFile("testdata/state-1.json"); err != nil {
		f.Fatal(err)
	} else {
		f.Add(sample)
	}
	m, err := Preset("2xa100-40gb")
	if err != nil {
		f.Fatal(err)
	}
	m.Node = "n"
	f.Fuzz(func(t *testing.T, content []byte) {
		value, err := parseStored(content)
		if err != nil {
			return
		}
		states := m.described()
		for i, b := range m.boards {
			states[i] = value.stateOf(m.idOf(i), b, time.Unix(0, 0))
		}
		for _, b := range m.inventory(states).Boards {
			if len(b.Slices) > 0 && !b.MIG {
				t.Fatalf("board %+v", b)
			}
		}
	})
}

// TestMIGProperties: whatever is asked for, the board is cut in a way that the
// hardware allows, and the inventory is what the controller says.
func TestMIGProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		preset := rapid.SampledFrom([]string{"a30", "a100-40gb", "h200", "rtx-pro-6000"}).Draw(t, "board")
		m, err := Preset(preset + "/all-enabled")
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Machine: m, ProcDir: "/nonexistent"})
		defer s.Close()
		model, _ := m.boards[0].migModel()
		id := string(s.subjects[0].id)
		ctx := t.Context()
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			boards, err := s.Boards(ctx)
			if err != nil {
				t.Fatal(err)
			}
			have := boards[0].Instances
			if len(have) > 0 && rapid.Bool().Draw(t, "destroy") {
				if err := s.Destroy(ctx, id, have[rapid.IntRange(0, len(have)-1).Draw(t, "which")].GPUInstance); err != nil {
					t.Fatal(err)
				}
				continue
			}
			p := model.Profiles[rapid.IntRange(0, len(model.Profiles)-1).Draw(t, "profile")]
			start := p.Starts[rapid.IntRange(0, len(p.Starts)-1).Draw(t, "start")]
			free := true
			names := []string{p.Name}
			for _, in := range have {
				free = free && in.Placement.Slots()&(mig.Placement{Start: start, Size: p.Size}).Slots() == 0
				names = append(names, in.Profile)
			}
			_, impossible := model.Place(names, 0)
			err = s.Create(ctx, id, at(p.Name, start, p.Size))
			if (err == nil) != (free && impossible == nil) {
				t.Fatalf("%s at %d beside %+v: %v (free %v, %v)", p.Name, start, have, err, free, impossible)
			}
		}
		boards, err := s.Boards(ctx)
		if err != nil {
			t.Fatal(err)
		}
		inv, err := s.Inventory(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var fromMIG, fromInventory []string
		numbers := map[int]bool{}
		for _, in := range boards[0].Instances {
			fromMIG = append(fromMIG, in.UUIDs...)
			numbers[in.GPUInstance] = true
		}
		for _, slice := range inv.Boards[0].Slices {
			fromInventory = append(fromInventory, string(slice.ID))
		}
		slices.Sort(fromMIG)
		slices.Sort(fromInventory)
		if !slices.Equal(fromMIG, fromInventory) || len(numbers) != len(boards[0].Instances) {
			t.Fatalf("%v, %v, %d numbers", fromMIG, fromInventory, len(numbers))
		}
	})
}

// TestProcesses: programs of this host that were given simulated GPUs are on
// them.
func TestProcesses(t *testing.T) {
	m := machine(t, "2xh100")
	first, second := m.idOf(0), m.idOf(1)
	proc := t.TempDir()
	run := func(pid, parent int, environment ...string) {
		t.Helper()
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		stat := strconv.Itoa(pid) + " (a ) b) S " + strconv.Itoa(parent) + " 1 1"
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "environ"), []byte(strings.Join(environment, "\x00")+"\x00"), 0o600),
			os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	run(1, 0, "HOME=/")
	run(100, 1, "PATH=/bin", "NVIDIA_VISIBLE_DEVICES="+string(first)+","+string(second), "CUDA_VISIBLE_DEVICES="+string(first)+","+string(second))
	run(101, 100, "CUDA_VISIBLE_DEVICES="+string(second)) // a helper
	run(200, 1, "CUDA_VISIBLE_DEVICES="+string(second))
	run(300, 1, "CUDA_VISIBLE_DEVICES=GPU-of-another-node", "NVIDIA_VISIBLE_DEVICES=all")
	run(400, 1, "XCUDA_VISIBLE_DEVICES", "MY_VISIBLE_DEVICES="+string(first))
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Config{Machine: m, ProcDir: proc})
		pids := func() (all []string) {
			t.Helper()
			processes, err := s.Processes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range processes {
				board := slices.IndexFunc(s.subjects, func(b subject) bool { return b.id == p.Device })
				all = append(all, strconv.Itoa(p.PID)+" on "+strconv.Itoa(board))
				if p.Kind != gpu.ProcessCompute || *p.MemoryMiB < 1000 || p.GPUPercent == nil {
					t.Errorf("process %+v", p)
				}
			}
			return all
		}
		if diff := cmp.Diff([]string{"100 on 0", "100 on 1", "200 on 1"}, pids()); diff != "" {
			t.Errorf("processes (-want +got):\n%s", diff)
		}
		if err := os.RemoveAll(filepath.Join(proc, "200")); err != nil {
			t.Fatal(err)
		}
		if len(pids()) != 3 {
			t.Error("looked twice within a second")
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"100 on 0", "100 on 1"}, pids()); diff != "" {
			t.Errorf("processes after one ended (-want +got):\n%s", diff)
		}
	})
}
