package workspace

import (
	"fmt"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// BenchmarkEffective is 1,000 workspaces in 50 cohorts, a schedule each, with a
// month of use of 4 flavors.
func BenchmarkEffective(b *testing.B) {
	var d Definitions
	var seen Seen
	for i := range 50 {
		d.Cohorts = append(d.Cohorts, Cohort{Name: fmt.Sprintf("c%02d", i)})
	}
	for i := range 1000 {
		w := Workspace{
			Name: fmt.Sprintf("w%04d", i), Cohort: d.Cohorts[i%50].Name, Quotas: Quotas{}, Budget: &Budget{GPUHours: 1 << 30, Per: Month},
			Schedules: []Schedule{{Name: "nights", From: "20:00", To: "06:00", Timezone: "Europe/Berlin", Quotas: Quotas{CPU: {Nominal: 1}}}},
		}
		for f := range 4 {
			flavor := queue.Flavor(fmt.Sprint("f", f))
			w.Quotas[flavor] = Quota{Nominal: 8000}
			for day := range 30 {
				seen.Used = append(seen.Used, Use{w.Name, flavor, noon.Truncate(24*time.Hour).AddDate(0, 0, -day), 1000})
			}
		}
		d.Workspaces = append(d.Workspaces, w)
	}
	for b.Loop() {
		d.Effective(noon, seen)
	}
}
