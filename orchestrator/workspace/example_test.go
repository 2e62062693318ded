package workspace_test

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/workspace"
)

func ExampleDefinitions_Effective() {
	d, diags := workspace.Parse(workspace.Source{Filename: "workspaces.hcl", Text: []byte(`
flavor "h100" { model = "*H100*" }

workspace "vision" {
  quota "h100" { nominal = 8 }
  serving "h100" { floor = 2 }

  schedule "weekend" {
    days = ["sat", "sun"]
    quota "h100" { nominal = 16 }
  }
}
`)})
	if diags.HasErrors() {
		fmt.Println(diags)
		return
	}
	friday := time.Date(2026, 3, 6, 12, 0, 0, 0, time.UTC)
	for _, now := range []time.Time{friday, friday.AddDate(0, 0, 1)} {
		_, _, queues, next := d.Effective(now, workspace.Seen{})
		for _, q := range queues {
			fmt.Printf("%s: %s has %s\n", now.Weekday(), q.ID, q.Quotas["h100"].Nominal)
		}
		fmt.Println("until", next.Format(time.DateTime))
	}
	// Output:
	// Friday: vision has 6
	// Friday: vision/serving has 2
	// until 2026-03-07 00:00:00
	// Saturday: vision has 14
	// Saturday: vision/serving has 2
	// until 2026-03-09 00:00:00
}
