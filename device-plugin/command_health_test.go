package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/health/monitor"
)

// storedHealthFile puts what a plugin wrote into a state folder.
func storedHealthFile(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	data, err := os.ReadFile("health/testdata/health-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, monitor.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runHealth(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), "health", args, &out, &errs)
	return out.String(), errs.String(), status
}

func TestHealthCommand(t *testing.T) {
	dir := storedHealthFile(t)
	lock, err := lockState(dir) // a plugin runs
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	tests := []struct {
		name   string
		args   []string
		golden string
		stderr string
		status int
	}{
		{name: "explains a code", args: []string{"-xid", "79"}, golden: "xid-79.txt"},
		{name: "explains a code of programs", args: []string{"-xid", "31"}, golden: "xid-31.txt"},
		{name: "explains an unknown code", args: []string{"-xid", "4711"}, golden: "xid-unknown.txt"},
		{name: "explains a code as JSON", args: []string{"-xid", "109", "-json"}, golden: "xid-109.json"},
		{name: "of the running plugin", args: []string{"-state-dir", dir}, golden: "health.txt", stderr: "the plugin has written nothing for"},
		{name: "of a simulated machine", args: []string{"-simulate", "2xl4", "-node", "n"}, golden: ""},
		{name: "no such code", args: []string{"-xid", "0"}, stderr: "-xid is 0; Xid codes are 1 and above", status: 2},
		{name: "no code", args: []string{"-xid", "x"}, stderr: "invalid value", status: 2},
		{name: "two questions", args: []string{"-xid", "79", "-clear", "GPU-0"}, stderr: "ask one", status: 2},
		{name: "an unknown device", args: []string{"-state-dir", dir, "-clear", "GPU-9"}, stderr: "clearing GPU-9: no such GPU or slice is known here", status: 1},
		{name: "no plugin ever", args: []string{"-state-dir", t.TempDir(), "-clear", "GPU-9"}, stderr: "health.json", status: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, status := runHealth(t, tt.args...)
			if status != tt.status || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("status %d, want %d; stderr %q, want %q", status, tt.status, stderr, tt.stderr)
			}
			if tt.golden != "" {
				golden(t, filepath.Join("testdata", tt.golden), stdout)
			}
		})
	}
}

func TestHealthCommandJSON(t *testing.T) {
	dir := storedHealthFile(t)
	lock, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	stdout, _, status := runHealth(t, "-state-dir", dir, "-json")
	var report health.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || status != 0 {
		t.Fatalf("%v, status %d: %s", err, status, stdout)
	}
	if d := report.Devices[0]; d.ID != "GPU-0" || d.State != health.Condemned || d.Action != "end" || d.Conditions[0].Signal != "xid-79" {
		t.Errorf("%+v", d)
	}
}

// TestClearDevice clears with a plugin that is not there, and one that is.
func TestClearDevice(t *testing.T) {
	dir := storedHealthFile(t)
	stdout, stderr, status := runHealth(t, "-state-dir", dir, "-clear", "GPU-2")
	if status != 0 || !strings.HasPrefix(stdout, "No plugin runs here. GPU-2 is cleared, and then checked, when one is started.") {
		t.Fatalf("status %d: %s%s", status, stdout, stderr)
	}

	inv := gpu.Inventory{}
	for i, id := range []gpu.ID{"GPU-0", "GPU-1", "GPU-2", "GPU-3"} {
		inv.Boards = append(inv.Boards, gpu.Board{ID: id, Index: i, Product: "H100"})
	}
	lock, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	c := monitor.Config{
		Health: health.DefaultConfig(), File: filepath.Join(dir, monitor.FileName), Log: hclog.NewNullLogger(),
		Inventory: func(context.Context) (gpu.Inventory, error) { return inv, nil },
	}
	m, err := monitor.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if m.Faults()["GPU-2"].OK() {
		t.Fatal("GPU-2 is not out of service at first")
	}
	m.ObserveInventory(inv)
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- m.Keep(ctx) }()
	defer func() {
		cancel()
		if err := <-kept; err != nil {
			t.Error(err)
		}
	}()
	stdout, stderr, status = runHealth(t, "-state-dir", dir, "-clear", "GPU-2")
	if status != 0 || !strings.HasPrefix(stdout, "GPU-2 is cleared.") {
		t.Fatalf("status %d: %s%s", status, stdout, stderr)
	}
	for _, d := range m.Report().Devices {
		if d.ID == "GPU-2" && d.State != health.Waiting {
			t.Errorf("GPU-2 is %s", d.State)
		}
	}
}
