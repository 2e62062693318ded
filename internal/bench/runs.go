package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/orchestrator/run"
)

const (
	runsCount = 1_000
	runsWide  = 16 // that are being submitted
)

const oneStep = `pipeline "one" {}
step "only" {
  command = ["/bin/true"]
  cache   = false
  resources {
    cpu    = 20
    memory = "32 MiB"
  }
}
`

// benchRuns takes one-step runs through a drover server on a devcluster. With
// DROVER_BEFORE, the folder of another drover's binaries, that one does the same, in
// turns.
func benchRuns(ctx context.Context) ([]row, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d one-step runs", runsCount)
	subjects, folders := []string{"drover"}, []string{bin}
	var rows []row
	if before := os.Getenv("DROVER_BEFORE"); before != "" {
		subjects, folders = append(subjects, "drover before"), append(folders, before)
	} else {
		rows = append(rows, row{Case: name, Subject: "drover before", Note: "skipped: DROVER_BEFORE names no folder of binaries"})
	}
	took, cpu := make([][]float64, len(folders)), make([][]float64, len(folders))
	for range engineRuns {
		for i, folder := range folders {
			err := inLab(func(t lab.T) {
				c := lab.NewDevcluster(t, bin)
				seconds, used := manyRuns(ctx, t, lab.NewPlatform(t, c, folder, c.Addr()))
				took[i], cpu[i] = append(took[i], seconds), append(cpu[i], used/runsCount*1e3)
			})
			if err != nil {
				return rows, fmt.Errorf("%s: %w", subjects[i], err)
			}
		}
	}
	for i, subject := range subjects {
		rows = append(rows,
			spread(name, subject+", from the first submission to the last end", "s", took[i]),
			spread(name, subject+", the server's processor time a run", "ms", cpu[i]))
	}
	return rows, nil
}

// manyRuns is how long runs took, and what processor time of the server, in seconds.
func manyRuns(ctx context.Context, t lab.T, p *lab.Platform) (took, cpu float64) {
	start, before := time.Now(), processorTime(t, p.Server.PID())
	ids := make([]run.ID, runsCount)
	group, ctx := errgroup.WithContext(ctx)
	for w := range runsWide {
		group.Go(func() error {
			for i := w; i < runsCount; i += runsWide {
				r, _, err := p.Client.Submit(ctx, run.Submission{Filename: "one.hcl", Source: oneStep})
				if err != nil {
					return err
				}
				ids[i] = r.ID
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	last := start
	for _, id := range ids {
		if r := p.Succeeded(id); r.Ended.After(last) {
			last = *r.Ended
		}
	}
	return last.Sub(start).Seconds(), processorTime(t, p.Server.PID()) - before
}

// processorTime is that of a process so far, in seconds.
func processorTime(t lab.T, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name: the state is the third field
	var user, system float64
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100 // in hundredths, whatever the kernel's own clock
}
