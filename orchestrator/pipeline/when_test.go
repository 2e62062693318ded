package pipeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// play takes a pipeline through a run in which the steps in fails fail, and
// gives how every node ended.
func play(t *testing.T, p *pipeline.Pipeline, fails ...pipeline.NodeID) pipeline.Results {
	t.Helper()
	r := pipeline.Results{}
	for _, n := range p.Nodes {
		runs, diags := n.When(r)
		if diags.HasErrors() {
			t.Fatalf("%s: %v", n.ID, diags)
		}
		if reason := n.SkipReason(r); (reason == "") != runs {
			t.Errorf("%s: runs is %v, but the reason to skip is %q", n.ID, runs, reason)
		}
		result := succeeded(nil)
		if !runs {
			result = pipeline.Result{Status: pipeline.Skipped}
		}
		for _, id := range fails {
			if id == n.ID && runs {
				result = pipeline.Result{Status: pipeline.Failed}
			}
		}
		r[n.ID] = result
	}
	return r
}

// A skipped step is neither a success nor a failure: what needs it is skipped
// too, and a condition can ask for it.
func TestSkippedIsAThirdState(t *testing.T) {
	const rest = `
step "c" { command = ["x"] }
step "d" {
  command = ["x"]
  when    = var.run
}
step "e" {
  command = ["x"]
  when    = step.c.status == "succeeded" && contains(["succeeded", "skipped"], step.d.status)
}
variable "run" { default = false }
`
	tests := []struct {
		name, a, b string
		want       []pipeline.NodeID // skipped
	}{
		{
			name: "step",
			a:    "step \"a\" {\n command = [\"x\"]\n when = var.run\n}\n",
			b:    "step \"b\" {\n command = [\"x\"]\n depends_on = [step.a]\n}\n",
			want: []pipeline.NodeID{"step.a", "step.b", "step.d"},
		},
		{
			name: "loop",
			a:    "step \"a\" {\n for_each = toset([\"1\", \"2\"])\n command = [\"x\"]\n when = var.run\n}\n",
			b:    "step \"b\" {\n command = [\"x\"]\n depends_on = [step.a]\n}\n",
			want: []pipeline.NodeID{`step.a["1"]`, `step.a["2"]`, "step.b", "step.d"},
		},
		{
			name: "sweep",
			a:    "sweep \"a\" {\n command = [\"x\"]\n when = var.run\n metric \"m\" { goal = \"maximize\" }\n parameter \"p\" { values = [1] }\n}\n",
			b:    "step \"b\" {\n command = [\"x\"]\n depends_on = [sweep.a]\n}\n",
			want: []pipeline.NodeID{"sweep.a", "step.b", "step.d"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := parse(t, test.a+test.b+rest)
			r := play(t, p)
			var skipped []pipeline.NodeID
			for _, n := range p.Nodes {
				if r[n.ID].Status == pipeline.Skipped {
					skipped = append(skipped, n.ID)
				}
			}
			if diff := cmp.Diff(test.want, skipped); diff != "" {
				t.Error(diff)
			}
			if r["step.e"].Status != pipeline.Succeeded {
				t.Errorf("step.e was %s", r["step.e"].Status)
			}
		})
	}
}

func TestWhen(t *testing.T) {
	const file = `
variable "go" { default = true }
step "a" {
  command = ["x"]
  output "o" {}
}
step "other" { command = ["x"] }
gate "g" {
  check "m" {
    from = step.a
    min  = 1
  }
}
`
	tests := []struct {
		name, step string
		fails      []pipeline.NodeID
		want       bool
		reason     string
	}{
		{name: "no condition", step: `depends_on = [step.a]`, want: true},
		{name: "failed dependency", step: `depends_on = [step.a]`, fails: []pipeline.NodeID{"step.a"}, reason: "step.a failed"},
		{name: "true does not replace a dependency", step: "depends_on = [step.a]\n when = var.go", fails: []pipeline.NodeID{"step.a"}, reason: "step.a failed"},
		{name: "false", step: `when = !var.go`, reason: "its condition (when) is false"},
		{name: "asks for a failure", step: `when = step.a.status == "failed"`, fails: []pipeline.NodeID{"step.a"}, want: true},
		{name: "asks for a failure that did not happen", step: `when = step.a.status == "failed"`, reason: "its condition (when) is false"},
		{name: "decides about what it reads only", step: "when = step.a.status == \"failed\"\n depends_on = [step.other]",
			fails: []pipeline.NodeID{"step.a", "step.other"}, reason: "step.other failed"},
		{name: "gate passed", step: `when = gate.g.passed`, want: true},
		{name: "gate refused", step: `when = gate.g.passed`, fails: []pipeline.NodeID{"gate.g"}, reason: "its condition (when) is false"},
		{name: "asks for a refusal", step: `when = !gate.g.passed`, fails: []pipeline.NodeID{"gate.g"}, want: true},
		{name: "optional input of a failed step", step: "when = true || step.a.status == \"\"\n input \"i\" {\n from = step.a.output.o\n optional = true\n}",
			fails: []pipeline.NodeID{"step.a"}, want: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := parse(t, file+"step \"b\" {\n command = [\"x\"]\n "+test.step+"\n}\n")
			r := play(t, p, test.fails...)
			if got := r["step.b"].Status == pipeline.Succeeded; got != test.want {
				t.Errorf("runs is %v", got)
			}
			if got := node(t, p, "step.b").SkipReason(r); got != test.reason {
				t.Errorf("the reason is %q, want %q", got, test.reason)
			}
		})
	}
}

// A clean-up runs whatever came of the others, and is told.
func TestOnExit(t *testing.T) {
	p := parse(t, `
step "train" {
  command = ["x"]
  output "o" {}
}
step "after" {
  command    = ["x"]
  depends_on = [step.train]
}
step "report" {
  command = ["x", run.status, join(",", run.failed_steps)]
  on_exit = true
}
step "alarm" {
  command = ["x"]
  on_exit = true
  when    = run.status == "failed"
}
step "publish" {
  command = ["x"]
  on_exit = true
  input "i" { from = step.train.output.o }
}
`)
	tests := []struct {
		name    string
		fails   []pipeline.NodeID
		command string
		skipped []string
	}{
		{"success", nil, "x succeeded ", []string{"step.alarm"}},
		{"failure", []pipeline.NodeID{"step.train"}, "x failed step.train", []string{"step.after", "step.publish"}},
		{"a clean-up that fails does not count", []pipeline.NodeID{"step.report"}, "x succeeded ", []string{"step.alarm"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := play(t, p, test.fails...)
			var skipped []string
			for _, n := range p.Nodes {
				if r[n.ID].Status == pipeline.Skipped {
					skipped = append(skipped, string(n.ID))
				}
			}
			if diff := cmp.Diff(test.skipped, skipped); diff != "" {
				t.Error(diff)
			}
			if got := strings.Join(resolve(t, p, "step.report", r).Command, " "); got != test.command {
				t.Errorf("the command is %q", got)
			}
		})
	}
}
