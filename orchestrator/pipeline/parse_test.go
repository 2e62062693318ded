package pipeline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func TestStepAttributes(t *testing.T) {
	p := parse(t, `
step "train" {
  code     = "src"
  command  = ["python3", "train.py"]
  env      = { MODE = "fast", LEVEL = 3 }
  timeout  = "90m"
  cache    = false
  priority = 70
  seed     = 42
  output "model" {}
  output "log" { optional = true }
  checkpoint { keep = 5 }
  retry {
    attempts  = 2
    delay     = "10s"
    permanent = [2, 64]
  }
  resources {
    cores  = 4
    memory = "1.5 GB"
    gpu {
      count  = 2
      device = "nvidia/gpu/H100"
      memory = "80GB"
      constraint {
        attribute = "cuda_cores"
        operator  = ">="
        value     = 1000
      }
      constraint {
        attribute = "$${device.model}"
        operator  = "is_set"
      }
    }
  }
}
`)
	want := &pipeline.Step{
		Code:    "src",
		Command: []string{"python3", "train.py"},
		Env:     map[string]string{"MODE": "fast", "LEVEL": "3"},
		Outputs: []pipeline.Output{{Name: "model"}, {Name: "log", Optional: true}},
		Resources: pipeline.Resources{Cores: 4, MemoryMiB: 1431, GPU: &pipeline.GPU{
			Count: 2, Device: "nvidia/gpu/H100", MemoryMin: "80 GB",
			Constraints: []pipeline.Constraint{
				{Attribute: "${device.attr.cuda_cores}", Operator: ">=", Value: "1000"},
				{Attribute: "${device.model}", Operator: "is_set"},
			},
		}},
		Checkpoint: &pipeline.Checkpoint{Keep: 5},
		Retry:      pipeline.Retry{Attempts: 2, Delay: 10 * time.Second, Permanent: []int{2, 64}},
		Timeout:    90 * time.Minute,
		Priority:   70,
		Scheduling: pipeline.Scheduling{Preemptible: true, RunTime: 90 * time.Minute},
	}
	if diff := cmp.Diff(want, node(t, p, "step.train").Step); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	p := parse(t, `
dataset "d" { path = "d" }
step "s" {
  command = ["x"]
  output "o" {}
  checkpoint {}
}
step "clean" {
  command = ["x"]
  on_exit = true
}
model "m" { from = step.s.output.o }
endpoint "e" {
  model   = model.m
  command = ["serve"]
}
`)
	resources := pipeline.Resources{CPUMHz: 500, MemoryMiB: 256}
	step := &pipeline.Step{
		Command: []string{"x"}, Outputs: []pipeline.Output{{Name: "o"}}, Resources: resources,
		Checkpoint: &pipeline.Checkpoint{Keep: 3}, Cache: true, Priority: 50,
		Scheduling: pipeline.Scheduling{Preemptible: true},
	}
	if diff := cmp.Diff(step, node(t, p, "step.s").Step); diff != "" {
		t.Errorf("step: %s", diff)
	}
	if node(t, p, "step.clean").Step.Cache {
		t.Error("a clean-up is taken from the cache")
	}
	endpoint := &pipeline.Endpoint{
		Model: "model.m", Count: 1, Port: "http", ReadyPath: "/v2/health/ready", ReadyTimeout: 2 * time.Minute,
		Step: pipeline.Step{Command: []string{"serve"}, Resources: resources, Priority: 50},
	}
	if diff := cmp.Diff(endpoint, node(t, p, "endpoint.e").Endpoint); diff != "" {
		t.Errorf("endpoint: %s", diff)
	}
}

