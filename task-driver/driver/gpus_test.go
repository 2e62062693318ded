package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/cgroup"
)

func TestHiddenGPUs(t *testing.T) {
	nvidia := []cgroup.Major{{Number: 1, Name: "mem"}, {Number: 195, Name: "nvidia"}, {Number: 234, Name: "nvidia-uvm"}}
	hidden := []uint32{195, 234}
	null, zero := cgroup.Device{Major: 1, Minor: 3}, cgroup.Device{Major: 1, Minor: 5}
	gpu := func(more map[string]string) map[string]string {
		more["NVIDIA_VISIBLE_DEVICES"] = "GPU-a"
		return more
	}
	for _, test := range []struct {
		name   string
		env    map[string]string
		nodes  []driver.Device
		majors []cgroup.Major
		want   cgroup.Devices
		err    string
	}{
		{name: "a machine without GPUs", majors: nvidia[:1], env: gpu(map[string]string{})},
		{name: "nothing reserved", majors: nvidia, want: cgroup.Devices{Hidden: hidden}},
		{name: "void reserved", majors: nvidia, env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "void"}, want: cgroup.Devices{Hidden: hidden}},
		{
			name: "what the plugin tells", majors: nvidia, env: gpu(map[string]string{gpustatus.NodesVariable: "/dev/null,/dev/zero"}),
			want: cgroup.Devices{Hidden: hidden, Shown: []cgroup.Device{null, zero}},
		},
		{name: "simulated GPUs have no files", majors: nvidia, env: gpu(map[string]string{gpustatus.NodesVariable: ""}), want: cgroup.Devices{Hidden: hidden}},
		{
			name: "another plugin, first start", majors: nvidia, env: gpu(map[string]string{}), nodes: []driver.Device{{HostPath: "/dev/null"}},
			want: cgroup.Devices{Hidden: hidden, Shown: []cgroup.Device{null}},
		},
		{name: "another plugin, restart", majors: nvidia, env: gpu(map[string]string{}), err: "does not tell which device files"},
		{name: "a file that is gone", majors: nvidia, env: gpu(map[string]string{gpustatus.NodesVariable: "/dev/nvidia99"}), err: "/dev/nvidia99"},
		{name: "no device", majors: nvidia, env: gpu(map[string]string{gpustatus.NodesVariable: "/etc/passwd"}), err: "not a character device"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := hiddenGPUs(&driver.TaskConfig{DeviceEnv: test.env, Devices: test.nodes}, test.majors)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckGPUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.json")
	c := &driver.TaskConfig{DeviceEnv: map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b", gpustatus.Variable: path}}
	if err := checkGPUs(c); err != nil {
		t.Errorf("without a status file: %v", err)
	}
	write := func(faults ...gpustatus.Device) {
		if err := gpustatus.Write(path, gpustatus.Status{Devices: faults}); err != nil {
			t.Fatal(err)
		}
	}
	write(gpustatus.Device{ID: "GPU-c", Reason: "gone", Action: gpustatus.End})
	if err := checkGPUs(c); err != nil {
		t.Errorf("another GPU has failed: %v", err)
	}
	write(gpustatus.Device{ID: "GPU-b", Reason: "cordoned", Action: gpustatus.Keep})
	if err := checkGPUs(c); err == nil || !strings.Contains(err.Error(), "GPU-b: cordoned") {
		t.Errorf("error %v, want GPU-b and its reason", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkGPUs(c); err == nil {
		t.Error("a broken status file is taken for a healthy GPU")
	}
}
