package main

import "testing"

// BenchmarkTask is what the driver adds to a command that does nothing: from
// StartTask to the return of DestroyTask.
func BenchmarkTask(b *testing.B) {
	n := newNode(b, nil)
	for b.Loop() {
		c := n.task(shell("exit 0"))
		n.run(c)
	}
}
