package admission

import (
	"slices"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Nomad places the instances of an endpoint: those that are there count as they are
// found. For those that are not, because a node was lost or the endpoint has grown,
// the queue makes room, and keeps it until they are found. They wait as work of
// their endpoint's queue, which nothing tells of but the queue itself.

// instancesOf names the missing instances of an endpoint's job.
func instancesOf(job string) queue.JobID { return queue.JobID("endpoint/" + job) }

// instances has a row for the missing instances of each endpoint, and for no other.
func (s *Scheduler) instances(now time.Time) {
	deploying := map[string]bool{}
	for _, r := range s.rows {
		if r.Serving && r.NomadJob != "" {
			deploying[r.NomadJob] = true // its own row holds them all
		}
	}
	missing := map[queue.JobID]bool{}
	for _, svc := range s.cluster.services {
		n := svc.Count - s.cluster.count(svc.JobID)
		if n <= 0 || deploying[svc.JobID] {
			continue
		}
		id := instancesOf(svc.JobID)
		missing[id] = true
		r := s.rows[id]
		if r == nil {
			r = &Row{Phase: Waiting, Queued: now, Request: Request{
				ID: id, Attempt: 1, Workspace: svc.Workspace, Serving: true, Priority: svc.Priority, Min: 1, Submitted: now,
			}}
			s.rows[id] = r
		}
		if r.Phase != Waiting && r.Run.Members > n {
			r.hold(n)
			s.change(r)
		}
		if r.Max != n || r.Ask.Shape() != svc.Ask.Shape() {
			r.Max, r.Ask = n, svc.Ask
			s.change(r)
		}
	}
	for id, r := range s.rows {
		if r.Serving && r.NomadJob == "" && !missing[id] {
			s.forget(r)
		}
	}
}

// hold lets a row hold no more than n members.
func (r *Row) hold(n int) {
	var place queue.Place
	for _, spot := range r.Run.Place {
		if keep := min(spot.Members, n); keep > 0 {
			per := len(spot.Devices) / spot.Members
			place = append(place, queue.Spot{Node: spot.Node, Members: keep, Devices: slices.Clone(spot.Devices[:keep*per])})
			n -= keep
		}
	}
	r.Run.Place, r.Run.Members = place, membersOf(place)
}

func membersOf(p queue.Place) (n int) {
	for _, spot := range p {
		n += spot.Members
	}
	return n
}

// count is how many allocations a job has.
func (c *cluster) count(job string) (n int) {
	for _, a := range c.allocs {
		if a.JobID == job {
			n++
		}
	}
	return n
}
