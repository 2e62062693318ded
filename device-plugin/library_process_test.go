package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// fullNVML is fakeNVML with all functions that the plugin knows, and eight
// boards.
func fullNVML(t *testing.T) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not there to build a stand-in for libnvidia-ml.so.1")
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		t.Skipf("nvml.h of go-nvml is not found: %v", err)
	}
	dir := t.TempDir()
	out, err := exec.Command(gcc, "-shared", "-fPIC", "-w", "-DFAKE_NVML_FULL", "-DNVML_NO_UNVERSIONED_FUNC_DEFS",
		"-I"+filepath.Join(strings.TrimSpace(string(module)), "pkg/nvml"),
		"-o", filepath.Join(dir, "libnvidia-ml.so.1"), "testdata/fakenvml.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestProcessEvent is the way of an error from the driver's event to the
// agent, through a real library and a real process: it takes less than a
// second, whatever the fingerprint period.
func TestProcessEvent(t *testing.T) {
	dir := fullNVML(t)
	event := filepath.Join(dir, "event")
	p := launch(t, map[string]any{"fingerprint_period": "1h"}, "LD_LIBRARY_PATH="+dir, "FAKE_NVML_EVENT="+event)
	published := fingerprints(t, p)
	groups := next(t, published)
	if len(groups) != 1 || len(groups[0].Devices) != 8 || groups[0].Name != "NVIDIA H100 80GB HBM3" {
		t.Fatalf("published %+v", groups)
	}
	if got := groups[0].Attributes["interconnect"]; got != base.String("NV17") { // one link of the first board is down
		t.Errorf("interconnect %+v", got)
	}
	at := time.Now()
	write(t, event, "79")
	var broken []device.Device
	for len(broken) == 0 {
		for _, d := range next(t, published)[0].Devices {
			if !d.Healthy && strings.Contains(d.HealthDescription, "79") {
				broken = append(broken, d)
			}
		}
	}
	t.Logf("from the event to the agent: %s", time.Since(at))
	if len(broken) != 1 || broken[0].ID != "GPU-fake-1" {
		t.Errorf("unhealthy: %+v", broken)
	}
	if _, err := p.Device().Reserve(t.Context(), []string{"GPU-fake-1"}); err == nil {
		t.Error("the broken GPU was reserved")
	}
	if _, err := p.Device().Reserve(t.Context(), []string{"GPU-fake-7"}); err != nil {
		t.Error(err)
	}
}