func TestReferencesMakeEdges(t *testing.T) {
	const file = `
locals {
  indirect = { lr = step.a.metrics.lr }
  twice    = local.indirect
}
dataset "d" { path = "d" }
step "a" {
  command = ["x"]
  output "o" {}
}
step "fan" {
  for_each = { one = 1, two = 2 }
  command  = ["x"]
  output "o" {}
}
`
	tests := []struct {
		name, step string
		want       []pipeline.NodeID
	}{
		{"input", `input "i" { from = step.a.output.o }`, []pipeline.NodeID{"step.a"}},
		{"dataset", `input "i" { from = dataset.d }`, []pipeline.NodeID{"dataset.d"}},
		{"condition", `input "i" { from = true ? step.a.output.o : dataset.d }`, []pipeline.NodeID{"dataset.d", "step.a"}},
		{"params", `params = { nested = [{ a = step.a.metrics.loss }] }`, []pipeline.NodeID{"step.a"}},
		{"env", `env = { A = "${step.a.metrics.loss}" }`, []pipeline.NodeID{"step.a"}},
		{"when", `when = step.a.status == "failed"`, []pipeline.NodeID{"step.a"}},
		{"local", `params = { a = local.twice }`, []pipeline.NodeID{"step.a"}},
		{"depends_on", `depends_on = [step.a, step.fan["one"]]`, []pipeline.NodeID{"step.a", `step.fan["one"]`}},
		{"depends_on all", `depends_on = [step.fan]`, []pipeline.NodeID{`step.fan["one"]`, `step.fan["two"]`}},
		{"instance", `input "i" { from = step.fan["two"].output.o }`, []pipeline.NodeID{`step.fan["two"]`}},
		{"instance by expression", `input "i" { from = step.fan[format("%s", "one")].output.o }`, []pipeline.NodeID{`step.fan["one"]`}},
		{"all instances", `params = { n = [for k, s in step.fan : s.metrics.n] }`, []pipeline.NodeID{`step.fan["one"]`, `step.fan["two"]`}},
		{"values and splat", `params = { n = values(step.fan)[*].metrics }`, []pipeline.NodeID{`step.fan["one"]`, `step.fan["two"]`}},
		{"hidden by for", `params = { n = [for step in ["x"] : step] }`, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := parse(t, file+"step \"under_test\" {\n command = [\"x\"]\n "+test.step+"\n}\n")
			got := node(t, p, "step.under_test").DependsOn
			if diff := cmp.Diff(test.want, got); diff != "" && len(test.want)+len(got) > 0 {
				t.Error(diff)
			}
		})
	}
}

// Instances of two for_each over the same keys pair up, instead of each of the
// second waiting for all of the first.
func TestInstancesPairUp(t *testing.T) {
	p := parse(t, `
locals { names = toset(["a", "b"]) }
step "first" {
  for_each = local.names
  command  = ["x", each.key]
  output "o" {}
}
step "second" {
  for_each = local.names
  command  = ["x"]
  input "i" { from = step.first[each.key].output.o }
}
`)
	if diff := cmp.Diff([]pipeline.NodeID{`step.first["b"]`}, node(t, p, `step.second["b"]`).DependsOn); diff != "" {
		t.Error(diff)
	}
}

func TestNodesComeAfterWhatTheyDependOn(t *testing.T) {
	p := parse(t, `
step "clean" {
  command = ["x"]
  on_exit = true
}
step "c" {
  command    = ["x"]
  depends_on = [step.b]
}
step "b" {
  command    = ["x"]
  depends_on = [step.a]
}
step "other" { command = ["x"] }
step "a" { command = ["x"] }
`)
	want := []pipeline.NodeID{"step.other", "step.a", "step.b", "step.c", "step.clean"}
	if diff := cmp.Diff(want, ids(p)); diff != "" {
		t.Error(diff)
	}
}

