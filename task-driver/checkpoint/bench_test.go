package checkpoint_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// BenchmarkAgainstShell measures, turn by turn in one run and on bytes that
// were just written, what this package does and what a script does for the
// same:
//
//	seal   hash and sync where it is   sha256sum, sync -f
//	store  copy, hash and sync         cp -r, sha256sum, sync -f
//
// It reports medians in MB/s (10^6 bytes) and their ratio: above 1, ours is
// faster. DROVER_BENCH_MIB sets the size, default 256. Run it with
//
//	go test ./task-driver/checkpoint -run - -bench AgainstShell -benchtime 7x
func BenchmarkAgainstShell(b *testing.B) {
	mib := 256
	if s := os.Getenv("DROVER_BENCH_MIB"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("DROVER_BENCH_MIB=%q is not a number of MiB", s)
		}
		mib = n
	}
	total := int64(mib) << 20
	for _, shape := range []struct {
		name  string
		files int64
	}{{"one file", 1}, {"8 shards", 8}, {"2000 files", 2000}} {
		b.Run("seal/"+shape.name, func(b *testing.B) { race(b, total, shape.files, seal, shellSeal) })
		b.Run("store/"+shape.name, func(b *testing.B) { race(b, total, shape.files, store, shellStore) })
	}
}

// race runs both on fresh copies of the same step, in turns.
func race(b *testing.B, total, files int64, ours, shell func(testing.TB, string)) {
	var us, them []time.Duration
	for i := range b.N {
		contenders := []struct {
			run   func(testing.TB, string)
			times *[]time.Duration
		}{{ours, &us}, {shell, &them}}
		if i%2 == 1 {
			slices.Reverse(contenders)
		}
		for _, c := range contenders {
			top, err := os.MkdirTemp(b.TempDir(), "")
			if err != nil {
				b.Fatal(err)
			}
			writeStep(b, filepath.Join(top, "step-1"), total, files)
			start := time.Now()
			c.run(b, top)
			*c.times = append(*c.times, time.Since(start))
			if err := os.RemoveAll(top); err != nil {
				b.Fatal(err)
			}
		}
	}
	rate := func(times []time.Duration) float64 {
		slices.Sort(times)
		return float64(total) / 1e6 / times[len(times)/2].Seconds()
	}
	b.ReportMetric(rate(us), "ours-MB/s")
	b.ReportMetric(rate(them), "shell-MB/s")
	b.ReportMetric(rate(us)/rate(them), "ratio")
	b.ReportMetric(0, "ns/op") // it includes the making of files
}

// writeStep writes bytes that no file shares with another.
func writeStep(tb testing.TB, dir string, total, files int64) {
	tb.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{1})
	chunk := make([]byte, 1<<20)
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("shard-%d", i)))
		if err != nil {
			tb.Fatal(err)
		}
		for left := total / files; left > 0; {
			n := min(left, int64(len(chunk)))
			_, _ = rng.Read(chunk[:n]) // never fails
			if _, err := f.Write(chunk[:n]); err != nil {
				tb.Fatal(err)
			}
			left -= n
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

func seal(tb testing.TB, top string) {
	d, err := checkpoint.Open(top)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Seal(context.Background(), 1); err != nil {
		tb.Fatal(err)
	}
}

func store(tb testing.TB, top string) {
	s, err := artifact.Open("file://" + top + "/store")
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := s.Put(context.Background(), top+"/step-1"); err != nil {
		tb.Fatal(err)
	}
}

func shellSeal(tb testing.TB, top string) {
	shellRun(tb, top, `find step-1 -type f -print0 | xargs -0 sha256sum > sums && sync -f sums`)
}

func shellStore(tb testing.TB, top string) {
	shellRun(tb, top, `cp -r step-1 copy && find copy -type f -print0 | xargs -0 sha256sum > sums && sync -f sums`)
}

func shellRun(tb testing.TB, dir, script string) {
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", script, err, out)
	}
}
