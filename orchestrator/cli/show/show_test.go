package show

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

func TestLargeRunsFitTheTerminal(t *testing.T) {
	r := run.Run{}
	for i := range 100 {
		n := run.Node{ID: pipeline.NodeID(fmt.Sprintf("step.s%d", i)), Phase: run.Waiting}
		switch {
		case i < 90:
			n.Phase = run.Succeeded
		case i < 93:
			n.Phase = run.Running
		}
		r.Nodes = append(r.Nodes, n)
	}
	lines := Fit(term.New(io.Discard, func(string) string { return "" }), r, time.Now(), 10)
	if len(lines) != 10 {
		t.Errorf("%d lines, want 10", len(lines))
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"step.s90", "step.s91", "step.s92", "… and 7 waiting, 85 succeeded"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestDurations(t *testing.T) {
	tests := map[time.Duration]string{
		0: "", -time.Second: "", 100 * time.Millisecond: "0.1s", 9900 * time.Millisecond: "9.9s", 59 * time.Second: "59s",
		61 * time.Second: "1m01s", 3661 * time.Second: "1h01m", 49 * time.Hour: "2d01h",
	}
	for d, want := range tests {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestNumbersKeepTheirMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float64Range(-1e12, 1e12).Draw(t, "v")
		var got float64
		if _, err := fmt.Sscan(Number(v), &got); err != nil {
			t.Fatalf("%q: %v", Number(v), err)
		}
		if diff := got - v; diff > 1e-4*abs(v) || -diff > 1e-4*abs(v) {
			t.Errorf("%v is written %q", v, Number(v))
		}
	})
}

func abs(v float64) float64 { return max(v, -v) }

func TestExitReasons(t *testing.T) {
	code := 3
	tests := map[string]struct {
		attempt run.Attempt
		want    string
	}{
		"the engine's word": {run.Attempt{Reason: "the node was lost", ExitCode: &code}, "the node was lost"},
		"out of memory":     {run.Attempt{OOM: true, Signal: 9}, "it ran out of memory"},
		"signal":            {run.Attempt{Signal: 9}, "it was ended by signal 9"},
		"exit code":         {run.Attempt{ExitCode: &code}, "it exited with code 3"},
		"nothing is known":  {run.Attempt{}, "no reason is known"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ExitReason(&test.attempt); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestFailureShowsTheEndOfTheLog(t *testing.T) {
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	lines := Failure(term.New(io.Discard, func(string) string { return "" }), "step.a", &run.Attempt{Number: 1, Reason: "it exited with code 1", LogTail: log.String()})
	if len(lines) != logTail+1 || lines[1] != "  | line 80" || lines[logTail] != "  | line 99" {
		t.Errorf("%d lines: %q … %q", len(lines), lines[1], lines[len(lines)-1])
	}
}
