package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/internal/gpustatus"
)

// TestResliceUnderLoad cuts a board anew while each of its slices is in use. A
// driver, whose part the test plays, hears from the status file who should
// leave: just the task whose slice goes. The others keep their processes and
// their slices, and the other board hears nothing of it.
func TestResliceUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a cordon to settle, and for real processes")
	}
	dir := t.TempDir()
	boards := filepath.Join(dir, "boards.hcl")
	if err := os.WriteFile(boards, []byte(`
board "a100-40gb" { mig = ["3g.20gb", "2g.10gb", "2g.10gb"] }
board "a100-40gb" { mig = ["7g.40gb"] }
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPlugin(hclog.NewNullLogger())
	if err := p.SetConfig(t.Context(), encoded(t, map[string]any{"simulate": boards, "simulate_node": "n", "state_dir": dir})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	published := bench{plugin: p}.watch(ctx)
	groups := <-published

	tasks := make(map[string]*exec.Cmd) // by slice
	ended := make(chan string, 8)
	for _, g := range groups {
		for _, d := range g.Devices {
			task := exec.Command("sleep", "600")
			task.Env = []string{"NOMAD_ALLOC_ID=" + d.ID, "CUDA_VISIBLE_DEVICES=" + d.ID}
			if err := task.Start(); err != nil {
				t.Fatal(err)
			}
			tasks[d.ID] = task
			go func() {
				_ = task.Wait()
				ended <- d.ID
			}()
			t.Cleanup(func() { _ = task.Process.Kill() })
		}
	}
	if len(tasks) != 4 {
		t.Fatalf("there are %d slices: %s", len(tasks), described(groups))
	}

	applied := make(chan string, 1)
	go func() {
		var stdout, stderr strings.Builder
		run(ctx, "mig", []string{"apply", "-layout", "all-balanced", "-devices", "0", "-evict", "-simulate", boards, "-node", "n", "-state-dir", dir}, &stdout, &stderr)
		applied <- stdout.String() + stderr.String()
	}()

	asked := make(map[string]bool)
	var moved []string
	deadline := time.After(time.Minute)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for done := false; !done; {
		select {
		case groups = <-published:
			done = offers(groups, "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
		case <-look.C:
			for _, id := range leaving(t, dir) {
				if asked[id] {
					continue
				}
				asked[id] = true
				if err := tasks[id].Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		case id := <-ended:
			moved = append(moved, id)
		case <-deadline:
			t.Fatalf("after a minute: %s", described(groups))
		}
	}
	if said := <-applied; !strings.Contains(said, "board 0: done") {
		t.Errorf("apply said %s", said)
	}
	if len(moved) != 1 {
		t.Errorf("%d tasks were ended, want the one whose slice goes", len(moved))
	}
	for id, task := range tasks {
		if len(moved) == 1 && id == moved[0] {
			if d := healthOf(groups, id); d.ID != "" {
				t.Errorf("its slice is still there: %+v", d)
			}
			continue
		}
		if err := task.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the task on %s is gone: %v", id, err)
		}
		if d := healthOf(groups, id); !d.Healthy && !strings.HasPrefix(d.HealthDescription, "cordoned: MIG layout all-balanced") {
			t.Errorf("slice %s, whose task stays: %+v", id, d)
		}
	}
	cancel()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// leaving are the devices whose work should go elsewhere, as a driver reads it.
func leaving(t *testing.T, stateDir string) []string {
	t.Helper()
	s, err := gpustatus.Read(filepath.Join(stateDir, statusFile))
	if err != nil {
		return nil // not written yet
	}
	var ids []string
	for _, d := range s.Devices {
		if d.Action == gpustatus.Move && strings.HasPrefix(d.ID, "MIG-") {
			ids = append(ids, d.ID)
		}
	}
	return ids
}
