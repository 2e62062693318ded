// Package simulate replays a trace of jobs in virtual time, through the queue and
// the placement that decide on real jobs.
//
// It is pure: nodes, jobs and quotas go in, a [Report] comes out. There is no
// clock and no I/O in it, and the same input and seed give the same report to the
// last digit.
//
// What it promises:
//   - Each job ends exactly once, or was refused with the reason, or still waits
//     when nothing more will happen. A trace ends, whatever is in it.
//   - Decisions are those of [queue.State], on places that count every GPU, every
//     part of one, cores and memory of each node.
//
// What it supposes:
//   - Jobs run as long as the trace says. A gang that starts with fewer members
//     than it could have takes longer in proportion. Nothing fails.
//   - A job that declares no run time is taken to have declared what it needs,
//     rounded up as people do (see [Declared]).
//   - A victim goes on from its last checkpoint of its own, as if the one that it
//     is asked for never came in time: lost work is the most that it can be.
//   - Starting, checkpoints and going on take no time.
package simulate
