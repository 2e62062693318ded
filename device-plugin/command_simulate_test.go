package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSimulateCommand(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.hcl")
	write(t, bad, "fault \"0\" {\n  at = \"soon\"\n}\n")
	tests := []struct {
		name   string
		args   []string
		golden string // of stdout
		stderr string
		status int
	}{
		{name: "server with a script", args: []string{"-node", "n", "-faults", "testdata/script.hcl", "-until", "1m", "dgx-a100"}, golden: "simulate.txt"},
		{name: "slices", args: []string{"-node", "n", "a100-80gb/all-balanced"}, golden: "simulate-mig.txt"},
		{name: "JSON", args: []string{"-node", "n", "-faults", "testdata/script.hcl", "-json", "testdata/mixed.hcl"}, golden: "simulate.json"},
		{name: "presets", args: []string{"-presets"}, golden: "presets.txt"},
		{name: "board file of a preset", args: []string{"-write", "workstation"}, golden: "workstation.hcl"},
		{name: "nothing named", stderr: "name a preset or a board file", status: 2},
		{name: "two machines", args: []string{"l4", "t4"}, stderr: `unexpected argument "t4"`, status: 2},
		{name: "presets of one", args: []string{"-presets", "l4"}, stderr: `leave "l4" out`, status: 2},
		{name: "negative time", args: []string{"-until", "-1s", "l4"}, stderr: "-until is -1s", status: 2},
		{name: "unknown preset", args: []string{"dgx-9"}, stderr: `unknown GPU preset "dgx-9"; use one of a100-40gb`, status: 1},
		{name: "nothing to write", args: []string{"-write", "2xl4"}, stderr: `unknown GPU preset "2xl4"`, status: 1},
		{name: "bad script", args: []string{"-faults", bad, "l4"}, stderr: `bad.hcl:2:8: at is "soon"`, status: 1},
		{name: "missing script", args: []string{"-faults", "/none.hcl", "l4"}, stderr: "/none.hcl", status: 1},
		{name: "fault of no board", args: []string{"-faults", "testdata/script.hcl", "l4"}, stderr: `script.hcl:3:7: this machine has no board or slice "3"`, status: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if got := run(t.Context(), "simulate", tt.args, &stdout, &stderr); got != tt.status {
				t.Errorf("status %d, want %d; %s", got, tt.status, &stderr)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr %q, want %q", &stderr, tt.stderr)
			}
			if tt.golden != "" {
				golden(t, filepath.Join("testdata", tt.golden), stdout.String())
			}
		})
	}
}

// TestWrongFaultFile: a fault file that is there and is wrong is refused with
// the configuration; one that is not there yet is not.
func TestWrongFaultFile(t *testing.T) {
	config := defaultConfig()
	config.Simulate, config.SimulateNode = "l4", "n"
	config.SimulateFaults = filepath.Join(t.TempDir(), "faults.hcl")
	if _, err := config.check(); err != nil {
		t.Errorf("a fault file that is not there yet: %v", err)
	}
	write(t, config.SimulateFaults, "fault \"0\" {\n  xid = -1\n}\n")
	if _, err := config.check(); err == nil || !strings.Contains(err.Error(), "simulate_faults: ") || !strings.Contains(err.Error(), "faults.hcl:2:9: xid is -1; it is 1 to 999") {
		t.Errorf("error is %v", err)
	}
}
