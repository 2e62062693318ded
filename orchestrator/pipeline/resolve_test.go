package pipeline_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// succeeded is the result of a node with an output "o".
func succeeded(metrics map[string]float64) pipeline.Result {
	return pipeline.Result{
		Status:  pipeline.Succeeded,
		Outputs: map[string]string{"o": digestOf("o"), "data": digestOf("data")},
		Metrics: metrics,
	}
}

const upstream = `
dataset "d" { path = "d" }
step "a" {
  command = ["x"]
  output "o" {}
  output "maybe" { optional = true }
}
sweep "s" {
  command = ["x"]
  params  = { fixed = "f" }
  output "o" {}
  metric "acc" { goal = "maximize" }
  parameter "lr" { values = [0.1, 0.2] }
}
`

func upstreamResults() pipeline.Results {
	return pipeline.Results{
		"dataset.d": succeeded(nil),
		"step.a":    succeeded(map[string]float64{"loss": 0.25, "acc/top-1": 3}),
		"sweep.s": {Status: pipeline.Succeeded, Best: &pipeline.Trial{
			Index: 1, Params: map[string]any{"lr": 0.2, "fixed": "f"},
			Metrics: map[string]float64{"acc": 0.9}, Outputs: map[string]string{"o": digestOf("best")},
		}},
	}
}

func TestResolveFillsResultsIn(t *testing.T) {
	p := parse(t, upstream+`
locals { best = sweep.s.best.params }
step "b" {
  code    = "src"
  command = ["x", "--loss=${step.a.metrics.loss}", "--top=${step.a.metrics["acc/top-1"]}", "$${NOMAD_TASK_DIR}"]
  env     = { STATUS = step.a.status, TRIAL = sweep.s.best.index }
  params  = merge(local.best, { double = local.best.lr * 2, acc = sweep.s.best.metrics.acc })
  input "data" { from = dataset.d }
  input "out" { from = step.a.output.o }
  input "best" { from = sweep.s.best.output.o }
  input "maybe" {
    from     = step.a.output.maybe
    optional = true
  }
  seed = 7
}
`)
	want := pipeline.Task{
		Command: []string{"x", "--loss=0.25", "--top=3", "${NOMAD_TASK_DIR}"},
		Env:     map[string]string{"STATUS": "succeeded", "TRIAL": "1"},
		Code:    digestOf("src"),
		Inputs:  map[string]string{"data": digestOf("data"), "out": digestOf("o"), "best": digestOf("best")},
		Params: map[string]any{
			"fixed": "f", "lr": 0.2, "double": 0.4, "acc": 0.9,
		},
		Resources: pipeline.Resources{CPUMHz: 500, MemoryMiB: 256},
		Cache:     true,
		Priority:  50,
		Seed:      7,
	}
	if diff := cmp.Diff(want, resolve(t, p, "step.b", upstreamResults())); diff != "" {
		t.Error(diff)
	}
}

func TestResolveSaysWhatIsMissing(t *testing.T) {
	tests := []struct {
		name, step string
		change     func(pipeline.Results)
		want       string
	}{
		{
			name: "metric that was not logged", step: `params = { a = step.a.metrics.accuracy }`,
			want: `"accuracy"`,
		},
		{
			name: "optional output", step: `input "i" { from = step.a.output.maybe }`,
			want: `its optional output was not written`,
		},
		{
			name: "output of a failed step", step: `input "i" { from = step.a.output.o }`,
			change: func(r pipeline.Results) { r["step.a"] = pipeline.Result{Status: pipeline.Failed} },
			want:   `comes from step.a, which failed`,
		},
		{
			name: "node that has not ended", step: `params = { a = step.a.metrics.loss }`,
			change: func(r pipeline.Results) { delete(r, "step.a") },
			want:   "params depends on a node that has not ended",
		},
		{
			name: "empty program", step: `env = { A = step.a.metrics.loss > 0 ? null : "x" }`,
			want: "A is null",
		},
		{
			name: "number that JSON has not", step: `params = { a = 10 * pow(10, step.a.metrics.loss * 4000) }`,
			want: "too large",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := parse(t, upstream+"step \"b\" {\n command = [\"x\"]\n "+test.step+"\n}\n")
			r := upstreamResults()
			if test.change != nil {
				test.change(r)
			}
			_, diags := node(t, p, "step.b").Resolve(r)
			if len(diags) != 1 || !strings.Contains(diags[0].Detail, test.want) || diags[0].Subject == nil {
				t.Errorf("got %v, want %q with a place", diags, test.want)
			}
		})
	}
}

