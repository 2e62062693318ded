package main

import (
	"testing"
	"time"
)

// BenchmarkTask is what the driver adds to a command that does nothing, and to
// Nomad's own work: from StartTask to the return of DestroyTask.
func BenchmarkTask(b *testing.B) {
	n := newNode(b, nil)
	var start, wait, destroy time.Duration
	for b.Loop() {
		c := n.task(shell("exit 0"))
		t0 := time.Now()
		if _, _, err := n.driver().StartTask(n.ctx(), c); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		n.wait(c)
		t2 := time.Now()
		if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
			b.Fatal(err)
		}
		start, wait, destroy = start+t1.Sub(t0), wait+t2.Sub(t1), destroy+time.Since(t2)
	}
	for name, d := range map[string]time.Duration{"start-ms/op": start, "wait-ms/op": wait, "destroy-ms/op": destroy} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name)
	}
}
