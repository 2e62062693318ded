package main

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// dgx is a plugin's node on NVML's mock of a DGX A100.
func dgx(t *testing.T) (*node, *nvmltest.Machine, *nvml.Source) {
	t.Helper()
	library := nvmltest.New(dgxa100.New(), 12)
	src := nvml.New(nvml.Config{Library: library, Host: nvml.Host{Files: fstest.MapFS{}}})
	config := defaultConfig()
	config.StateDir = t.TempDir()
	s, err := config.check()
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNode(hclog.NewNullLogger(), src, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n, library, src
}

// inService are the devices that are published as healthy.
func inService(n *node) []gpu.ID {
	var ids []gpu.ID
	_, groups, _ := n.current()
	for _, g := range groups {
		for _, d := range g.Devices {
			if d.Healthy {
				ids = append(ids, gpu.ID(d.ID))
			}
		}
	}
	return ids
}

// TestLostBoard: one of eight boards answers nothing but that it is lost. The
// others are there, whether it was seen before or not.
func TestLostBoard(t *testing.T) {
	for name, seen := range map[string]bool{"before the first look": false, "after it was seen": true} {
		t.Run(name, func(t *testing.T) {
			n, library, _ := dgx(t)
			lost := gpu.ID(library.Boards[3].UUID)
			if seen {
				if err := n.look(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			library.Boards[3].Lose(lib.ERROR_GPU_IS_LOST)
			if err := n.look(t.Context()); err != nil {
				t.Fatalf("the look failed as a whole: %v", err)
			}
			healthy := inService(n)
			if len(healthy) != 7 {
				t.Errorf("in service are %v", healthy)
			}
			for _, id := range healthy {
				if _, err := n.reserve(t.Context(), []gpu.ID{id}); err != nil {
					t.Error(err)
				}
			}
			_, groups, _ := n.current()
			d := healthOf(groups, string(lost))
			if listed := d.ID != ""; listed != seen || listed && (d.Healthy || d.HealthDescription == "") {
				t.Errorf("the lost board is published as %+v", d)
			}
			want := gpu.ErrUnknownGPU
			if seen {
				want = gpu.ErrUnhealthyGPU
			}
			if _, err := n.reserve(t.Context(), []gpu.ID{lost}); !errors.Is(err, want) {
				t.Errorf("reserving the lost board: %v", err)
			}
		})
	}
}

// TestSlicesAtAnyIndex: the most slices that a board can have is not how many
// there are, and they are at any of its indexes. A board in MIG mode without
// slices is not offered.
func TestSlicesAtAnyIndex(t *testing.T) {
	n, library, src := dgx(t)
	for i := range 2 {
		if _, err := src.SetMode(t.Context(), library.Boards[i].UUID, true); err != nil {
			t.Fatal(err)
		}
	}
	model, _ := mig.ModelOf("NVIDIA A100-SXM4-40GB")
	profile := model.ProfileNames()[0]
	for _, start := range []int{0, 2, 5} {
		if err := src.Create(t.Context(), library.Boards[0].UUID, mig.Instance{
			Profile: profile, Placement: mig.Placement{Start: start, Size: 1}, Compute: []int{1},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, groups, _ := n.current()
	slices := map[string]int{}
	for _, g := range groups {
		slices[g.Name[strings.LastIndex(g.Name, "NVIDIA"):]] = len(g.Devices)
	}
	if len(slices) != 2 || slices["NVIDIA A100-SXM4-40GB"] != 6 || slices["NVIDIA A100-SXM4-40GB MIG "+profile] != 3 {
		t.Errorf("groups %v", slices)
	}
	for i := range 2 {
		if d := healthOf(groups, library.Boards[i].UUID); d.ID != "" {
			t.Errorf("a board in MIG mode is offered: %+v", d)
		}
	}
	if err := device.ValidateGroups(groups); err != nil {
		t.Error(err)
	}
}

// TestDriverMismatch: a library of another version than the driver is not a
// machine without GPUs, and no reason to end what runs. No restart is needed.
func TestDriverMismatch(t *testing.T) {
	n, library, _ := dgx(t)
	if err := n.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	count := library.DeviceGetCountFunc
	library.DeviceGetCountFunc = func() (int, lib.Return) { return 0, lib.ERROR_LIB_RM_VERSION_MISMATCH }
	if err := n.look(t.Context()); err == nil {
		t.Error("no error is seen")
	}
	_, groups, _ := n.current()
	if len(inService(n)) > 0 || len(groups) != 1 || len(groups[0].Devices) != 8 {
		t.Fatalf("published %s", described(groups))
	}
	if d := groups[0].Devices[0].HealthDescription; !strings.Contains(d, "driver/library version mismatch") || !strings.HasSuffix(d, "running work may finish") {
		t.Errorf("described as %q", d)
	}
	library.DeviceGetCountFunc = count
	if err := n.look(t.Context()); err != nil || len(inService(n)) != 8 {
		t.Errorf("after the mismatch is over: %v, in service %v", err, inService(n))
	}
}
