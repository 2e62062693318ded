// Package reslice brings boards in use to the MIG layouts that are wanted of
// them, one board or slice at a time and with no drain of the node.
//
// A board that is not as it should be goes through these phases:
//
//	desired -> cordoned -> waiting (or moving) -> slicing -> verifying -> done
//	                                                       \-> failed
//
// Only what the way to the layout destroys is cordoned: the slices that go, or
// the board if its MIG mode changes. A slice that the layout keeps runs on.
//
// What is promised:
//
//   - Nothing is destroyed that a process has open, as far as the driver tells
//     or notices.
//   - Each transition is stored before its effect is asked for. Whatever step
//     a kill -9 cuts short, what is left to do follows from a new reading of
//     the board, and nothing is done twice.
//   - A board that could not be brought to its layout stays cordoned, with the
//     reason, once anything of it was touched. One that was not touched is in
//     service as before.
//
// Task is the state machine of one board, and pure. Reconciler is the loop
// around it, Dir the file and the locks.
package reslice
