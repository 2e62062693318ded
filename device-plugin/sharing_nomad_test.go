package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"
)

// TestSharedOnNomad has a Nomad agent tell whole boards from replicas.
func TestSharedOnNomad(t *testing.T) {
	nomad, err := exec.LookPath("nomad")
	switch {
	case err != nil:
		t.Skip("no nomad binary on the PATH")
	case os.Geteuid() != 0:
		t.Skip("a Nomad client needs root")
	}
	dir := t.TempDir()
	client := startAgent(t, nomad, dir, fmt.Sprintf(`
		simulate      = "2xl4"
		simulate_node = "n"
		state_dir     = %q
		sharing {
			device        = "index:1"
			mode          = "mps"
			replicas      = 4
			pinned_memory = "5 GiB"
		}`, filepath.Join(dir, "state")))
	node := waitNode(t, client, "devices", func(n *api.Node) bool { return len(n.NodeResources.Devices) > 1 })
	instances := map[string][]string{}
	for _, d := range node.NodeResources.Devices {
		for _, i := range d.Instances {
			instances[d.ID()] = append(instances[d.ID()], i.ID)
		}
	}
	const whole, shared = "nvidia/gpu/NVIDIA L4", "nvidia/gpu.shared/NVIDIA L4"
	if len(instances) != 2 || len(instances[whole]) != 1 || len(instances[shared]) != 4 {
		t.Fatalf("devices %v, want a board and four replicas", instances)
	}
	replica, _, _ := strings.Cut(instances[shared][0], "::")
	for _, ask := range []struct {
		name, device, want string
		memory             string
	}{
		{"whole", "nvidia/gpu", instances[whole][0], "20 GiB"},
		{"shared", "nvidia/gpu.shared", replica, "5 GiB"},
	} {
		out := runJob(t, client, ask.name, api.RequestedDevice{
			Name: ask.device, Constraints: []*api.Constraint{api.NewConstraint("${device.attr.memory}", ">=", ask.memory)},
		})
		want := fmt.Sprintf("CUDA %s\nNVIDIA %s\n", ask.want, ask.want)
		if diff := cmp.Diff(want, out); diff != "" {
			t.Errorf("a job for %s got (-want +got):\n%s", ask.device, diff)
		}
	}
}
