package state

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// JobHistory is what is remembered of a job beside its specification.
type JobHistory struct {
	Namespace, JobID string
	// LastLaunch is when a periodic job last had a child launched.
	LastLaunch time.Time
	// Scaling holds each group's scaling events, newest first.
	Scaling map[string][]api.ScalingEvent
	// Queued is how many allocations of each group wait for room.
	Queued map[string]int
	// Submission is the source that the job was registered with, if given.
	Submission *api.JobSubmission
}

// allocRow is an allocation as the journal has it: without its job, which is
// one of the stored versions.
type allocRow struct {
	Alloc   *api.Allocation
	Created uint64 // the job's CreateIndex
	Version uint64
}

func encodeAlloc(a *api.Allocation) ([]byte, error) {
	if a.Job == nil {
		return nil, fmt.Errorf("allocation %s has no job", a.ID)
	}
	bare := *a
	bare.Job = nil
	return json.Marshal(allocRow{Alloc: &bare, Created: *a.Job.CreateIndex, Version: *a.Job.Version})
}

// decodeAlloc leaves a Job that only names the version; attachJobs, once all
// is read, replaces it.
func decodeAlloc(b []byte) (*api.Allocation, error) {
	var row allocRow
	if err := json.Unmarshal(b, &row); err != nil {
		return nil, err
	}
	if row.Alloc == nil {
		return nil, fmt.Errorf("row without an allocation")
	}
	row.Alloc.Job = &api.Job{CreateIndex: &row.Created, Version: &row.Version}
	return row.Alloc, nil
}

func versionKey(namespace, id string, created, version uint64) string {
	return Key(namespace, id, fmt.Sprint(created), fmt.Sprint(version))
}

func (s *Store) attachJobs() {
	for _, a := range s.allocs.rows {
		if job := s.versions.rows[versionKey(a.Namespace, a.JobID, *a.Job.CreateIndex, *a.Job.Version)]; job != nil {
			a.Job = job
		}
	}
}

// liveNode is the node whose resources an allocation holds: "" once its
// client said that it has ended, or it is lost.
func liveNode(a *api.Allocation) string {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return ""
	}
	return a.NodeID
}