func TestPathsAreListedOnce(t *testing.T) {
	p := parse(t, `
dataset "d" { path = "data" }
step "a" {
  code    = "src"
  command = ["x"]
}
step "b" {
  code    = "src"
  command = ["x"]
}
`)
	var got []string
	for _, path := range p.Paths {
		got = append(got, path.Path)
	}
	if diff := cmp.Diff([]string{"data", "src"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestVariables(t *testing.T) {
	tests := []struct {
		name, declaration, given string
		set                      bool
		want                     any
		wantErr                  string
	}{
		{name: "default", declaration: `default = 3`, want: int64(3)},
		{name: "text as it is", declaration: `type = string`, given: `a "b" ${c}`, set: true, want: `a "b" ${c}`},
		{name: "number", declaration: `type = number`, given: "0.5", set: true, want: 0.5},
		{name: "number of no type", declaration: `default = 3`, given: "4", set: true, want: int64(4)},
		{name: "bool", declaration: `type = bool`, given: "true", set: true, want: true},
		{name: "list", declaration: `type = list(number)`, given: "[1, 2]", set: true, want: []any{int64(1), int64(2)}},
		{name: "object with defaults", declaration: `type = object({ a = number, b = optional(string, "x") })`, given: "{ a = 1 }", set: true,
			want: map[string]any{"a": int64(1), "b": "x"}},
		{name: "null", declaration: "type = number\n default = null", want: nil},
		{name: "no number", declaration: `type = number`, given: "many", set: true, wantErr: `The value given for "v" must be a number, but this is the text "many".`},
		{name: "no list", declaration: `type = list(number)`, given: "[1", set: true, wantErr: `The value given for "v" is no list of number:`},
		{name: "calls nothing", declaration: `type = list(number)`, given: "range(3)", set: true, wantErr: `The value given for "v" is no list of number:`},
		{name: "not valid", declaration: "default = 1\n validation {\n condition = var.v > 1\n error_message = \"Too small.\"\n}", wantErr: "var.v is 1. Too small."},
		{name: "deep", declaration: `type = list(any)`, given: strings.Repeat("[", 5000), set: true, wantErr: "Brackets and operators nest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			opts := pipeline.Options{Vars: map[string]string{}}
			if test.set {
				opts.Vars["v"] = test.given
			}
			p, diags := pipeline.Parse("p.hcl", []byte("pipeline \"p\" {}\nvariable \"v\" {\n"+test.declaration+"\n}\n"), opts)
			if test.wantErr != "" {
				if len(diags) != 1 || !strings.HasPrefix(diags[0].Detail, test.wantErr) {
					t.Fatalf("got %v, want %s", diags, test.wantErr)
				}
				return
			}
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			if diff := cmp.Diff(test.want, p.Variables["v"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValueForUnknownVariableIsReported(t *testing.T) {
	_, diags := pipeline.Parse("p.hcl", []byte("pipeline \"p\" {}\nvariable \"epochs\" { default = 1 }\n"),
		pipeline.Options{Vars: map[string]string{"epoch": "3"}})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `Did you mean "epochs"?`) {
		t.Errorf("got %v", diags)
	}
}

// What ParseVarFile gives means the same as a value for Options.Vars.
func TestVarFile(t *testing.T) {
	values, diags := pipeline.ParseVarFile("v.hcl", []byte("name = \"a ${1 + 1}\"\nn = 3\nlist = [\"$${x}\", \"b\"]\nobject = { a = true }\n"))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var vars []string
	for name, value := range values {
		vars = append(vars, name, value)
	}
	p := parse(t, `
variable "name" { type = string }
variable "n" { type = number }
variable "list" { type = list(string) }
variable "object" { type = object({ a = bool }) }
`, vars...)
	want := map[string]any{
		"name": "a 2", "n": int64(3), "list": []any{"${x}", "b"}, "object": map[string]any{"a": true},
	}
	if diff := cmp.Diff(want, p.Variables); diff != "" {
		t.Error(diff)
	}
	if _, diags := pipeline.ParseVarFile("v.hcl", []byte("a = b\nblock {}\n")); len(diags) != 2 {
		t.Errorf("got %v, want two problems", diags)
	}
}

// A file in several pieces is the same as one in one piece.
func TestPiecesMakeTheWhole(t *testing.T) {
	const steps = 1000
	src := largeFile(steps)
	if len(src) < 3*(64<<10) {
		t.Fatalf("%d bytes are too few to be cut", len(src))
	}
	whole := bytes.Replace(src, []byte("from = dataset.d"), []byte("from = try(dataset.d, <<E\n$${x}\nE\n)"), 1)
	a, diags := pipeline.Parse("a.hcl", src, pipeline.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	b, diags := pipeline.Parse("a.hcl", whole, pipeline.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if diff := cmp.Diff(ids(a), ids(b)); diff != "" {
		t.Fatal(diff)
	}
	lines := bytes.Split(src, []byte("\n"))
	for _, n := range a.Nodes {
		if line := lines[n.Range.Start.Line-1]; !bytes.HasPrefix(line, []byte(string(n.Kind)+" \""+n.Name+"\"")) {
			t.Fatalf("%s is said to be at line %d, which is %q", n.ID, n.Range.Start.Line, line)
		}
		if !bytes.HasPrefix(src[n.Range.Start.Byte:], []byte(n.Kind)) {
			t.Fatalf("%s is said to be at byte %d", n.ID, n.Range.Start.Byte)
		}
	}
}

// The example that ships with the project, its graph, and its paths.
func TestDigitsExample(t *testing.T) {
	const folder = "../../examples/digits"
	file := filepath.Join(folder, "pipeline.hcl")
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, diags := pipeline.Parse(file, src, pipeline.Options{Check: func(path string, folder bool) error {
		info, err := os.Stat(filepath.Join("../../examples/digits", path))
		if err == nil && folder && !info.IsDir() {
			return pipeline.ErrNotFolder
		}
		return err
	}})
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	var text, dot bytes.Buffer
	if err := pipeline.WriteGraph(&text, p); err != nil {
		t.Fatal(err)
	}
	golden(t, "digits.txt", text.Bytes())
	if err := pipeline.WriteDOT(&dot, p); err != nil {
		t.Fatal(err)
	}
	golden(t, "digits.dot", dot.Bytes())
	if trials := node(t, p, "sweep.search").Sweep.Size(); trials < 3 {
		t.Errorf("the search has %d trials", trials)
	}
}

// A file where a step's code must be a folder is found out before anything is
// submitted, also where the path was taken in as a dataset before.
func TestCodeIsAFolder(t *testing.T) {
	src := `pipeline "p" {}
dataset "d" { path = "train.sh" }
step "s" {
  code    = "train.sh"
  command = ["sh", "train.sh"]
}
`
	_, diags := pipeline.Parse("p.hcl", []byte(src), pipeline.Options{Check: func(_ string, folder bool) error {
		if folder {
			return pipeline.ErrNotFolder
		}
		return nil
	}})
	if len(diags) != 1 || diags[0].Summary != "Not a folder" || diags[0].Subject.Start.Line != 4 {
		t.Errorf("got %v, want one problem in line 4", diags)
	}
}
