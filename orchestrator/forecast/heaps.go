package forecast

import (
	"cmp"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// run is a job that runs, and when it ends.
type run struct {
	queue.Job
	end  time.Time
	gone bool
}

// runs is a heap by end.
type runs []*run

func (h runs) Len() int      { return len(h) }
func (h runs) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h runs) Less(i, j int) bool {
	return cmp.Or(h[i].end.Compare(h[j].end), cmp.Compare(h[i].ID, h[j].ID)) < 0
}
func (h *runs) Push(x any) { *h = append(*h, x.(*run)) }
func (h *runs) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	return r
}

// turn is a moment at which something may change though no job ends.
type turn struct {
	at time.Time
	// delayed is who may evict others from then on, if that is what it is about.
	delayed queue.JobID
}

// turns is a heap by time.
type turns []turn

func (h turns) Len() int           { return len(h) }
func (h turns) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h turns) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h *turns) Push(x any)        { *h = append(*h, x.(turn)) }
func (h *turns) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	*h = (*h)[:last]
	return t
}
