package run

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func TestJudge(t *testing.T) {
	code := func(n int) *int { return &n }
	alloc := func(a Alloc) *Alloc {
		a.ID, a.NodeName = "a1", "node-1"
		if a.Client == "" {
			a.Client = "failed"
		}
		if a.Desired == "" {
			a.Desired = "run"
		}
		return &a
	}
	tests := map[string]struct {
		alloc           *Alloc
		record          *mltask.Result
		stopping        string
		cancelled, gone bool
		phase           Phase
		reason          string
		free            bool
	}{
		"success": {alloc(Alloc{Client: "complete", ExitCode: code(0)}), &mltask.Result{AllocID: "a1"}, "", false, false, Succeeded, "", false},
		"a record proves a success of an allocation that was lost after it": {
			alloc(Alloc{Client: "lost"}), &mltask.Result{AllocID: "a0"}, "", false, false, Succeeded, "", false},
		"a record proves a success of a job that is gone": {
			nil, &mltask.Result{AllocID: "a0"}, "", false, true, Succeeded, "", false},
		"a success beats a cancel": {
			alloc(Alloc{Client: "complete"}), &mltask.Result{AllocID: "a1"}, "cancelled by ann", true, false, Succeeded, "", false},
		"cancelled": {alloc(Alloc{Desired: "stop", Signal: 15}), nil, "cancelled by ann", true, false, Cancelled, "cancelled by ann", false},
		"timed out": {alloc(Alloc{Desired: "stop", Signal: 9}), nil, "it ran for longer than its timeout of 1m", false, false, Failed, "it ran for longer than its timeout of 1m", false},
		"exit code": {alloc(Alloc{ExitCode: code(2)}), &mltask.Result{AllocID: "a1", ExitCode: 2}, "", false, false, Failed, "it exited with code 2", false},
		"record of an allocation before this one": {
			alloc(Alloc{ExitCode: code(2)}), &mltask.Result{AllocID: "a0", ExitCode: 1, Error: "old"}, "", false, false, Failed, "it exited with code 2", false},
		"missing output":  {alloc(Alloc{ExitCode: code(0)}), &mltask.Result{AllocID: "a1", Error: `output "model" was not written`}, "", false, false, Failed, `output "model" was not written`, false},
		"lost":            {alloc(Alloc{Client: "lost", Desired: "stop"}), nil, "", false, false, Failed, "node node-1 was lost", true},
		"preempted":       {alloc(Alloc{Desired: "evict", Preempted: true, Signal: 15}), nil, "", false, false, Failed, "it was preempted by a job of higher priority", true},
		"driver":          {alloc(Alloc{Problem: "no such file: train.py"}), nil, "", false, false, Failed, "no such file: train.py", false},
		"removed":         {nil, nil, "", false, true, Failed, "its job was removed from the cluster before it ran", false},
		"stopped before":  {nil, nil, "", false, false, Failed, "its job was stopped from outside Drover before it ran", false},
		"stopped by hand": {alloc(Alloc{Desired: "stop", Client: "complete"}), nil, "", false, false, Failed, "it was stopped from outside Drover", false},
		"mute":            {alloc(Alloc{}), nil, "", false, false, Failed, "it ended, and the cluster does not say why", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := judge(tt.alloc, tt.record, tt.stopping, tt.cancelled, tt.gone)
			if o.Phase != tt.phase || o.Reason != tt.reason || o.Free != tt.free {
				t.Errorf("judge = %s, %q, free %v; want %s, %q, free %v", o.Phase, o.Reason, o.Free, tt.phase, tt.reason, tt.free)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	tests := map[string]struct{ log, want string }{
		"empty":          {"", ""},
		"blank":          {" \n\n", ""},
		"no newline":     {"a\nb", "a\nb\n"},
		"many":           {strings.Repeat("x\n", 50), strings.Repeat("x\n", tailLines)},
		"blank at end":   {"a\n\n\n", "a\n"},
		"not UTF-8":      {"a\xffb\n", "a\uFFFDb\n"},
		"cut in a rune":  {"\xa9 b\n", "\uFFFD b\n"},
		"indented start": {"  a\n", "  a\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := lastLines(tt.log); got != tt.want {
				t.Errorf("lastLines(%q) = %q, want %q", tt.log, got, tt.want)
			}
		})
	}
}

func TestAsk(t *testing.T) {
	tests := map[string]struct {
		resources pipeline.Resources
		want      string
	}{
		"share": {pipeline.Resources{CPUMHz: 500, MemoryMiB: 256}, "500 MHz and 256 MiB"},
		"cores": {pipeline.Resources{Cores: 4, MemoryMiB: 1024}, "4 cores and 1024 MiB"},
		"gpu":   {pipeline.Resources{CPUMHz: 1, MemoryMiB: 2, GPU: &pipeline.GPU{Count: 8, Device: "nvidia/gpu", MemoryMin: "40 GB"}}, "8 x nvidia/gpu of at least 40 GB, 1 MHz and 2 MiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ask(tt.resources); got != tt.want {
				t.Errorf("ask = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestIDsSortByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s idSource
		at := time.UnixMilli(rapid.Int64Range(1_600_000_000_000, 4_000_000_000_000).Draw(t, "time"))
		var last ID
		for _, step := range rapid.SliceOfN(rapid.Int64Range(0, 2), 2, 50).Draw(t, "steps") {
			at = at.Add(time.Duration(step) * time.Millisecond)
			id := s.next(at)
			if len(id) != 12 || strings.Trim(string(id), "0123456789abcdefghijklmnopqrstuv") != "" {
				t.Fatalf("ID %q is not 12 base32 characters", id)
			}
			if id <= last {
				t.Fatalf("ID %s comes after %s", id, last)
			}
			last = id
		}
	})
}
