package queue

import (
	"slices"
	"time"
)

// fewRuns is how many runs tell too little to learn from.
const fewRuns = 3

// Learned is the run time to expect of a job, from those of earlier ones that did
// the same and succeeded, in any order: the time within which nine of ten have
// ended, of less than ten the longest. Zero, which stands for the policy's, if there
// are fewer than three.
//
// It is for jobs that declare none; of one that does, [Job.RunTime] is the lesser
// of both if what it declares is enforced. The newest twenty or so are enough, so
// that a step that has changed is soon known again. One that runs longer than
// expected breaks no promise but those of its reservation's start: it counts as
// about to end.
func Learned(runs []time.Duration) time.Duration {
	if len(runs) < fewRuns {
		return 0
	}
	sorted := slices.Sorted(slices.Values(runs))
	return max(0, sorted[(9*len(sorted)+9)/10-1])
}