func TestResolveNeedsStoredCode(t *testing.T) {
	src := []byte("pipeline \"p\" {}\nstep \"a\" {\n code = \"src\"\n command = [\"x\"]\n}\n")
	p, diags := pipeline.Parse("p.hcl", src, pipeline.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if _, diags := p.Nodes[0].Resolve(nil); !diags.HasErrors() {
		t.Error("a task without its code was accepted")
	}
}

func TestEndpointGetsItsModel(t *testing.T) {
	for _, from := range []string{"step.a.output.o", "sweep.s.best.output.o"} {
		p := parse(t, upstream+`
model "m" { from = `+from+` }
endpoint "e" {
  model   = model.m
  command = ["serve"]
  input "data" { from = dataset.d }
}
`)
		r := upstreamResults()
		r["model.m"] = pipeline.Result{Status: pipeline.Succeeded, Version: 3}
		want := digestOf("o")
		if strings.HasPrefix(from, "sweep") {
			want = digestOf("best")
		}
		got := resolve(t, p, "endpoint.e", r).Inputs
		if diff := cmp.Diff(map[string]string{"model": want, "data": digestOf("data")}, got); diff != "" {
			t.Errorf("%s: %s", from, diff)
		}
	}
}

func TestForEachValues(t *testing.T) {
	p := parse(t, `
step "s" {
  for_each = { small = { units = 8 }, large = { units = 64 } }
  command  = ["train", each.key]
  params   = { units = each.value.units }
}
`)
	task := resolve(t, p, `step.s["large"]`, nil)
	if diff := cmp.Diff([]string{"train", "large"}, task.Command); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"units": int64(64)}, task.Params); diff != "" {
		t.Error(diff)
	}
}

// Locals that each name the one before twice take linear, not exponential time.
func TestLocalsAreEvaluatedOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString(upstream + "locals {\n l0 = step.a.metrics.loss\n")
	names := []string{"l0"}
	for i := range 40 {
		name := "m" + strings.Repeat("x", i)
		b.WriteString(" " + name + " = min(local." + names[i] + ", local." + names[i] + ")\n")
		names = append(names, name)
	}
	b.WriteString("}\nstep \"b\" {\n command = [\"x\"]\n params = { v = local." + names[40] + " }\n}\n")
	p := parse(t, b.String())
	if got := resolve(t, p, "step.b", upstreamResults()).Params["v"]; got != 0.25 {
		t.Errorf("got %v", got)
	}
}

// What a sweep's parameters are is known wherever the sweep stands in the file.
func TestBestParametersAreCheckedEarly(t *testing.T) {
	src := []byte("pipeline \"p\" {}\nstep \"b\" {\n command = [\"x\"]\n params = { lr = sweep.s.best.params.rl }\n}\n" + upstream)
	_, diags := pipeline.Parse("p.hcl", src, pipeline.Options{})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `"rl"`) {
		t.Errorf("got %v", diags)
	}
}

// Nodes of one pipeline are resolved at one time.
func TestResolveFromSeveralGoroutines(t *testing.T) {
	p := parse(t, upstream+`
locals { best = sweep.s.best.params }
step "b" {
  for_each = toset(["1", "2", "3", "4"])
  command  = ["x", each.key, join(",", values(local.best)[*])]
  when     = step.a.status == "succeeded"
  input "out" { from = step.a.output.o }
}
`)
	r := upstreamResults()
	var work sync.WaitGroup
	for _, n := range p.Nodes {
		for range 4 {
			work.Go(func() {
				if runs, diags := n.When(r); !runs || diags.HasErrors() {
					t.Errorf("%s: runs is %v, %v", n.ID, runs, diags)
				}
				if n.Step == nil {
					return
				}
				if _, diags := n.Resolve(r); diags.HasErrors() {
					t.Error(diags)
				}
			})
		}
	}
	work.Wait()
}

// An input can take the outputs of all instances of a step.
func TestInputFromAnObject(t *testing.T) {
	p := parse(t, upstream+`
step "shard" {
  for_each = toset(["a", "b.2"])
  command  = ["x"]
  output "o" { optional = true }
}
step "join" {
  command = ["x"]
  input "shard" { from = { for key, s in step.shard : key => s.output.o } }
  input "none" {
    from     = null
    optional = true
  }
}
`)
	if diff := cmp.Diff([]string{"shard.a", "shard.b.2"}, node(t, p, "step.join").Step.Inputs); diff != "" {
		t.Error(diff)
	}
	r := pipeline.Results{}
	for _, key := range []string{"a", "b.2"} {
		result := succeeded(nil)
		result.Outputs = map[string]string{"o": digestOf(key)}
		r[pipeline.NodeID(`step.shard["`+key+`"]`)] = result
	}
	want := map[string]string{"shard.a": digestOf("a"), "shard.b.2": digestOf("b.2")}
	if diff := cmp.Diff(want, resolve(t, p, "step.join", r).Inputs); diff != "" {
		t.Error(diff)
	}
	r[`step.shard["a"]`] = pipeline.Result{Status: pipeline.Succeeded}
	if _, diags := node(t, p, "step.join").Resolve(r); len(diags) != 1 || !strings.Contains(diags[0].Detail, `"shard.a"`) {
		t.Errorf("got %v, want that shard.a is missing", diags)
	}
}
