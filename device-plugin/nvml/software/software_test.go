package software

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func TestSoftware(t *testing.T) {
	yes, no := true, false
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	tests := []struct {
		name  string
		files fstest.MapFS
		want  gpu.Environment
	}{
		{"none", fstest.MapFS{}, gpu.Environment{}},
		{"Debian", fstest.MapFS{
			"proc/driver/nvidia/version":                        file("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\nGCC version: 12\n"),
			"usr/local/cuda/version.json":                       file(`{"cuda": {"name": "CUDA SDK", "version": "12.4.1"}, "cuda_cudart": {"version": "12.4.127"}}`),
			"usr/local/cuda-12.4/version.json":                  file(`{"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}`),
			"usr/local/cuda-11.8/version.json":                  file(`{"cuda": {"version": "11.8.0"}}`),
			"usr/local/cuda-9.2/version.txt":                    file("CUDA Version 9.2.148\n"),
			"usr/local/cuda-12.6/compat/libcuda.so.1":           file(""),
			"usr/local/cuda-13.0/compat/libcuda.so.1":           file(""),
			"usr/bin/nvidia-cuda-mps-control":                   file(""),
			"usr/lib/x86_64-linux-gnu/libnvidia-container.so.1": file(""),
			"var/lib/dpkg/status": file(`Package: nvidia-container-toolkit
Status: install ok installed
Version: 1.17.3-1

Package: nvidia-fabricmanager-550
Status: install ok installed
Version: 550.54.15-1

Package: nvidia-fabricmanager-535
Status: deinstall ok config-files
Version: 535.1-1
`),
		}, gpu.Environment{
			OpenKernelModules: &yes, CUDARuntimes: []string{"9.2.148", "11.8.0", "12.4.1"}, ContainerToolkit: "1.17.3",
			FabricManager: "550.54.15", MPSControl: "/usr/bin/nvidia-cuda-mps-control", ForwardCompat: []string{"12.6", "13.0"},
		}},
		{"another", fstest.MapFS{
			"proc/driver/nvidia/version":                        file("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n"),
			"usr/lib64/libnvidia-container.so.1":                file(""),
			"usr/lib64/libnvidia-container.so.1.14.6":           file(""),
			"run/nvidia/driver/usr/bin/nvidia-cuda-mps-control": file(""),
		}, gpu.Environment{OpenKernelModules: &no, ContainerToolkit: "1.14.6", MPSControl: "/run/nvidia/driver/usr/bin/nvidia-cuda-mps-control"}},
		{"nonsense", fstest.MapFS{
			"proc/driver/nvidia/version":           file("?"),
			"usr/local/cuda/version.json":          file(`{"cuda": {"version": "; rm -rf"}}`),
			"usr/local/cuda-12/version.json":       file(`{"cuda": 3}`),
			"usr/local/cuda-x/compat/libcuda.so.1": file(""),
			"var/lib/dpkg/status":                  file("Package: nvidia-container-toolkit\nStatus: install ok installed\nVersion: what\n"),
		}, gpu.Environment{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Find(tt.files)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzDpkgVersions(f *testing.F) {
	f.Add([]byte("Package: nvidia-container-toolkit\nStatus: install ok installed\nVersion: 1:1.17.3-1\n"))
	f.Fuzz(func(t *testing.T, status []byte) {
		for name, version := range dpkgVersions(status) {
			if v := upstream(version); v != "" && !isVersion(v) {
				t.Errorf("%s is of version %q", name, v)
			}
		}
	})
}
