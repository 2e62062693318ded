package pipeline_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func TestScheduling(t *testing.T) {
	for _, test := range []struct {
		name, fields string
		want         pipeline.Scheduling
	}{
		{"nothing", ``, pipeline.Scheduling{}},
		{"what writes checkpoints is preemptible", `checkpoint {}`, pipeline.Scheduling{Preemptible: true}},
		{"unless it says otherwise", "checkpoint {}\n preemptible = false", pipeline.Scheduling{}},
		{"preemptible without checkpoints", `preemptible = true`, pipeline.Scheduling{Preemptible: true}},
		{"priority class", `priority_class = var.class`, pipeline.Scheduling{PriorityClass: "urgent"}},
		{"run time", `run_time = "4h"`, pipeline.Scheduling{RunTime: 4 * time.Hour}},
		{"run time by the timeout", `timeout = "2h"`, pipeline.Scheduling{RunTime: 2 * time.Hour}},
		{"run time within the timeout", "timeout = \"2h\"\n run_time = \"90m\"", pipeline.Scheduling{RunTime: 90 * time.Minute}},
		{"gang of a size", `gang { size = 4 }`, pipeline.Scheduling{Gang: &pipeline.Gang{Min: 4, Max: 4, Timeout: 10 * time.Minute}}},
		{"elastic gang", "gang {\n min = 2\n max = var.most\n}", pipeline.Scheduling{Gang: &pipeline.Gang{Min: 2, Max: 8, Timeout: 10 * time.Minute}}},
		{"gang in a rack", "gang {\n size = 2\n within = \"rack\"\n required = true\n timeout = \"90s\"\n}",
			pipeline.Scheduling{Gang: &pipeline.Gang{Min: 2, Max: 2, Within: pipeline.Rack, Required: true, Timeout: 90 * time.Second}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			variables := "variable \"class\" { default = \"urgent\" }\nvariable \"most\" { default = 8 }\n"
			p := parse(t, variables+`
step "s" {
  command = ["x"]
  `+test.fields+`
}
sweep "w" {
  command = ["x"]
  metric "loss" { goal = "minimize" }
  parameter "a" { values = [1] }
  `+test.fields+`
}
`)
			for _, id := range []pipeline.NodeID{"step.s", "sweep.w"} {
				task, diags := node(t, p, id).Resolve(nil)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				if diff := cmp.Diff(test.want, task.Scheduling); diff != "" {
					t.Errorf("%s (-want +got):\n%s", id, diff)
				}
			}
		})
	}
}

func TestAlternatives(t *testing.T) {
	p := parse(t, `
step "s" {
  command = ["x"]
  gang { 
    min = 2
    max = 4
  }
  resources {
    gpu { memory = "80 GB" }
    gpu {
      count  = 2
      memory = "40 GB"
      topology {
        level    = "island"
        required = true
      }
    }
  }
}
step "plain" { command = ["x"] }
`)
	large := pipeline.GPU{Count: 1, Device: "nvidia/gpu", MemoryMin: "80 GB"}
	small := pipeline.GPU{
		Count: 2, Device: "nvidia/gpu", MemoryMin: "40 GB",
		Topology: &pipeline.Topology{Level: pipeline.Island, Required: true},
	}
	r := node(t, p, "step.s").Step.Resources
	if r.Alternatives() != 2 {
		t.Errorf("%d alternatives, want 2", r.Alternatives())
	}
	for i, want := range []pipeline.GPU{large, small} {
		got := pipeline.Resources{CPUMHz: 500, MemoryMiB: 256, GPU: &want}
		if diff := cmp.Diff(got, r.Alternative(i)); diff != "" {
			t.Errorf("alternative %d (-want +got):\n%s", i, diff)
		}
	}
	const summary = "2 to 4 × x (500 MHz, 256 MiB, 1 × nvidia/gpu of 80 GB or 2 × nvidia/gpu of 40 GB)"
	if got := node(t, p, "step.s").Summary(); got != summary {
		t.Errorf("summary %q, want %q", got, summary)
	}
	plain := node(t, p, "step.plain").Step.Resources
	if diff := cmp.Diff(plain, plain.Alternative(0)); diff != "" || plain.Alternatives() != 1 {
		t.Errorf("%d alternatives of none (-want +got):\n%s", plain.Alternatives(), diff)
	}
}
