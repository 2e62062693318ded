package pipeline_test

import (
	"fmt"
	"os"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func Example() {
	src := []byte(`
pipeline "hello" {}

variable "epochs" {
  type    = number
  default = 3
}

dataset "numbers" { path = "numbers.csv" }

step "train" {
  command = ["python3", "train.py"]
  params  = { epochs = var.epochs }
  input "data" { from = dataset.numbers }
  output "model" {}
}
`)
	p, diags := pipeline.Parse("hello.hcl", src, pipeline.Options{Vars: map[string]string{"epochs": "5"}})
	if diags.HasErrors() {
		fmt.Println(diags)
		return
	}
	results := pipeline.Results{
		"dataset.numbers": {Status: pipeline.Succeeded, Outputs: map[string]string{"data": digestOf("numbers")}},
	}
	for _, n := range p.Nodes {
		if n.Step == nil {
			continue
		}
		task, diags := n.Resolve(results)
		if diags.HasErrors() {
			fmt.Println(diags)
			return
		}
		fmt.Println(n.ID, "after", n.DependsOn, "runs", task.Command, "with", task.Params)
	}
	// Output:
	// step.train after [dataset.numbers] runs [python3 train.py] with map[epochs:5]
}

func ExampleWriteDiagnostics() {
	src := []byte(`pipeline "hello" {}
step "train" {
  comand = ["python3", "train.py"]
}
`)
	_, diags := pipeline.Parse("hello.hcl", src, pipeline.Options{})
	if err := pipeline.WriteDiagnostics(os.Stdout, diags[1:], map[string][]byte{"hello.hcl": src}, false, 80); err != nil {
		fmt.Println(err)
	}
	// Output:
	// Error: Unknown attribute
	//  --> hello.hcl:3:3
	//   |
	// 3 |   comand = ["python3", "train.py"]
	//   |   ^^^^^^
	//   = A step has no attribute "comand". Did you mean "command"?
}
