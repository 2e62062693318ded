package run

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// A gang is one attempt with an allocation for each rank. It succeeds when all
// have, and it ends as a whole.

// isGang reports whether an attempt has several members. One whose task is not
// understood any more has none.
func (a *actor) isGang(at *attempt) bool {
	if at.task.node.Kind == pipeline.KindEndpoint {
		return false
	}
	spec, err := a.spec(at.task)
	return err == nil && spec.Gang != nil
}

// ranks is how many members an attempt of a gang has.
func (a *actor) ranks(at *attempt) int {
	if at.Grant != nil && len(at.Grant.Members) > 0 {
		return len(at.Grant.Members)
	}
	spec, err := a.spec(at.task)
	if err != nil || spec.Gang == nil {
		return 1
	}
	return spec.Gang.Max
}

// allocs are an attempt's allocations, by rank.
func (at *attempt) allocs() []*Alloc {
	if at.members == nil && at.alloc != nil {
		return []*Alloc{at.alloc}
	}
	var all []*Alloc
	for _, rank := range slices.Sorted(maps.Keys(at.members)) {
		all = append(all, at.members[rank])
	}
	return all
}

// alive are those of its allocations that have not ended, and that Nomad does not
// stop.
func (at *attempt) alive() []*Alloc {
	return slices.DeleteFunc(at.allocs(), func(x *Alloc) bool { return x.Ended() || x.Desired != "run" })
}

// observeMember takes in how an allocation of a gang stands.
func (a *actor) observeMember(at *attempt, alloc *Alloc) {
	old := at.members[alloc.Rank]
	if old != nil && (alloc.Created < old.Created || alloc.ID == old.ID && alloc.Modified < old.Modified) {
		return // old news
	}
	if at.members == nil {
		at.members = map[int]*Alloc{}
	}
	at.members[alloc.Rank], at.resumed = alloc, false
	if alloc.Rank == 0 {
		at.alloc = alloc
		at.AllocID, at.NodeName = alloc.ID, alloc.NodeName
		if alloc.ResumedFrom != nil && at.ResumedFrom == nil {
			at.ResumedFrom = alloc.ResumedFrom
			a.change.attempts.add(at)
		}
		a.taskEvents(at, alloc)
	} else {
		for _, e := range alloc.Events {
			a.listen(at, e)
		}
	}
	size := a.ranks(at)
	if old == nil || old.ID != alloc.ID {
		at.noteMembers(size)
		a.change.attempts.add(at)
		if len(at.members) == size {
			a.explain(at, "") // it waits no more
		}
	}
	all := at.allocs()
	if len(all) == size && at.Phase == Queued && !slices.ContainsFunc(all, func(x *Alloc) bool { return x.Started.IsZero() || x.Ended() }) {
		a.started(at, at.alloc)
	}
	switch {
	case len(all) == size && !slices.ContainsFunc(all, func(x *Alloc) bool { return !x.Ended() }):
		a.lookInto(at, false)
	case at.Stopping != "" || at.broken:
	case alloc.Client == "lost" || alloc.Desired != "run":
		// Nomad cannot place the member anywhere else, and the others cannot go on
		// without it: the queue places them all.
		at.Again = true
		a.halt(at, fmt.Sprintf("rank %d: %s", alloc.Rank, displacedBy(alloc)))
	case alloc.Ended() && alloc.Client == "failed":
		at.broken = true
		a.stopJob(at, ailing{})
	}
}

// noteMembers notes where the members are.
func (at *attempt) noteMembers(size int) {
	at.Members, at.Devices = make([]Member, size), nil
	for rank, x := range at.members {
		if rank < size {
			at.Members[rank] = Member{AllocID: x.ID, NodeName: x.NodeName, Devices: x.Devices}
		}
	}
	for _, m := range at.Members {
		at.Devices = append(at.Devices, m.Devices...)
	}
}

// lookIntoGang finds out how a gang's attempt ended: what the records of its
// members say, and the last lines of the log of the one that has failed first.
func (a *actor) lookIntoGang(at *attempt, gone bool) {
	at.busy = true
	a.engine.tails.drop(at.JobID)
	members, size, stopping, cancelled, id := maps.Clone(at.members), a.ranks(at), at.Stopping, at.Cancelled, a.identity(at)
	jobs, leaving := a.jobs(at), at.Move != nil && at.Move.Phase == failover.Leaving
	a.call(at, func(ctx context.Context) (message, error) {
		records := make([]*mltask.Result, size)
		for rank := range records {
			var err error
			if records[rank], err = a.engine.recordAt(ctx, mltask.RankKey(id.ResultKey(), rank)); err != nil {
				return nil, err
			}
		}
		rank := culprit(members, records)
		o := judge(members[rank], records[rank], stopping, cancelled, gone)
		if o.Phase != Succeeded {
			o.Incomplete = mltask.IsGangIncomplete(o.Reason)
			if stopping == "" && !o.Incomplete {
				o.Reason = fmt.Sprintf("rank %d of %d: %s", rank, size, o.Reason)
			}
			if x := members[rank]; x != nil {
				o.LogTail = a.engine.logTail(ctx, jobs, x.ID)
			}
		}
		o.Points = a.engine.points(ctx, records[0], id)
		var err error
		o.Loss, err = a.engine.loss(ctx, o, leaving, members[rank], id)
		return concluded{at, o}, err
	})
}

// culprit is the rank that a gang has failed of: the first that ended by itself,
// else the first without success, and 0 if all have it.
func culprit(members map[int]*Alloc, records []*mltask.Result) int {
	worst, grade := 0, 0
	for rank, r := range records {
		now := 0
		switch text, x := "", members[rank]; {
		case r.Succeeded():
		default:
			if x != nil {
				text = x.Problem
			}
			if r != nil {
				text = r.Error
			}
			now = 2
			if mltask.IsGangBroken(text) || mltask.IsGangIncomplete(text) || x == nil {
				now = 1
			}
		}
		if now > grade || now == grade && now == 2 && earlier(members[rank], members[worst]) {
			worst, grade = rank, now
		}
	}
	return worst
}

func earlier(x, y *Alloc) bool {
	return x != nil && y != nil && !x.Finished.IsZero() && x.Finished.Before(y.Finished)
}
