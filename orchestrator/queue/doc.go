// Package queue decides who is admitted, who waits and why, and who has to make
// room.
//
// It is pure: a [Snapshot] of queues, quotas and jobs goes in, a [Plan] comes
// out. There is no clock, no I/O and no randomness in it. A [State] is a snapshot
// kept ready for the next decision, so that a pass after one change costs little;
// its plans are those of a state opened anew from [State.Snapshot].
//
// Placement is behind [Places]; [Counting] is a simple one.
//
// What it promises:
//   - Usage that it admits stays within quota and limits at every level of the
//     cohorts. Work that Drover did not submit is counted, and may exceed them.
//   - A gang has a place for its least number of members, or holds nothing.
//   - Jobs that need no more than the nominal quota of their queue start, whatever
//     else waits, as soon as those who borrow it may be asked to leave and are gone.
//   - The first job of a tree of cohorts that cannot start has a reservation, and
//     keeps it. Nothing that starts before it delays it, as long as jobs end within
//     their declared run times. While the job would borrow, it gives way to those
//     that need what is their queue's own ([Reservation.Firm]).
//   - A job that has waited for the policy's patience is the next to get a
//     reservation.
//   - Victims are preemptible, past their minimum run time, and either of lower
//     priority in the same queue or of a part of the tree that is over its quota
//     while a level of the preemptor's stays within its own. What they leave is kept
//     for the preemptor. So no two evict each other in turn.
//   - Jobs move together ([State.Consolidate]) only if one starts that way that has a
//     reservation. Who moves has its next place kept.
//   - A job with alternatives gets the first for which there is quota and room,
//     those within its queue's quota before those that borrow, and both before any
//     for which others have to leave. A reservation is for one within quota if the
//     job has any.
//   - Each waiting job has exactly one reason; with alternatives it is that of the
//     nearest, which lacks the least part of what it needs.
//
// Quotas are constant here: who schedules them or counts a budget opens the state
// anew with the ones that hold, and with queues held.
//
// A pass costs what changes: once a tree has its reservation, jobs that need what is
// not there are passed over together, and places are asked once for all jobs of one
// shape. What it learns it forgets at its end, so that nothing it has remembered can
// be wrong in the next.
//
// Absent: eviction between queues that both borrow. Growing and shrinking of running
// gangs, too: a gang starts with as many members as there is room for, and gets
// another number when it starts anew. To grow one in place, [Places] would have to
// extend a place within its rack or island, and processes to meet again, which costs
// a restart from the checkpoint anyway.
package queue
