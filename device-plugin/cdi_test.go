package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// TestCDI: a container engine finds the devices on offer by the names that a
// reservation has, and gives a container their device files.
func TestCDI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cdi")
	n := &node{settings: settings{cdiDir: dir}}
	inv := boards("GPU-0", "GPU-1", "GPU-2")
	// Files that are there everywhere; the engine looks at them.
	inv.Boards[0].Nodes = []string{"/dev/null", "/dev/zero"}
	inv.Boards[1].MIG = true
	inv.Boards[1].Slices = []gpu.Slice{{ID: "MIG-1", Profile: "1g.5gb", Nodes: []string{"/dev/full", "/dev/zero"}}}
	offer := gpu.State{}.Next(inv).Offer(gpu.Policy{Share: func(d gpu.Device) (string, int) {
		if d.ID == "GPU-0" {
			return "time-slicing", 2
		}
		return "", 0
	}}, gpu.Overlay{})
	if err := n.writeCDI(offer); err != nil {
		t.Fatal(err)
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	for path, errs := range cache.GetErrors() {
		t.Errorf("%s is not valid: %v", path, errs)
	}
	if diff := cmp.Diff([]string{"nvidia.com/gpu=GPU-0", "nvidia.com/gpu=MIG-1"}, cache.ListDevices()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	devices, err := offer.Select([]gpu.ID{"GPU-0::1", "MIG-1"})
	if err != nil {
		t.Fatal(err)
	}
	container := &oci.Spec{Linux: &oci.Linux{}}
	names := strings.Split(offer.Reservation(devices).Env[gpu.CDIVariable], ",")
	if unresolved, err := cache.InjectDevices(container, names...); err != nil {
		t.Fatalf("%v: %v", unresolved, err)
	}
	var files []string
	for _, d := range container.Linux.Devices {
		files = append(files, d.Path)
	}
	slices.Sort(files)
	if diff := cmp.Diff([]string{"/dev/full", "/dev/null", "/dev/zero"}, files); diff != "" {
		t.Errorf("device files (-want +got):\n%s", diff)
	}

	// Nothing is left to offer: a file without devices would be invalid.
	if err := n.writeCDI(gpu.Offer{}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
