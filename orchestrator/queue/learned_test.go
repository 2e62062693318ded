package queue_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/queue"
)

func TestLearned(t *testing.T) {
	minutes := func(ns ...int) (runs []time.Duration) {
		for _, n := range ns {
			runs = append(runs, time.Duration(n)*time.Minute)
		}
		return runs
	}
	tests := []struct {
		name string
		runs []time.Duration
		want time.Duration
	}{
		{"none", nil, 0},
		{"two tell too little", minutes(10, 10), 0},
		{"the longest of a few", minutes(7, 30, 9), 30 * time.Minute},
		{"the longest of nine", minutes(1, 2, 3, 4, 5, 6, 7, 8, 9), 9 * time.Minute},
		{"one of ten may be out of line", minutes(10, 11, 12, 13, 14, 15, 16, 17, 18, 600), 18 * time.Minute},
		{"two of twenty", minutes(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 90, 90), 2 * time.Minute},
		{"clocks that went back", minutes(-3, -2, -1), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := queue.Learned(tt.runs); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestLearnedCovers: at least nine of ten runs fit, none shorter does as much, and
// the order of the runs does not matter.
func TestLearnedCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(1, 50).Draw(t, "minutes")) * time.Minute
		}), 3, 60).Draw(t, "runs")
		before := slices.Clone(runs)
		got := queue.Learned(runs)
		if !slices.Equal(runs, before) {
			t.Fatal("it has changed its argument")
		}
		within := func(d time.Duration) (n int) {
			for _, r := range runs {
				if r <= d {
					n++
				}
			}
			return n
		}
		if 10*within(got) < 9*len(runs) || 10*within(got-1) >= 9*len(runs) {
			t.Fatalf("%d of %d end within %s, %d within less", within(got), len(runs), got, within(got-1))
		}
		slices.Reverse(runs)
		if again := queue.Learned(runs); again != got {
			t.Fatalf("%s in another order, %s", again, got)
		}
	})
}
