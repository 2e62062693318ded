package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// BenchmarkAddUsage counts a quarter of a minute of 10,000 running tasks, each of
// which holds three flavors.
func BenchmarkAddUsage(b *testing.B) {
	db := open(b, temp(b))
	at := noon
	for b.Loop() {
		var charges []workspace.Charge
		for i := range 10_000 {
			for _, f := range []queue.Flavor{"h100", "cpu", "memory"} {
				charges = append(charges, workspace.Charge{
					Job: queue.JobID(fmt.Sprint("run/", i)), Attempt: 1, Workspace: fmt.Sprint("w", i%50), Flavor: f, Amount: 1000, From: noon, To: at,
				})
			}
		}
		at = at.Add(15 * time.Second)
		if err := db.AddUsage(b.Context(), charges); err != nil {
			b.Fatal(err)
		}
	}
}
