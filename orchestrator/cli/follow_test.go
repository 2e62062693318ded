package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// TestFollowOnATerminal shows a run of three steps on a terminal and reads
// what stands there at the end.
func TestFollowOnATerminal(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("skipped: no pseudo-terminal: %v", err)
	}
	defer master.Close()
	if err := pty.Setsize(slave, &pty.Winsize{Rows: 20, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	getenv := func(name string) string { return map[string]string{"TERM": "xterm", "NO_COLOR": "1"}[name] }
	a := &app{IO: IO{Out: slave, Err: io.Discard, Getenv: getenv, Now: func() time.Time { return start.Add(3 * time.Second) }}, screen: term.New(slave, getenv)}
	f := follower{app: a, told: map[string]bool{}}

	nodes := func(train run.Phase, more ...run.Attempt) run.Run {
		return run.Run{ID: "r", Nodes: []run.Node{
			{ID: "step.prepare", Kind: pipeline.KindStep, Phase: run.Succeeded},
			{ID: "step.train", Kind: pipeline.KindStep, Phase: train, Started: &start, Attempts: more},
		}}
	}
	failed := run.Attempt{Number: 1, JobID: "j1", Phase: run.Failed, Reason: "it ran out of memory", LogTail: "Killed\n"}
	f.update(news{run: nodes(run.Queued)})
	f.update(news{run: nodes(run.Running, failed)})
	f.update(news{run: nodes(run.Running, failed, run.Attempt{Number: 2, NodeName: "dev-1", Phase: run.Running})})
	if _, err := slave.WriteString("\x04"); err != nil {
		t.Fatal(err)
	}

	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte("\x04")) {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	slave.Close()
	const want = `step.train attempt 1 failed: it ran out of memory
  | Killed

STEP          PHASE      TIME  PROGRESS  DETAIL
step.prepare  succeeded  -     -
step.train    running    3.0s  -         on dev-1, attempt 2`
	if screen := standing(string(got)); screen != want {
		t.Errorf("the terminal shows\n%s\nwant\n%s", screen, want)
	}
}

// standing is what stands on a terminal after the little that term prints.
func standing(out string) string {
	var lines []string
	row := 0
	line := func(text string) {
		for len(lines) <= row {
			lines = append(lines, "")
		}
		lines[row] = text
	}
	for out != "" {
		var up int
		switch {
		case strings.HasPrefix(out, "\x04"):
			return strings.TrimRight(strings.Join(lines, "\n"), "\n")
		case strings.HasPrefix(out, "\x1b[J"):
			lines, out = lines[:min(row, len(lines))], out[3:]
		case strings.HasPrefix(out, "\x1b["):
			if _, err := fmt.Sscanf(out, "\x1b[%dA", &up); err != nil {
				return "unexpected sequence in " + out
			}
			row -= up
			out = out[strings.IndexByte(out, 'A')+1:]
		default:
			text, rest, _ := strings.Cut(out, "\n")
			line(strings.TrimSuffix(strings.ReplaceAll(text, "\r", ""), "\x1b[K"))
			row, out = row+1, rest
		}
	}
	return "it does not end"
}

func newRoot() *cobra.Command {
	a := &app{IO: IO{Out: io.Discard, Err: io.Discard, Getenv: func(string) string { return "" }, Now: time.Now}}
	a.screen, a.errScreen = term.New(io.Discard, a.Getenv), term.New(io.Discard, a.Getenv)
	return a.root()
}

// TestFlagsAgree checks what normalizeArgs relies on: a flag of one name takes
// a value for all commands or for none, and none has a one-letter form.
func TestFlagsAgree(t *testing.T) {
	takes := map[string]bool{}
	where := map[string]string{}
	visitFlags(newRoot(), func(cmd *cobra.Command, f *pflag.Flag) {
		value := f.NoOptDefVal == ""
		if other, seen := where[f.Name]; seen && takes[f.Name] != value {
			t.Errorf("-%s takes a value for one of %s and %s", f.Name, other, cmd.CommandPath())
		}
		takes[f.Name], where[f.Name] = value, cmd.CommandPath()
		if f.Shorthand != "" && f.Name != "help" {
			t.Errorf("%s: -%s has the short form -%s", cmd.CommandPath(), f.Name, f.Shorthand)
		}
	})
}

func TestNormalizeArgs(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"one dash":                  {"run -detach p.hcl", "run --detach p.hcl"},
		"two dashes":                {"run --detach p.hcl", "run --detach p.hcl"},
		"value":                     {"run -var x=-1 p.hcl", "run --var x=-1 p.hcl"},
		"value that looks like one": {"run -var -x=1 -detach", "run --var -x=1 --detach"},
		"value after =":             {"run -var=x=1 p.hcl", "run --var=x=1 p.hcl"},
		"standard input":            {"predict e -input -", "predict e --input -"},
		"number":                    {"logs r s -trial -1", "logs r s --trial -1"},
		"end of flags":              {"run -detach -- -p.hcl", "run --detach -- -p.hcl"},
		"flag without its value":    {"run p -var", "run p --var"},
		"help":                      {"run -h", "run --help"},
		"value like help":           {"run -var -h", "run --var -h"},
	}
	root := newRoot()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(normalizeArgs(root, strings.Fields(test.args)), " ")
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNormalizeArgsTwiceIsOnce(t *testing.T) {
	root := newRoot()
	arg := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"-", "--", "-var", "--var", "-detach", "-x=1", "run", "-1", "-é"}))
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.SliceOf(arg).Draw(t, "args")
		once := normalizeArgs(root, args)
		if len(once) != len(args) {
			t.Fatalf("%q became %q", args, once)
		}
		if twice := normalizeArgs(root, once); !slices.Equal(twice, once) {
			t.Errorf("%q, then %q", once, twice)
		}
	})
}

func TestQuietFollowEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a := &app{IO: IO{Out: io.Discard, Err: io.Discard, Getenv: func(string) string { return "" }, Now: time.Now}}
	c, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.await(ctx, c, run.Run{ID: "r"}, true); err == nil {
		t.Error("a cancelled context ended without an error")
	}
}
