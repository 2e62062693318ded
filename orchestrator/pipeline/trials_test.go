package pipeline_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// sweepOf is a file with one sweep.
func sweepOf(attributes string) string {
	return "sweep \"s\" {\n command = [\"x\"]\n metric \"m\" { goal = \"maximize\" }\n" + attributes + "\n}\n"
}

// trialParams are the parameters of the trials of sweep.s.
func trialParams(t testing.TB, p *pipeline.Pipeline) []map[string]any {
	t.Helper()
	n := node(t, p, "sweep.s")
	trials, diags := n.Trials(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if len(trials) != n.Sweep.Size() {
		t.Fatalf("there are %d trials, but the size is %d", len(trials), n.Sweep.Size())
	}
	params := make([]map[string]any, len(trials))
	for i := range trials {
		params[i] = trials[i].Params
	}
	return params
}

func TestGridIsAllCombinationsInFileOrder(t *testing.T) {
	const file = `
  params = { fixed = true }
  parameter "lr" { values = [0.1, 0.2] }
  parameter "layers" {
    min     = 1
    max     = 2
    integer = true
  }
  parameter "opt" { values = ["sgd", "adam"] }
`
	want := []map[string]any{}
	for _, lr := range []float64{0.1, 0.2} {
		for _, layers := range []int64{1, 2} {
			for _, opt := range []string{"sgd", "adam"} {
				want = append(want, map[string]any{"fixed": true, "lr": lr, "layers": layers, "opt": opt})
			}
		}
	}
	if diff := cmp.Diff(want, trialParams(t, parse(t, sweepOf(file)))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[:3], trialParams(t, parse(t, sweepOf("trials = 3\n"+file)))); diff != "" {
		t.Errorf("with a cap: %s", diff)
	}
}

const randomParams = `
  method = "random"
  parameter "lr" {
    min   = 0.0001
    max   = 1
    scale = "log"
  }
  parameter "drop" {
    min = -0.5
    max = 0.5
  }
  parameter "units" {
    min     = 8
    max     = 11
    integer = true
  }
  parameter "depth" {
    min     = 1
    max     = 64
    integer = true
    scale   = "log"
  }
  parameter "opt" { values = ["sgd", "adam", "lion"] }
`

// These values must never change: a run that is parsed again after an upgrade
// goes on with the same trials.
func TestRandomValuesAreFixed(t *testing.T) {
	got, err := json.MarshalIndent(trialParams(t, parse(t, sweepOf("seed = 7\n trials = 4\n"+randomParams))), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "random.json", append(got, '\n'))
}

func TestRandomTrials(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.Int64Range(0, 1<<53).Draw(r, "seed")
		trials := rapid.IntRange(1, 200).Draw(r, "trials")
		params := trialParams(t, parse(t, sweepOf(fmt.Sprintf("seed = %d\n trials = %d\n%s", seed, trials, randomParams))))
		for i, p := range params {
			lr, drop := p["lr"].(float64), p["drop"].(float64)
			units, depth := p["units"].(int64), p["depth"].(int64)
			if lr < 0.0001 || lr > 1 || drop < -0.5 || drop > 0.5 || units < 8 || units > 11 || depth < 1 || depth > 64 {
				r.Fatalf("trial %d is out of range: %v", i, p)
			}
			if !strings.Contains("sgd adam lion", p["opt"].(string)) {
				r.Fatalf("trial %d: %v", i, p)
			}
		}
		// fewer trials are the first of more
		fewer := rapid.IntRange(1, trials).Draw(r, "fewer")
		first := trialParams(t, parse(t, sweepOf(fmt.Sprintf("seed = %d\n trials = %d\n%s", seed, fewer, randomParams))))
		if diff := cmp.Diff(params[:fewer], first); diff != "" {
			r.Fatal(diff)
		}
	})
}

// Draws cover their ranges evenly, on the scale that was asked for.
func TestRandomCoversItsRange(t *testing.T) {
	params := trialParams(t, parse(t, sweepOf("trials = 10000\n"+randomParams)))
	counts := map[string]int{}
	for _, p := range params {
		counts[fmt.Sprint("lr decade ", math.Floor(math.Log10(p["lr"].(float64))))]++
		counts[fmt.Sprint("units ", p["units"])]++
		counts[fmt.Sprint("opt ", p["opt"])]++
		counts[fmt.Sprint("drop below zero ", p["drop"].(float64) < 0)]++
	}
	for _, group := range []struct {
		prefix string
		size   int
	}{{"lr", 4}, {"units", 4}, {"opt", 3}, {"drop", 2}} {
		for name, n := range counts {
			want := 10_000 / group.size
			if strings.HasPrefix(name, group.prefix) && (n < want*9/10 || n > want*11/10) {
				t.Errorf("%s: %d of 10,000, want about %d", name, n, want)
			}
		}
	}
}
