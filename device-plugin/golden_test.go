package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/nvml"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// TestFingerprints has what a node publishes of each of go-nvml's servers: with
// whole boards, with all boards cut, and with a mixture that has a board in
// MIG mode without slices.
func TestFingerprints(t *testing.T) {
	servers := map[string]struct {
		make    func() *server.Server
		nvlinks int
	}{
		"a100": {dgxa100.New, 12}, "h100": {dgxh100.New, 18}, "h200": {dgxh200.New, 18}, "b200": {dgxb200.New, 18},
	}
	for name, s := range servers {
		for _, layout := range []string{"off", "on", "mixed"} {
			t.Run(name+" MIG "+layout, func(t *testing.T) {
				src := nvml.New(nvml.Config{Library: nvmltest.New(s.make(), s.nvlinks), Host: nvml.Host{Files: fstest.MapFS{}}})
				t.Cleanup(func() { _ = src.Close() })
				cutBoards(t, src, layout)
				groups := firstFingerprint(t, src)
				if err := device.ValidateGroups(groups); err != nil {
					t.Errorf("an agent refuses it: %v", err)
				}
				golden(t, filepath.Join("testdata", "fingerprints", name+"-"+layout+".txt"), printed(groups))
			})
		}
	}
}

// printed is a fingerprint as text.
func printed(groups []device.Group) string {
	var b strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&b, "%s/%s/%s\n", g.Vendor, g.Type, g.Name)
		for _, d := range g.Devices {
			health := "healthy"
			if !d.Healthy {
				health = d.HealthDescription
			}
			fmt.Fprintf(&b, "  %s at %s: %s\n", d.ID, d.PCIBusID, health)
		}
		for _, key := range slices.Sorted(maps.Keys(g.Attributes)) {
			a := g.Attributes[key]
			fmt.Fprintf(&b, "    %s = %v\n", key, strings.TrimSpace(fmt.Sprint(a.Value, " ", a.Unit)))
		}
	}
	return b.String()
}

// cutBoards brings the boards of a server to a layout.
func cutBoards(t *testing.T, src *nvml.Source, layout string) {
	t.Helper()
	boards, err := src.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range boards {
		model, ok := b.Model()
		if !ok {
			t.Fatalf("the model of %s is not known", b.Product)
		}
		switch {
		case layout == "on", layout == "mixed" && i == 0:
			cutBoard(t, src, b, model, model.Balanced)
		case layout == "mixed" && i == 1:
			cutBoard(t, src, b, model, nil)
		case layout == "mixed" && i == 2:
			cutBoard(t, src, b, model, []string{model.ProfileNames()[0], model.ProfileNames()[0]})
		}
	}
}

func cutBoard(t *testing.T, src *nvml.Source, b mig.Board, model mig.Model, profiles []string) {
	t.Helper()
	if _, err := src.SetMode(t.Context(), b.ID, true); err != nil {
		t.Fatal(err)
	}
	b.Enabled = true
	layout, err := mig.NewLayout(model, profiles)
	if err != nil {
		t.Fatal(err)
	}
	if len(profiles) == 0 {
		return
	}
	plan, err := mig.NewPlan(b, layout)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range plan.Steps {
		if step.Op != mig.Create {
			continue // MIG mode is on
		}
		if err := src.Create(t.Context(), b.ID, step.Instance); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
}

// firstFingerprint is that of a machine whose network cards are not
// known.
func firstFingerprint(t *testing.T, src gpu.Source) []device.Group {
	t.Helper()
	inv, err := src.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state := gpu.State{}.Next(inv)
	graph, err := machineOf(src).graph(t.Context(), state.Devices, true)
	if err != nil {
		t.Fatal(err)
	}
	overlay := gpu.Overlay{Describe: func(members []gpu.Device) map[string]device.Attribute { return describe(graph, members) }}
	return state.Offer(gpu.Policy{}, overlay).Groups()
}
