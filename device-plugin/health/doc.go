// Package health decides which GPUs of a node may get new work, from what the
// driver reports of them. It is pure: readings, events and the time go in,
// faults with reasons come out. Package monitor feeds it from a machine.
//
// Its promises:
//
//   - What an application did wrong never condemns a GPU.
//   - A condemned device has a reason: what was seen, when, and what brings it
//     back.
//   - A condemned device returns to service only after a check that passed,
//     and not more often than the cap on attempts allows; then a person clears
//     it.
//   - A soft signal on many boards at once condemns at most a set share of
//     them: it is more likely wrong than all of them broken.
//   - A reading that is missing changes nothing. It is never taken for a good
//     one.
package health

import (
	"context"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Watcher is a source that tells at once what the driver reports.
type Watcher interface {
	// Watch calls emit for every event until ctx ends, and then returns nil.
	// An error is that it cannot watch; the caller tries again.
	Watch(ctx context.Context, emit func(gpu.Event)) error
}

// VitalsReader is a source whose boards' vitals can be read.
type VitalsReader interface {
	// Vitals reads the given boards. Those it cannot read are left out.
	Vitals(ctx context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error)
}
