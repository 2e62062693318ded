package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/health/monitor"
	"github.com/drover-ml/drover/internal/gpustatus"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// until waits for what changes in a file by rename.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("there is no %s after 20 s", what)
		case <-tick.C:
		}
	}
}

func fileHas(path string, texts ...string) func() bool {
	return func() bool {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		for _, text := range texts {
			if !strings.Contains(string(content), text) {
				return false
			}
		}
		return true
	}
}

// TestProcessKilled ends the plugin by kill -9 while a GPU is condemned: the
// next one publishes the same, down to the second in which it was seen, even
// though the fault is over meanwhile.
func TestProcessKilled(t *testing.T) {
	dir := t.TempDir()
	faults := filepath.Join(dir, "faults.json")
	config := map[string]any{"simulate": "4xh100", "simulate_node": "n", "simulate_faults": faults, "state_dir": dir}
	p := launch(t, config)
	published := fingerprints(t, p)
	first := next(t, published)
	broken := first[0].Devices[2].ID

	write(t, faults, `{"fault": {"2": {"reason": "uncorrectable ECC errors"}}}`)
	before := next(t, published)
	if d := before[0].Devices[2]; d.Healthy {
		t.Fatalf("after a fault: %+v", d)
	}
	until(t, "health on disk", fileHas(filepath.Join(dir, monitor.FileName), broken, "uncorrectable ECC errors"))
	until(t, "status on disk", fileHas(filepath.Join(dir, statusFile), broken))
	p.Kill()

	p = launch(t, config)
	published = fingerprints(t, p)
	after := next(t, published)
	// How a broken board is connected is not known to a plugin that never saw
	// it whole.
	delete(before[0].Attributes, "topology")
	delete(after[0].Attributes, "topology")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("published by the next process (-before +after):\n%s", diff)
	}
	if _, err := p.Device().Reserve(t.Context(), []string{broken}); err == nil {
		t.Error("a condemned GPU was reserved")
	}
	p.Kill()

	if err := os.Remove(faults); err != nil {
		t.Fatal(err)
	}
	p = launch(t, config)
	published = fingerprints(t, p)
	d := healthOf(next(t, published), broken)
	if d.Healthy || !strings.Contains(d.HealthDescription, "this is over, and check 1 of 3 is due") {
		t.Errorf("after the fault is over, unchecked: %+v", d)
	}
	status, err := gpustatus.Read(filepath.Join(dir, statusFile))
	if _, ok := status.Find(broken); err != nil || !ok {
		t.Errorf("status %+v, %v", status, err)
	}
}

func healthOf(groups []device.Group, id string) device.Device {
	for _, g := range groups {
		for _, d := range g.Devices {
			if d.ID == id {
				return d
			}
		}
	}
	return device.Device{}
}
