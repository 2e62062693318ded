package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/drover-ml/drover/nomadplugin/driver"
)

func TestExec(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(with(shell("exec sleep 1000"), map[string]any{"run": "run-7"}))
			n.start(c)
			r, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"sh", "-c", `echo "$DROVER_RUN"; pwd; echo oops >&2; exit 3`}, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if want := "run-7\n" + file(c, "local") + "\n"; string(r.Stdout) != want || string(r.Stderr) != "oops\n" || r.Exit.ExitCode != 3 {
				t.Errorf("exec = %q, %q, %+v", r.Stdout, r.Stderr, r.Exit)
			}
			if _, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"sleep", "1000"}, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "too long") {
				t.Errorf("error = %v, want that it took too long", err)
			}
			if _, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"no-such-program"}, 0); err == nil {
				t.Error("an unknown program was run")
			}
			if _, err := n.driver().ExecTask(n.ctx(), "no/such/task", []string{"true"}, 0); err == nil {
				t.Error("a command was run in an unknown task")
			}
			// What a command leaves behind neither holds it up nor outlives the task.
			r, err = n.driver().ExecTask(n.ctx(), c.ID, []string{"sh", "-c", "sleep 1000 & echo $!"}, 10*time.Second)
			if err != nil || r.Exit.ExitCode != 0 {
				t.Errorf("exec = %+v, %v", r, err)
			}
		})
	}
}

// buffer may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestExecStreaming(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("exec sleep 1000"))
	n.start(c)
	for _, test := range []struct {
		name          string
		tty           bool
		command       string
		stdin, stdout string
		stderr        string
		code          int
	}{
		{"input to output", false, "cat; echo done >&2; exit 4", "one\ntwo\n", "one\ntwo\n", "done\n", 4},
		{"input that is not read", false, "exit 0", "one\n", "", "", 0},
		{"terminal", true, "test -t 0 && test -t 1 && echo terminal; read x; echo got $x; exit 5", "word\n", "terminal", "", 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr buffer
			exit, err := n.driver().ExecTaskStreaming(n.ctx(), c.ID, nomad.ExecStreams{
				Command: []string{"sh", "-c", test.command}, TTY: test.tty,
				Stdin: strings.NewReader(test.stdin), Stdout: &stdout, Stderr: &stderr,
			})
			if err != nil {
				t.Fatal(err)
			}
			if exit.ExitCode != test.code || !strings.Contains(stdout.String(), test.stdout) || stderr.String() != test.stderr {
				t.Errorf("exit %+v, stdout %q, stderr %q", exit, stdout.String(), stderr.String())
			}
		})
	}
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(shell("exec sleep 1000"))
	n.start(c)
	stdin, typed := io.Pipe()
	defer typed.Close()
	sizes := make(chan nomad.TerminalSize, 1)
	var stdout buffer
	ctx, cancel := context.WithCancel(n.ctx())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := n.driver().ExecTaskStreaming(ctx, c.ID, nomad.ExecStreams{
			Command: []string{"sh", "-c", `trap 'stty size' WINCH; echo ready; while true; do sleep 0.05; done`}, TTY: true,
			Stdin: stdin, Stdout: &stdout, Stderr: io.Discard, Resize: sizes,
		})
		done <- err
	}()
	eventually(t, "the command", func() bool { return strings.Contains(stdout.String(), "ready") })
	sizes <- nomad.TerminalSize{Height: 33, Width: 77}
	eventually(t, "the size", func() bool { return strings.Contains(stdout.String(), "33 77") })
	cancel()
	<-done
}

// Commands beside a task end with it.
func TestExecEndsWithTheTask(t *testing.T) {
	t.Parallel()
	for _, groups := range []string{"auto", "off"} {
		t.Run("cgroups "+groups, func(t *testing.T) {
			n := newNode(t, map[string]any{"cgroups": groups})
			c := n.task(shell("exec sleep 1000"))
			n.start(c)
			var stdout buffer
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = n.driver().ExecTaskStreaming(n.ctx(), c.ID, nomad.ExecStreams{
					Command: []string{"sh", "-c", "echo ready; exec sleep 1000"}, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: io.Discard,
				})
			}()
			eventually(t, "the command", func() bool { return strings.Contains(stdout.String(), "ready") })
			if err := n.driver().StopTask(n.ctx(), c.ID, time.Second, ""); err != nil {
				t.Fatal(err)
			}
			n.wait(c)
			select {
			case <-done:
			case <-time.After(patience):
				t.Error("the command outlives the task")
			}
		})
	}
}
