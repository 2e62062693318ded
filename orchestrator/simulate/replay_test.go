package simulate

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// waited is how long each job waited for its first start, in seconds, by name;
// -1: it never started.
func waited(t *testing.T, c Config) map[string]float64 {
	t.Helper()
	r, err := newReplay(c)
	if err != nil {
		t.Fatal(err)
	}
	for r.goesOn() {
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]float64{}
	for i := range r.jobs {
		j := &r.jobs[i]
		out[j.Name] = -1
		if j.began {
			out[j.Name] = j.first.Sub(j.submitted).Seconds()
		}
	}
	return out
}

const header = "name,submitted,duration,run_time,gpus,members"

func TestWaitingTimesByHand(t *testing.T) {
	tests := map[string]struct {
		nodes       []placement.Node
		header      string
		lines       []string
		definitions string
		want        map[string]float64
	}{
		// Of two GPUs, a has one until 100. b needs both, and has them then. c ends
		// before that and so may have the other; d would not.
		"short work fills the gap before a reservation": {
			nodes(1, 2, "G2"), header, []string{"a,0,100,100,1,", "b,10,50,50,2,", "c,20,60,60,1,", "d,30,200,200,1,"}, "",
			map[string]float64{"a": 0, "b": 90, "c": 0, "d": 120},
		},
		// A half and a quarter fit on one; another half does not.
		"parts of a GPU share it": {
			nodes(1, 1, "G2"), header, []string{"a,0,100,100,0.5,", "b,0,100,100,0.25,", "c,0,100,100,0.5,"}, "",
			map[string]float64{"a": 0, "b": 0, "c": 100},
		},
		// Two members on each of two nodes; one node is half used until 40.
		"a gang starts as a whole": {
			nodes(2, 2, "G2"), header, []string{"a,0,40,40,1,", "gang,10,100,100,1,4"}, "",
			map[string]float64{"a": 0, "gang": 30},
		},
		// One GPU is free: with one of its two members it takes 200, until 210.
		"a gang that starts smaller takes longer": {
			nodes(1, 2, "G2"), header, []string{"a,0,1000,1000,1,", "gang,10,100,100,1,1-2", "b,20,10,10,1,"}, "",
			map[string]float64{"a": 0, "gang": 0, "b": 190},
		},
		"a job waits for a node of its model": {
			append(nodes(1, 1, "G2"), nodes(1, 1, "T4")...), header + ",models", []string{"a,0,100,,1,,T4", "b,0,100,,1,,T4", "c,0,100,,1,,G2"}, "",
			map[string]float64{"a": 0, "b": 100, "c": 0},
		},
		"cores and memory count": {
			nodes(1, 8, "G2"), header + ",cpu,memory", []string{"a,0,100,,0,,60,", "b,0,100,,1,,8,", "c,0,100,,1,,1,262144", "d,0,100,,1,,1,1"}, "",
			map[string]float64{"a": 0, "b": 100, "c": 0, "d": 100},
		},
		"the first in time is the first to start": {
			nodes(1, 1, "G2"), header, []string{"c,2,10,,1,", "a,0,10,,1,", "b,1,10,,1,"}, "",
			map[string]float64{"a": 0, "b": 9, "c": 18},
		},
		"a higher priority goes first": {
			nodes(1, 1, "G2"), header + ",priority", []string{"a,0,10,,1,,", "b,1,10,,1,,-5", "c,2,10,,1,,7"}, "",
			map[string]float64{"a": 0, "b": 19, "c": 8},
		},
		"zero seconds are enough to come and go": {
			nodes(1, 1, "G2"), header, []string{"a,5,0,,1,", "b,5,0,,1,", "c,5,3,,1,"}, "",
			map[string]float64{"a": 0, "b": 0, "c": 0},
		},
		// a has borrowed b's GPU, and gives it back after the grace of 30 s.
		"lent quota comes back": {
			nodes(1, 2, "G2"), header + ",workspace", []string{"a1,0,100,,1,,a", "a2,10,100,,1,,a", "b,50,60,,1,,b"}, halves,
			map[string]float64{"a1": 0, "a2": 0, "b": 30},
		},
		// From eight in the evening on there is quota; the trace begins at midnight.
		"quotas change by their schedule": {
			nodes(1, 1, "G2"), header + ",workspace", []string{"a,0,100,,1,,a"}, `
				flavor "g2" { model = "g2" }
				workspace "a" {
					quota "g2" { nominal = 0 }
					schedule "evening" {
						from = "20:00"
						to = "22:00"
						quota "g2" { nominal = 1 }
					}
				}`,
			map[string]float64{"a": 20 * 3600},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{Nodes: test.nodes, Jobs: jobs(t, test.header, test.lines...)}
			if test.definitions != "" {
				c.Definitions = definitions(t, test.definitions)
			}
			if diff := cmp.Diff(test.want, waited(t, c)); diff != "" {
				t.Errorf("seconds to the first start (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEvictedWorkIsDoneAgain(t *testing.T) {
	tests := map[string]struct {
		interval     string
		lost         float64 // GPU-seconds
		againAt, end float64
	}{
		// a2 has run 70 s when it is gone at 80. b has its GPU from then until 140.
		"without checkpoints all of it": {"", 70, 140, 240},
		"with them since the last one":  {"30", 10, 140, 180},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			lines := []string{"a1,0,1000,,1,,a,", "a2,10,100,,1,,a," + test.interval, "b,50,60,,1,,b,"}
			c := Config{Nodes: nodes(1, 2, "G2"), Jobs: jobs(t, header+",workspace,checkpoint_interval", lines...), Definitions: definitions(t, halves)}
			r, err := newReplay(c)
			if err != nil {
				t.Fatal(err)
			}
			var starts, ends []float64
			for r.goesOn() {
				was := r.jobs[1].running
				if err := r.step(); err != nil {
					t.Fatal(err)
				}
				if is := r.jobs[1].running; is != was && is {
					starts = append(starts, r.now.Sub(r.Start).Seconds())
				} else if is != was {
					ends = append(ends, r.now.Sub(r.Start).Seconds())
				}
			}
			if diff := cmp.Diff([]float64{10, test.againAt}, starts); diff != "" {
				t.Errorf("starts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]float64{80, test.end}, ends); diff != "" {
				t.Errorf("ends (-want +got):\n%s", diff)
			}
			rep := r.report()
			if want := (Lost{1, rounded(test.lost / 3600)}); rep.Preemption != want || rep.Workspaces[0].Lost != want || rep.Workspaces[1].Lost != (Lost{}) {
				t.Errorf("%+v, of a %+v, of b %+v; want %+v, all of it a's", rep.Preemption, rep.Workspaces[0].Lost, rep.Workspaces[1].Lost, want)
			}
		})
	}
}

func TestRefusedAndStranded(t *testing.T) {
	const quotas = `
		flavor "g2" { model = "g2" }
		workspace "small" {
			quota "g2" { nominal = 1 }
		}
		workspace "spent" {
			quota "g2" { nominal = 2 }
			budget {
				gpu_hours = 0
				per = "year"
			}
		}
		workspace "never" {
			quota "g2" { nominal = 0 }
			schedule "never-enough" {
				cron = "0 0 1 * *"
				duration = "1h"
				quota "g2" { nominal = 1 }
			}
		}`
	tests := map[string]struct {
		line, definitions string
		refused, stranded string
	}{
		"more than all nodes have":       {"a,0,1,,1,9,a,", "", "needs 9 GPUs, and all nodes together have 2 that will do", ""},
		"more than any node has":         {"a,0,1,,4,1,a,", "", "needs 4 GPUs, and all nodes together have 2 that will do", ""},
		"in pieces":                      {"a,0,1,,2,1,a,G2", "", "needs 2 GPUs of G2 on one node, 1 times; empty nodes have room for 0", ""},
		"a model that no node has":       {"a,0,1,,1,1,a,H100|T4", "", "no node has a GPU of model H100 or T4; there are G2", ""},
		"more than its quota can be":     {"a,0,1,,2,1,small,", quotas, `"small" limits its queue to 1`, ""},
		"a budget of nothing":            {"a,0,1,,1,1,spent,", quotas, "", "budget"},
		"more than a schedule ever has":  {"a,0,1,,1,2,never,", quotas, `"never" limits its queue to 1`, ""},
		"as much as there is, elsewhere": {"a,0,1,,1,1,other,", quotas, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{Nodes: nodes(2, 1, "G2"), Jobs: jobs(t, header+",workspace,models", test.line)}
			if test.definitions != "" {
				c.Definitions = definitions(t, test.definitions)
			}
			r := run(t, c)
			check := func(what string, got []Refused, want string) {
				if want == "" && len(got) == 0 {
					return
				}
				if len(got) != 1 || !strings.Contains(got[0].Why, want) || got[0].Line != 2 || got[0].Job != "a" {
					t.Errorf("%s %v, want %q", what, got, want)
				}
			}
			check("refused", r.Refused, test.refused)
			check("stranded", r.Stranded, test.stranded)
			if r.MakespanS > 1 {
				t.Errorf("it took %v s", r.MakespanS)
			}
			if want := 1 - len(r.Refused) - len(r.Stranded); r.Jobs.Ended != want {
				t.Errorf("%d ended, want %d", r.Jobs.Ended, want)
			}
		})
	}
}

// TestABudgetStopsNewWork: a day's budget of half an hour is looked at every hour;
// what comes after it was used up waits for the next day.
func TestABudgetStopsNewWork(t *testing.T) {
	d := definitions(t, `
		flavor "g2" { model = "g2" }
		workspace "a" {
			quota "g2" { nominal = 1 }
			budget {
				gpu_hours = 0.5
				per = "day"
			}
		}`)
	got := waited(t, Config{Nodes: nodes(1, 1, "G2"), Definitions: d, Jobs: jobs(t, header+",workspace", "a,0,1900,,1,,a", "b,7200,60,,1,,a", "c,90000,60,,1,,a")})
	if diff := cmp.Diff(map[string]float64{"a": 0, "b": 22 * 3600, "c": 0}, got); diff != "" {
		t.Errorf("seconds to the first start (-want +got):\n%s", diff)
	}
}

func TestRefusedConfigs(t *testing.T) {
	fine := func() Config { return Config{Nodes: nodes(1, 1, "G2"), Jobs: jobs(t, header, "a,0,1,,1,")} }
	tests := map[string]struct {
		change func(*Config)
		want   string
	}{
		"no nodes":        {func(c *Config) { c.Nodes = nil }, "needs nodes and jobs"},
		"no jobs":         {func(c *Config) { c.Jobs = nil }, "needs nodes and jobs"},
		"load":            {func(c *Config) { c.Load = -1 }, "a load of -1 is out of range"},
		"load NaN":        {func(c *Config) { c.Load = math.NaN() }, "a load of NaN is out of range"},
		"policy":          {func(c *Config) { c.Policy = "best" }, `named "best"; there are best-fit, dot-product`},
		"random policy":   {func(c *Config) { c.Policy = "random" }, `named "random"`},
		"grace":           {func(c *Config) { c.Grace = -1 }, "is negative"},
		"nodes of a name": {func(c *Config) { c.Nodes = append(c.Nodes, c.Nodes...) }, `two nodes are named "G2-a"`},
		"no price":        {func(c *Config) { c.Prices = map[string]float64{} }, `no price for GPUs of model "G2"`},
		"price of none":   {func(c *Config) { c.Prices = map[string]float64{"G2": 1, "H100": 1} }, `a price for GPUs of model "H100", which no node has; there are G2`},
		"negative price":  {func(c *Config) { c.Prices = map[string]float64{"G2": -1} }, `a price of -1`},
		"without end":     {func(c *Config) { c.Prices = map[string]float64{"G2": math.Inf(1)} }, `a price of +Inf`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := fine()
			test.change(&c)
			if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Run(ctx, fine()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// halves are two workspaces that each have one GPU and lend it to the other.
const halves = `
	flavor "g2" { model = "g2" }
	cohort "all" {}
	workspace "a" {
		cohort = "all"
		quota "g2" { nominal = 1 }
	}
	workspace "b" {
		cohort = "all"
		quota "g2" { nominal = 1 }
	}`
