package nvml

import (
	"errors"
	"strings"
	"testing"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

func migBoard(t *testing.T, s *Source, index int) mig.Board {
	t.Helper()
	boards, err := s.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return boards[index]
}

func TestController(t *testing.T) {
	m := a100()
	s := sourceOf(t, m)
	b := m.Boards[2]
	want := mig.Board{ID: b.UUID, Index: 2, Product: "Mock NVIDIA A100-SXM4-40GB", PCIDeviceID: "0x20B010DE", ProfileNames: []string{
		"1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb", "1g.5gb+me", "1g.10gb",
	}}
	if diff := cmp.Diff(want, migBoard(t, s, 2)); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}

	// The 3g first, at its only place beside a 4g.
	cut(t, s, b, instanceAt("3g.20gb", 4, 4, 2, 1), instanceAt("4g.20gb", 0, 4, 4))
	b.Change(func(b *nvmltest.Board) {
		b.Compute = []nvmltest.Process{{PID: 7, GPUInstance: 1, ComputeInstance: 0}, {PID: 8, GPUInstance: nvmltest.Whole, ComputeInstance: nvmltest.Whole}}
	})
	want.Enabled, want.Pending, want.Processes = true, true, []int{7, 8}
	want.Instances = []mig.Instance{
		{GPUInstance: 2, Profile: "4g.20gb", Placement: mig.Placement{Start: 0, Size: 4}, Compute: []int{4}, UUIDs: []string{"MIG-00000002-0000-0000-0002-000000000000"}},
		{GPUInstance: 1, Profile: "3g.20gb", Placement: mig.Placement{Start: 4, Size: 4}, Compute: []int{2, 1}, UUIDs: []string{
			"MIG-00000002-0000-0000-0001-000000000000", "MIG-00000002-0000-0000-0001-000000000001",
		}, Processes: []int{7}},
	}
	if diff := cmp.Diff(want, migBoard(t, s, 2)); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
	if got := inventory(t, s).Boards[2].Slices; len(got) != 3 || *got[0].Start != 4 || *got[2].Start != 0 {
		t.Errorf("slices %+v", got)
	}

	err := s.Destroy(t.Context(), b.UUID, 1)
	if !errors.Is(err, mig.ErrInUse) || !strings.Contains(err.Error(), b.UUID) {
		t.Errorf("destroying an instance in use: %v", err)
	}
	if _, err := s.SetMode(t.Context(), b.UUID, false); !errors.Is(err, mig.ErrInUse) {
		t.Errorf("turning MIG mode off with instances: %v", err)
	}
	b.Change(func(b *nvmltest.Board) { b.Compute = nil })
	for _, id := range []int{1, 2, 2, 9} { // gone is gone
		if err := s.Destroy(t.Context(), b.UUID, id); err != nil {
			t.Errorf("destroying %d: %v", id, err)
		}
	}
	if pending, err := s.SetMode(t.Context(), b.UUID, false); err != nil || pending {
		t.Errorf("turning MIG mode off: %t, %v", pending, err)
	}
	want.Enabled, want.Pending, want.Processes, want.Instances = false, false, nil, nil
	if diff := cmp.Diff(want, migBoard(t, s, 2)); diff != "" {
		t.Errorf("at last (-want +got):\n%s", diff)
	}
}

func TestModeWaitsForReset(t *testing.T) {
	busy := []nvmltest.Process{{PID: 7, GPUInstance: nvmltest.Whole, ComputeInstance: nvmltest.Whole}}
	m := a100()
	s := sourceOf(t, m)
	b := m.Boards[0]
	b.Compute = busy
	if pending, err := s.SetMode(t.Context(), b.UUID, true); err != nil || !pending {
		t.Errorf("on a board in use: %t, %v", pending, err)
	}
	if got := migBoard(t, s, 0); got.Enabled || !got.Pending {
		t.Errorf("board %+v", got)
	}
	b.Reset()
	if got := migBoard(t, s, 0); !got.Enabled || !got.Pending {
		t.Errorf("after a reset %+v", got)
	}

	m = h100() // needs no reset, but nobody may use it
	m.Boards[0].Compute = busy
	if pending, err := sourceOf(t, m).SetMode(t.Context(), m.Boards[0].UUID, true); !errors.Is(err, mig.ErrInUse) || pending {
		t.Errorf("on a later board in use: %t, %v", pending, err)
	}
}

