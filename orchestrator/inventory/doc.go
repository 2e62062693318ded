// Package inventory knows what the nodes of a cluster have, down to the single
// device, and finds exact places for asks. It is pure.
//
// A [Fleet] is what the nodes have and what is free of it. It is the
// [queue.Places] of real clusters. What it promises:
//
//   - A device is given to one member at a time, and only if it is healthy, free,
//     and on a node that takes new work. What holds a device keeps it, whatever
//     becomes of the device or its node.
//   - The devices of a member are of one group, as Nomad has it. They are on one
//     NVLink island where any node has room for that, and otherwise as near to
//     each other as the chosen node has them.
//   - A gang is in the smallest domain with room for it: a host, else a rack, else a
//     block, else anywhere. [Topology] can demand a level.
//   - Of the nodes that have room, members go where least is lost to others: where
//     no GPU is left without CPU and memory, then into the smallest hole.
//   - Answers depend on nodes and on what is held, and on nothing else.
//
// Find keeps, for each kind of ask, how many members fit on each node, and
// computes that anew for nodes that changed only. Clones share it.
package inventory
