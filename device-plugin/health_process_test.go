package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// outOfService lists the devices that are unhealthy, by index, with the reasons.
func outOfService(groups []device.Group) map[int]string {
	m := map[int]string{}
	for _, g := range groups {
		for i, d := range g.Devices {
			if !d.Healthy {
				m[i] = d.HealthDescription
			}
		}
	}
	return m
}

// await reads what is published until it is as wanted.
func await(t *testing.T, published <-chan []device.Group, what string, ok func(map[int]string) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case groups := <-published:
			if ok(outOfService(groups)) {
				return
			}
		case <-deadline:
			t.Fatalf("%s was not published", what)
		}
	}
}

// TestProcessHealth sends the codes that other plugins get wrong, each to a
// GPU of its own, through a plugin as an agent runs it; restarts that in
// between; and resets the GPUs.
func TestProcessHealth(t *testing.T) {
	codes := []int{13, 31, 43, 45, 94, 109, 48, 79, 95}
	const harmless = 5
	dir := t.TempDir()
	script := filepath.Join(dir, "faults.hcl")
	config := map[string]any{
		"simulate": "9xh100", "simulate_node": "n", "simulate_faults": script, "state_dir": filepath.Join(dir, "state"),
		"health": map[string]any{"hold_down": "0s", "breaker_share": 1},
	}
	p := launch(t, config)
	published := fingerprints(t, p)
	await(t, published, "nine healthy GPUs", func(out map[int]string) bool { return len(out) == 0 })

	var faults strings.Builder
	for i, code := range codes {
		fmt.Fprintf(&faults, "fault \"%d\" { xid = %d }\n", i, code)
	}
	write(t, script, faults.String())
	condemned := func(out map[int]string) bool {
		for i, code := range codes {
			if fatal := i >= harmless; fatal != strings.HasPrefix(out[i], fmt.Sprintf("Xid %d: ", code)) || !fatal && out[i] != "" {
				return false
			}
		}
		return true
	}
	await(t, published, "the codes that are of the GPU", condemned)

	p.Kill()
	write(t, script, "") // nothing tells it again
	p = launch(t, config)
	published = fingerprints(t, p)
	if first := outOfService(next(t, published)); !condemned(first) {
		t.Fatalf("after a restart of the plugin, at first: %v", first)
	}

	var resets strings.Builder
	for i := harmless; i < len(codes); i++ {
		fmt.Fprintf(&resets, "reset \"%d\" {}\n", i)
	}
	write(t, script, resets.String())
	await(t, published, "all GPUs back in service", func(out map[int]string) bool { return len(out) == 0 })

	stdout, stderr, status := runHealth(t, "-state-dir", filepath.Join(dir, "state"))
	if status != 0 || stderr != "" || strings.Count(stdout, "\n") != 1+len(codes) {
		t.Errorf("health of a plugin that runs: status %d: %s%s", status, stdout, stderr)
	}
	p.Kill()
	stdout, stderr, status = runHealth(t, "-state-dir", filepath.Join(dir, "state"), "-json")
	var report health.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || status != 0 {
		t.Fatalf("health: %v, status %d: %s", err, status, stderr)
	}
	for i, code := range codes {
		if d := report.Devices[i]; len(d.XIDs) != 1 || d.XIDs[0].Code != code || d.XIDs[0].Count != 1 {
			t.Errorf("GPU %d was sent Xid %d once, and tells %+v", i, code, d.XIDs)
		}
	}
}
