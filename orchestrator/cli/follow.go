package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli/show"
	"github.com/drover-ml/drover/orchestrator/cli/term"
	"github.com/drover-ml/drover/orchestrator/run"
)

// news is how a run stands, or that the server does not answer for now.
type news struct {
	run    run.Run
	silent error
}

const (
	// pollWait is how long one request waits for an event.
	pollWait = 30 * time.Second
	// pollPause keeps a run that reports much from being asked for all the
	// time; for a large run it is pollFactor times what an answer takes.
	pollPause  = 150 * time.Millisecond
	pollFactor = 5
	// patience is how long a server may be silent, as when it restarts.
	patience = 5 * time.Minute
	// redraw is how often running times are renewed on a terminal.
	redraw = time.Second
)

// follow shows a run's progress until it ends and returns how it stands then.
// On a terminal that is a table, redrawn in place; elsewhere, a line for each
// change. What r shows to have failed by now is not told again. It ends with
// ctx's error when ctx does.
func (a *app) follow(ctx context.Context, c *client.Client, r run.Run) (run.Run, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	updates := make(chan news)
	failed := make(chan error, 1)
	go func() { failed <- poll(ctx, c, r.ID, updates) }()

	f := follower{app: a, told: map[string]bool{}}
	for i := range r.Nodes {
		for _, at := range r.Nodes[i].Attempts {
			f.told[failedKey(&at)] = at.Phase == run.Failed
		}
	}
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case n := <-updates:
			f.update(n)
			if n.run.Phase.Ended() {
				f.screen.Keep()
				return n.run, nil
			}
		case <-ticker.C:
			f.draw()
		case err := <-failed:
			f.screen.Keep()
			return f.run, err
		}
	}
}

// poll sends news of a run until it has ended. A server that does not answer is
// news too, for as long as patience lasts.
func poll(ctx context.Context, c *client.Client, id run.ID, updates chan<- news) error {
	var last int64
	heard := time.Now()
	for {
		asked := time.Now()
		r, err := c.Run(ctx, id)
		took := time.Since(asked)
		var events []run.Event
		if err == nil && !r.Phase.Ended() {
			if err = send(ctx, updates, news{run: r}); err == nil {
				err = sleep(ctx, max(pollPause, pollFactor*took))
			}
			if err == nil {
				events, err = c.Events(ctx, id, last, pollWait)
			}
		}
		var silent *client.UnreachableError
		switch {
		case err == nil && r.Phase.Ended():
			return send(ctx, updates, news{run: r})
		case err == nil:
			heard = time.Now()
			if n := len(events); n > 0 {
				last = events[n-1].Seq
			}
		case errors.As(err, &silent) && time.Since(heard) < patience:
			if err := send(ctx, updates, news{silent: err}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("following run %s: %w", id, err)
		}
	}
}

func send(ctx context.Context, updates chan<- news, n news) error {
	select {
	case updates <- n:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follower shows news of one run.
type follower struct {
	*app
	run    run.Run
	silent error           // why there is no news
	told   map[string]bool // failed attempts that were shown, phases that were printed
}

func (f *follower) update(n news) {
	if n.silent != nil {
		if f.silent == nil && !f.screen.Terminal() {
			f.screen.Printf("%s  %s; trying again\n", f.Now().Format(time.TimeOnly), n.silent)
		}
		f.silent = n.silent
		f.draw()
		return
	}
	f.run, f.silent = n.run, nil
	f.failures()
	if !f.screen.Terminal() {
		f.lines()
	}
	f.draw()
}

// draw redraws the table on a terminal.
func (f *follower) draw() {
	if !f.screen.Terminal() || f.run.ID == "" {
		return
	}
	_, height := f.screen.Size()
	lines := append([]string{""}, show.Fit(f.screen, f.run, f.Now(), height-3)...)
	if f.silent != nil {
		lines = append(lines, f.screen.Paint(term.Yellow, f.silent.Error()+"; trying again"))
	}
	f.screen.Draw(lines)
}

// lines prints a line for each node, trial and reason that has changed.
func (f *follower) lines() {
	for i := range f.run.Nodes {
		n := &f.run.Nodes[i]
		if n.Phase == run.Waiting {
			continue
		}
		f.line(string(n.ID), n.Phase, show.Took(n.Started, n.Ended), show.Joined(show.Outcome(n), show.Detail(n)))
		for _, t := range n.Trials {
			if t.Phase.Ended() {
				f.line(show.TaskName(n.ID, &t.Index), t.Phase, show.Took(t.Started, t.Ended), show.Joined(show.TrialProgress(t), show.TrialDetail(t)))
			}
		}
	}
}

func (f *follower) line(name string, phase run.Phase, took, text string) {
	key := name + "\x00" + string(phase) + "\x00" + text
	if f.told[key] {
		return
	}
	f.told[key] = true
	line := fmt.Sprintf("%s  %-24s %-9s %6s  %s", f.Now().Format(time.TimeOnly), name, phase, took, term.Clean(text))
	f.screen.Printf("%s\n", strings.TrimRight(line, " "))
}

func failedKey(at *run.Attempt) string { return "failed\x00" + at.JobID }

// failures prints attempts that have failed, once each.
func (f *follower) failures() {
	for i := range f.run.Nodes {
		n := &f.run.Nodes[i]
		for j := range n.Attempts {
			at := &n.Attempts[j]
			key := failedKey(at)
			if at.Phase != run.Failed || at.Moved || at.Evicted || f.told[key] {
				continue
			}
			f.told[key] = true
			for _, line := range show.Failure(f.screen, n.ID, at) {
				f.screen.Printf("%s\n", line)
			}
		}
	}
}

// detached tells how to come back to a run that goes on.
func (a *app) detached(id run.ID, err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	a.screen.Printf("\nDetached; run %s goes on.\n  follow it again: drover status -follow %s\n  end it:          drover cancel %s\n", id, id, id)
	return errInterrupted
}
