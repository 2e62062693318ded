package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

const (
	sealRuns   = 5
	sealShards = 4
	shardBytes = 256 << 20
)

// contender does something with the checkpoint top/step-1 and leaves what it
// makes below top.
type contender struct {
	name string
	run  func(ctx context.Context, top string) error
}

// benchSeal makes a checkpoint of 1 GiB in four shards durable and hashed, in
// place and as a copy, and lets the usual commands do the same. Each contender
// of each round gets a checkpoint of its own with the same bytes: before a
// seal just written, so that its pages wait for the disk, and before a copy
// on disk and in the page cache. Contenders take turns in going first.
func benchSeal(ctx context.Context) ([]row, error) {
	sealed, err := sealRace(ctx, "seal in place", false, []contender{
		{"sha256sum; sync", func(ctx context.Context, top string) error {
			return shell(ctx, top, "sha256sum step-1/* > sums && sync step-1/* step-1 sums .")
		}},
		{"cp -r; sha256sum; sync", copyByHand},
		{"drover", seal},
	})
	if err != nil {
		return nil, err
	}
	copied, err := sealRace(ctx, "copy to the store", true, []contender{
		{"cp -r; sha256sum; sync", copyByHand},
		{"drover", func(ctx context.Context, top string) error {
			d, err := checkpoint.Open(top)
			if err != nil {
				return err
			}
			defer d.Close()
			store, err := artifact.Open("file://" + top + "/store")
			if err != nil {
				return err
			}
			_, err = d.Export(ctx, store, "bench", 1, "bench")
			return err
		}},
	})
	return append(sealed, copied...), err
}

// sealRace runs the contenders in turns. The last is drover, and is compared
// to each of the others.
func sealRace(ctx context.Context, caseName string, onDisk bool, contenders []contender) ([]row, error) {
	seconds := make([][]float64, len(contenders))
	for round := range sealRuns {
		for i := range contenders {
			i = (i + round) % len(contenders)
			t, err := sealOnce(ctx, onDisk, contenders[i])
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", caseName, contenders[i].name, err)
			}
			seconds[i] = append(seconds[i], t.Seconds())
		}
	}
	var rows []row
	for i, c := range contenders {
		rows = append(rows, spread(caseName, c.name, "s", seconds[i]))
	}
	drover := &rows[len(rows)-1]
	for _, r := range rows[:len(rows)-1] {
		if drover.Note != "" {
			drover.Note += ", "
		}
		drover.Note += fmt.Sprintf("%.2f x %s", drover.Value/r.Value, r.Subject)
	}
	return rows, nil
}

func sealOnce(ctx context.Context, onDisk bool, c contender) (time.Duration, error) {
	top, err := diskFolder()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(top)
	if err := writeCheckpoint(filepath.Join(top, "step-1")); err != nil {
		return 0, fmt.Errorf("writing a checkpoint: %w", err)
	}
	if onDisk {
		// The seal is what a copy begins from.
		if err := seal(ctx, top); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	if err := c.run(ctx, top); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// writeCheckpoint writes shards of which no two blocks are equal.
func writeCheckpoint(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for shard := range sealShards {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("shard-%d", shard)))
		if err != nil {
			return err
		}
		for range shardBytes / len(block) {
			_, _ = random.Read(block) // never fails
			if _, err := f.Write(block); err != nil {
				_ = f.Close()
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func seal(ctx context.Context, top string) error {
	d, err := checkpoint.Open(top)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Seal(ctx, 1)
	return err
}

// copyByHand syncs what it wrote and nothing else: a bare sync would wait for
// all that the machine has to write.
func copyByHand(ctx context.Context, top string) error {
	return shell(ctx, top, "cp -r step-1 copy && sha256sum copy/* > sums && sync copy/* copy sums .")
}

func shell(ctx context.Context, dir, script string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}
