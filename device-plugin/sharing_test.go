package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/sharing/mps/mpstest"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// sharedBench has two boards, the first of which is shared by MPS.
func sharedBench(t *testing.T, mode string) bench {
	t.Helper()
	t.Setenv("PATH", filepath.Dir(mpstest.Program(t, mode))+":"+os.Getenv("PATH"))
	b := newBench(t, map[string]any{"sharing": []any{
		map[string]any{"device": "index:0", "mode": "mps", "replicas": 2, "pinned_memory": "16 GiB"},
	}})
	inv := boards("GPU-0", "GPU-1")
	memory := int64(40536)
	for i := range inv.Boards {
		inv.Boards[i].Specs = gpu.Specs{MemoryMiB: &memory, ComputeMode: "Exclusive_Process"}
	}
	b.src.set(inv, nil)
	return b
}

// until waits for a fingerprint that a condition holds for.
func (b bench) until(t *testing.T, published <-chan []device.Group, what string, holds func(string) bool) {
	t.Helper()
	last := "nothing"
	timeout := time.After(30 * time.Second)
	for {
		select {
		case groups := <-published:
			if last = described(groups); holds(last) {
				return
			}
		case <-timeout:
			t.Fatalf("waiting for %s; published %s", what, last)
		}
	}
}

func (b bench) fingerprints(t *testing.T) <-chan []device.Group {
	published := make(chan []device.Group, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.Fingerprint(ctx, func(g []device.Group) error { published <- g; return nil }) // it ends with ctx
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return published
}

// TestSharedByMPS has the whole way of a replica, with a stand-in for NVIDIA's
// control program.
func TestSharedByMPS(t *testing.T) {
	b := sharedBench(t, mpstest.Honest)
	published := b.fingerprints(t)
	const well = "GPU-0::0 ok, GPU-0::1 ok, GPU-1 ok"
	b.until(t, published, "the daemon", func(s string) bool { return s == well })

	r, err := b.Reserve(t.Context(), []string{"GPU-0::1"})
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(b.settings.stateDir, "mps", "GPU-0", "pipe")
	for variable, want := range map[string]string{
		"CUDA_VISIBLE_DEVICES": "GPU-0", "NVIDIA_VISIBLE_DEVICES": "GPU-0", "CUDA_MPS_PIPE_DIRECTORY": pipe,
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=16384M",
		"DROVER_GPU_SHARING": "mps", "DROVER_GPU_SHARING_LIMITS": "enforced",
	} {
		if got := r.Env[variable]; got != want {
			t.Errorf("%s is %q, want %q", variable, got, want)
		}
	}
	mounts := []device.Mount{{TaskPath: pipe, HostPath: pipe}, {TaskPath: "/dev/shm", HostPath: "/dev/shm"}}
	if diff := cmp.Diff(mounts, r.Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}

	if err := syscall.Kill(daemonOf(t, pipe), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until(t, published, "the end of the daemon", func(s string) bool {
		return strings.HasPrefix(s, "GPU-0::0 its MPS daemon does not keep the limits: it ended: signal: killed") &&
			strings.HasSuffix(s, "running work may finish, GPU-1 ok")
	})
	if _, err := b.Reserve(t.Context(), []string{"GPU-0::1"}); err == nil || !strings.Contains(err.Error(), "MPS daemon") {
		t.Errorf("reserving without a daemon: %v", err)
	}
	b.until(t, published, "another daemon", func(s string) bool { return s == well })

	pid := daemonOf(t, pipe)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("daemon %d, which nobody uses, outlives the plugin", pid)
	}
}

func daemonOf(t *testing.T, pipe string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(pipe, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestLimitNotKept is of a daemon that takes a limit and does not keep it.
func TestLimitNotKept(t *testing.T) {
	b := sharedBench(t, mpstest.NoLimits)
	published := b.fingerprints(t)
	b.until(t, published, "the reason", func(s string) bool {
		return strings.Contains(s, `its limit of memory is "0", not 16384 MiB`) && strings.HasSuffix(s, ", GPU-1 ok")
	})
	if _, err := b.Reserve(t.Context(), []string{"GPU-0::0"}); err == nil {
		t.Error("a replica whose limit is not kept is reserved")
	}
	if _, err := b.Reserve(t.Context(), []string{"GPU-1"}); err != nil {
		t.Errorf("the board that is not shared: %v", err)
	}
}
