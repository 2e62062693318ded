package simulate

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// TestReportByHand: two GPUs of 2.00 an hour, of which both workspaces have one of
// their own. a uses both from 0 on; b comes at 1800 and must wait until one of a's
// jobs is gone, 600 s later.
func TestReportByHand(t *testing.T) {
	c := Config{
		Nodes: nodes(1, 2, "G2"), Definitions: definitions(t, halves), Grace: 600 * time.Second, Prices: map[string]float64{"G2": 2},
		Jobs: jobs(t, header+",workspace,priority", "a1,0,3600,,1,,a,1", "a2,0,3600,,1,,a,0", "b,1800,1200,,1,,b,0"),
	}
	// a2 is evicted, being of the lower priority. At 2400 it is gone and b runs until
	// 3600, when a1 ends. Then a2 runs from its beginning until 7200.
	r := run(t, c)
	one := func(n int, s float64) Waits { return Waits{n, s, s, s, s, s} }
	want := &Report{
		Policy: "drover", Load: 1, Cluster: Cluster{1, 2, 64, 256}, Jobs: Jobs{Total: 3, Ended: 3, PeakWaiting: 1},
		MakespanS: 7200, Waiting: Waits{3, 200, 0, 600, 600, 600},
		Workspaces: []Workspace{
			{Name: "a", Jobs: 2, Waiting: one(2, 0), GPUHours: 2.6667, SharePct: 66.6667, Lost: Lost{1, 0.6667}, Cost: new(5.3333)},
			// It could have had its GPU for 600 s.
			{Name: "b", Jobs: 1, Waiting: one(1, 600), GPUHours: 0.3333, SharePct: 8.3333, ShortGPUHours: 0.1667, LongestShortS: 600, Cost: new(0.6667)},
		},
		Sizes: []Size{{"1", 3, Waits{3, 200, 0, 600, 600, 600}}},
		// 2 until 3600 and 1 until 7200. Somebody waits from 1800 on until 3600.
		Utilisation: Utilisation{GPUPct: 75, GPUPctWhileWaiting: 100},
		Preemption:  Lost{1, 0.6667}, Cost: new(6.0), GPUs: []Model{{"G2", 2, 3, new(6.0)}},
		Refused: []Refused{}, Stranded: []Refused{},
	}
	got := *r
	got.Curve = Curve{}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if first, last := r.Curve.GPUPct[0], r.Curve.GPUPct[len(r.Curve.GPUPct)-1]; first != 100 || last != 50 {
		t.Errorf("the curve of GPUs goes from %v %% to %v %%, want 100 and 50", first, last)
	}
}

func TestQuantilesAreOfTheNearestRank(t *testing.T) {
	var all []time.Duration
	for i := 100; i > 0; i-- {
		all = append(all, time.Duration(i)*time.Second)
	}
	if got, want := newWaits(all), (Waits{100, 50.5, 50, 90, 99, 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := newWaits([]time.Duration{3 * time.Second}), (Waits{1, 3, 3, 3, 3, 3}); got != want {
		t.Errorf("of one: got %+v, want %+v", got, want)
	}
}

// TestCurvesKeepTheirSums: however long time turns out to be, a curve's steps add up
// to what was put in.
func TestCurvesKeepTheirSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCurve(time.Duration(rapid.IntRange(0, 5000).Draw(t, "expected"))*time.Second, 1)
		var at time.Duration
		var want point
		for range rapid.IntRange(1, 30).Draw(t, "adds") {
			to := at + time.Duration(rapid.IntRange(1, 100_000).Draw(t, "time"))*time.Millisecond*time.Duration(rapid.SampledFrom([]int{1, 100}).Draw(t, "scale"))
			p := point{gpu: float64(rapid.IntRange(0, 9).Draw(t, "gpu")), waiting: float64(rapid.IntRange(0, 9).Draw(t, "waiting")), fragmented: 1}
			c.shares[0] = p.waiting
			c.add(at, to, p)
			ms := float64((to - at).Milliseconds())
			want.ms, want.gpu, want.waiting = want.ms+ms, want.gpu+p.gpu*ms, want.waiting+p.waiting*ms
			at = to
		}
		var got point
		shares := 0.0
		for _, p := range c.points {
			got.ms, got.gpu, got.waiting = got.ms+p.ms, got.gpu+p.gpu, got.waiting+p.waiting
			shares += p.shares[0]
		}
		if len(c.points) > maxPoints || got.ms != want.ms || got.gpu != want.gpu || got.waiting != want.waiting || shares != want.waiting {
			t.Fatalf("%d steps with %+v, want %+v", len(c.points), got, want)
		}
		if n := int((at + c.step - 1) / c.step); len(c.points) != n {
			t.Fatalf("%d steps of %s for %s", len(c.points), c.step, at)
		}
	})
}

func TestMoreNodes(t *testing.T) {
	few := append(nodes(3, 0, "none"), append(nodes(1, 2, "T4"), nodes(2, 8, "G2")...)...)
	few[0].Name = "more-1"
	got, err := MoreNodes(few, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []placement.Node{
		{Name: "more-2", CPUMilli: 64_000, MemoryMiB: 1 << 18, GPUs: 8, Model: "G2"},
		{Name: "more-3", CPUMilli: 64_000, MemoryMiB: 1 << 18, GPUs: 8, Model: "G2"},
	}
	if diff := cmp.Diff(append(slices.Clone(few), want...), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, n := range []int{-1, MaxMoreNodes + 1} {
		if _, err := MoreNodes(few, n); err == nil {
			t.Errorf("%d more nodes are taken", n)
		}
	}
}

func TestDeclaredRunTimes(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		0: time.Minute, time.Minute: time.Minute, time.Minute + 1: 5 * time.Minute, 5 * time.Hour: 8 * time.Hour,
		200 * day: 365 * day, 366 * day: 730 * day,
	} {
		if got := Declared(d); got != want {
			t.Errorf("%s is declared as %s, want %s", d, got, want)
		}
	}
}

func TestPlotIsAnImage(t *testing.T) {
	tests := map[string]Config{
		"nothing ran":     {Nodes: nodes(1, 1, "G2"), Jobs: jobs(t, header, "a,0,1,,2,")},
		"no time at all":  {Nodes: nodes(1, 1, "G2"), Jobs: jobs(t, header, "a,0,0,,1,")},
		"no GPUs":         {Nodes: nodes(1, 0, ""), Jobs: jobs(t, header, "a,0,10,,0,")},
		"many workspaces": {Nodes: nodes(1, 1, "G2"), Jobs: jobs(t, header+",workspace", manyWorkspaces()...)},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Plot(&b, run(t, c)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
				t.Error("there are coordinates that are no numbers")
			}
			for d := xml.NewDecoder(&b); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func manyWorkspaces() (lines []string) {
	for i := range 20 {
		lines = append(lines, fmt.Sprintf("job-%d,%d,100,,1,,workspace-%d", i, i, i))
	}
	return lines
}

func TestTicks(t *testing.T) {
	for most, want := range map[float64][]float64{0: {0}, 1: {0, 0.5, 1}, 100: {0, 25, 50, 75, 100}, 7: {0, 2, 4, 6}, 1234: {0, 500, 1000}} {
		if got := ticks(most, 4); !slices.Equal(got, want) {
			t.Errorf("ticks up to %v are %v, want %v", most, got, want)
		}
	}
}
