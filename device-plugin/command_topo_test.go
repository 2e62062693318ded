package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestTopoCommand(t *testing.T) {
	matrix := filepath.Join("..", "internal", "topology", "testdata", "dgx-1.txt")
	tests := []struct {
		name, golden string
		args         []string
		status       int
		stderr       string // part of what is said
	}{
		{name: "a pasted matrix", args: []string{"-from", matrix, "-best", "3"}, golden: "topo-dgx-1.txt"},
		{name: "a pasted matrix as JSON", args: []string{"-from", filepath.Join("..", "internal", "topology", "testdata", "workstation.txt"), "-json"}, golden: "topo-workstation.json"},
		{name: "a simulated machine", args: []string{"-simulate", "dgx-a100", "-node", "n"}, golden: "topo-simulated.txt"},
		{name: "not a matrix", args: []string{"-from", "main.go"}, status: 1, stderr: "main.go: reading a topology matrix: there is no header line"},
		{name: "no such file", args: []string{"-from", "nowhere"}, status: 1, stderr: "nowhere: no such file"},
		{name: "two machines", args: []string{"-from", matrix, "-simulate", "dgx-a100"}, status: 2, stderr: "-from and -simulate are two machines"},
		{name: "more GPUs than there are", args: []string{"-from", matrix, "-best", "9"}, status: 2, stderr: "-best 9: there are 8 GPUs"},
		{name: "an argument", args: []string{"x"}, status: 2, stderr: `unexpected argument "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if status := run(t.Context(), "topo", tt.args, &stdout, &stderr); status != tt.status {
				t.Fatalf("status %d, want %d; it said %s", status, tt.status, stderr.String())
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("it said %q, want %q", stderr.String(), tt.stderr)
			}
			if tt.golden != "" {
				golden(t, filepath.Join("testdata", tt.golden), stdout.String())
			}
		})
	}
}
