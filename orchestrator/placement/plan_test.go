package placement

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestFindTakesNothing: what Find finds is what Place then does, and all of it is
// still there.
func TestFindTakesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := someNodes(t)
		c := mustNew(t, nodes, Config{Policy: rapid.SampledFrom([]string{"drover", "fgd", "best-fit", "gpu-clustering"}).Draw(t, "policy")})
		var all []held
		for range rapid.IntRange(0, 4).Draw(t, "before") {
			task := someTask(t)
			if p, ok := mustPlace(t, c, task); ok {
				all = append(all, held{task, p})
			}
		}
		task := someTask(t)
		found, err := c.Find(task, rapid.IntRange(0, 5).Draw(t, "want"))
		if err != nil {
			t.Fatal(err)
		}
		checkHeld(t, nodes, c, all)
		for i, want := range found {
			if !c.Fits(task, want) {
				t.Fatalf("found %+v, where it does not fit", want)
			}
			got, ok := mustPlace(t, c, task)
			if !ok || !reflect.DeepEqual(got, want) {
				t.Fatalf("place %d is %+v, found was %+v", i, got, want)
			}
			all = append(all, held{task, got})
		}
		checkHeld(t, nodes, c, all)
	})
}

// TestClonesGoTheirOwnWay: what is done to one of a cluster and its clone leaves
// the other as it was, and both place as a cluster does that was never cloned.
func TestClonesGoTheirOwnWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := someNodes(t)
		type line struct {
			cluster, alone *Cluster
			all            []held
		}
		fresh := func() *Cluster { return mustNew(t, nodes, Config{}) }
		lines := []*line{{cluster: fresh(), alone: fresh()}}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			l := rapid.SampledFrom(lines).Draw(t, "line")
			switch rapid.IntRange(0, 3).Draw(t, "act") {
			case 0:
				again := fresh()
				for _, h := range l.all {
					again.Take(h.task, h.place)
				}
				lines = append(lines, &line{l.cluster.Clone(), again, append([]held(nil), l.all...)})
			case 1:
				if len(l.all) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(l.all)-1).Draw(t, "which")
				h := l.all[i]
				l.all = append(l.all[:i:i], l.all[i+1:]...)
				if err := l.cluster.Release(h.task, h.place); err != nil {
					t.Fatal(err)
				}
				if err := l.alone.Release(h.task, h.place); err != nil {
					t.Fatal(err)
				}
			default:
				task := someTask(t)
				got, ok := mustPlace(t, l.cluster, task)
				want, wantOK := mustPlace(t, l.alone, task)
				if ok != wantOK || !reflect.DeepEqual(got, want) {
					t.Fatalf("a clone places at %+v, %t; one that is none at %+v, %t", got, ok, want, wantOK)
				}
				if ok {
					l.all = append(l.all, held{task, got})
				}
			}
			for _, l := range lines {
				checkHeld(t, nodes, l.cluster, l.all)
			}
		}
	})
}