func TestControllerRefusals(t *testing.T) {
	tests := []struct {
		name   string
		change func(*nvmltest.Machine)
		board  string
		in     mig.Instance
		want   string
	}{
		{name: "profile", in: instanceAt("3g.40gb", 0, 4, 3), want: "no such profile; it has [1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb 1g.5gb+me 1g.10gb]"},
		{name: "occupied", in: instanceAt("3g.20gb", 0, 4, 3), want: "the driver has no room for it there"},
		{name: "illegal place", in: instanceAt("3g.20gb", 2, 4, 3), want: "NVML error 2"},
		{name: "compute slices", in: instanceAt("3g.20gb", 4, 4, 3, 3), want: "its compute instance of 3 slices: the driver has no room"},
		{name: "odd compute slices", in: instanceAt("3g.20gb", 4, 4, 5), want: "no compute instance of 5 slices"},
		{name: "board", board: "GPU-x", in: instanceAt("3g.20gb", 4, 4, 3), want: "the driver does not find the GPU"},
		{name: "lost", change: func(m *nvmltest.Machine) { m.Boards[0].Lose(lost) }, in: instanceAt("3g.20gb", 4, 4, 3), want: "GPU is lost"},
		{name: "old driver", change: func(m *nvmltest.Machine) { m.Lack("nvmlDeviceCreateGpuInstanceWithPlacement") }, in: instanceAt("3g.20gb", 4, 4, 3), want: "lacks nvmlDeviceCreateGpuInstanceWithPlacement"},
		{name: "permission", change: func(m *nvmltest.Machine) {
			m.Boards[0].CreateGpuInstanceWithPlacementFunc = func(*lib.GpuInstanceProfileInfo, *lib.GpuInstancePlacement) (lib.GpuInstance, lib.Return) {
				return nil, lib.ERROR_NO_PERMISSION
			}
		}, in: instanceAt("3g.20gb", 4, 4, 3), want: "run it as root"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := a100()
			s := sourceOf(t, m)
			b := m.Boards[0]
			cut(t, s, b, instanceAt("4g.20gb", 0, 4, 4))
			before := migBoard(t, s, 0)
			if tt.change != nil {
				tt.change(m)
				_ = s.Close() // what the library has is looked up anew
			}
			board := b.UUID
			if tt.board != "" {
				board = tt.board
			}
			err := s.Create(t.Context(), board, tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), board) || !strings.Contains(err.Error(), tt.in.Profile) {
				t.Errorf("error is %v", err)
			}
			b.Lose(lib.SUCCESS)
			if diff := cmp.Diff(before, migBoard(t, s, 0)); diff != "" {
				t.Errorf("something was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// TestLayouts is that boards of every server get from each layout to the next
// by the plans of package mig, and that planning again finds nothing to do.
func TestLayouts(t *testing.T) {
	for name, m := range map[string]*nvmltest.Machine{"A100": a100(), "H100": h100(), "H200": h200(), "B200": b200()} {
		t.Run(name, func(t *testing.T) {
			s := sourceOf(t, m)
			model, ok := migBoard(t, s, 0).Model()
			if !ok {
				t.Fatal("the model is not known")
			}
			names := model.ProfileNames()
			layouts := [][]string{model.Balanced, {names[0], names[0], names[0], names[0], names[0], names[0], names[0]}, {names[len(names)-1]}, {}}
			for _, profiles := range layouts {
				layout, err := mig.NewLayout(model, profiles)
				if err != nil {
					t.Fatal(err)
				}
				reach(t, s, layout)
				var got []string
				for _, in := range migBoard(t, s, 0).Instances {
					got = append(got, in.Profile)
				}
				if diff := cmp.Diff(profiles, got, cmpopts.SortSlices(strings.Compare), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("instances (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// reach carries out what the plan says, until it says nothing.
func reach(t *testing.T, s *Source, l mig.Layout) {
	t.Helper()
	for range 40 {
		b := migBoard(t, s, 0)
		plan, err := mig.NewPlan(b, l)
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.Steps) == 0 {
			return
		}
		step := plan.Steps[0]
		switch step.Op {
		case mig.Enable, mig.Disable:
			_, err = s.SetMode(t.Context(), b.ID, step.Op == mig.Enable)
		case mig.Create:
			err = s.Create(t.Context(), b.ID, step.Instance)
		case mig.Destroy:
			err = s.Destroy(t.Context(), b.ID, step.Instance.GPUInstance)
		default:
			t.Fatalf("step %s", step)
		}
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	t.Fatal("there is no end to it")
}
