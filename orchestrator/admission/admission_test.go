package admission_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/inventory"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

func TestGrantNamesNodeAndDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 4)
		defer w.stop()
		w.Ask(wants("a", 3))
		w.Ask(wants("b", 3))
		w.settle()
		for _, id := range []queue.JobID{"a", "b"} {
			g := w.grant(id, 1)
			if g == nil || len(g.Members) != 1 {
				t.Fatalf("%s was granted %v", id, g)
			}
			m := g.Members[0]
			if len(m.Devices) != 3 || m.Device != "nvidia/gpu/A100" || m.NodeName == "" || m.Pool != "default" {
				t.Errorf("%s was granted %+v", id, m)
			}
		}
		if w.grant("a", 1).Members[0].NodeID == w.grant("b", 1).Members[0].NodeID {
			t.Error("six GPUs were given out on a node with four")
		}
	})
}

func TestWaitsWithAReasonAndStartsWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		defer w.stop()
		w.Ask(wants("a", 4))
		w.settle()
		w.Ask(wants("b", 2))
		w.settle()
		if w.grant("b", 1) != nil || w.waits["b#1"] == "" {
			t.Fatalf("b was granted %v and waits because %q", w.grant("b", 1), w.waits["b#1"])
		}
		w.Ended("a", 1, false)
		w.settle()
		if len(w.devices("b", 1)) != 2 {
			t.Errorf("b has %v after the end of a", w.devices("b", 1))
		}
	})
}

// A restart forgets nothing: the same holders, the same order.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		w.Ask(wants("a", 2))
		w.Ask(wants("gone", 2))
		w.settle()
		w.Ask(wants("b", 4, priority(5)))
		w.Ask(wants("c", 1))
		w.settle()
		held := w.devices("a", 1)
		w.stop()

		w.start("a", "b", "c") // gone has ended meanwhile
		w.Ask(wants("a", 2))
		w.Ask(wants("b", 4, priority(5)))
		w.Ask(wants("c", 1))
		w.settle()
		defer func() { w.stop() }()
		if again := w.devices("a", 1); !slices.Equal(held, again) {
			t.Errorf("a held %v, and %v after a restart", held, again)
		}
		if w.grant("b", 1) != nil {
			t.Error("b was granted four GPUs while a holds two")
		}
		w.Ended("a", 1, false)
		w.Ended("c", 1, false)
		w.settle()
		if len(w.devices("b", 1)) != 4 {
			t.Errorf("b has %v once all are free", w.devices("b", 1))
		}
	})
}

// Slots do not leak when a holder is deleted, and one that waits and is cancelled
// never gets any.
func TestHoldersAcrossRestartsAndCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		ids := []queue.JobID{"a", "b", "c", "d", "e"}
		for _, id := range ids {
			w.Ask(wants(id, 1))
			w.settle()
		}
		w.Ended("b", 1, false) // deleted while it ran
		w.settle()
		if w.grant("d", 1) == nil {
			t.Fatal("d did not get the place of b")
		}
		w.stop()
		w.start("a", "c", "d", "e")
		for _, id := range []queue.JobID{"a", "c", "d", "e"} {
			w.Ask(wants(id, 1))
		}
		w.settle()
		defer func() { w.stop() }()
		if w.grant("e", 1) != nil {
			t.Error("e was granted while a, c and d hold all")
		}
		w.Ended("e", 1, false) // cancelled while it waited
		w.Ended("a", 1, false)
		w.settle()
		if w.grant("e", 1) != nil {
			t.Error("a cancelled task was granted a place")
		}
	})
}

func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		w.Ask(wants("low", 4, preemptible))
		w.settle()
		w.Ask(wants("high", 2, priority(10)))
		w.settle()
		if why := w.evicted["low#1"]; !strings.Contains(why, "high") {
			t.Fatalf("low was told %q", why)
		}
		if w.grant("high", 1) != nil {
			t.Fatal("high was granted what low still holds")
		}
		// Whoever is asked to leave hears of it again after a restart.
		clear(w.evicted)
		w.stop()
		w.start("low", "high")
		w.Ask(wants("low", 4, preemptible))
		w.Ask(wants("high", 2, priority(10)))
		w.settle()
		defer func() { w.stop() }()
		if w.evicted["low#1"] == "" {
			t.Error("low was not told again after a restart")
		}
		w.Ended("low", 1, true)
		w.Ask(wants("low", 4, preemptible, attempt(2)))
		w.settle()
		if len(w.devices("high", 1)) != 2 || w.grant("low", 2) != nil {
			t.Errorf("high has %v, low %v", w.devices("high", 1), w.devices("low", 2))
		}
		w.Ended("high", 1, false)
		w.settle()
		if len(w.devices("low", 2)) != 4 {
			t.Errorf("low goes on with %v", w.devices("low", 2))
		}
		v, err := w.Queue(t.Context(), admission.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Entries) != 1 || v.Entries[0].Evictions != 1 {
			t.Errorf("the queue shows %+v", v.Entries)
		}
	})
}

func TestForeignWorkKeepsItsDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		defer w.stop()
		w.cluster.change(func() { w.cluster.allocs = []inventory.Alloc{foreign("x", "n1", "n1-gpu1", "n1-gpu2")} })
		w.settle()
		w.Ask(wants("a", 2))
		w.Ask(wants("b", 1))
		w.settle()
		if got := w.devices("a", 1); !slices.Equal(got, []string{"n1-gpu0", "n1-gpu3"}) {
			t.Errorf("a has %v", got)
		}
		if w.grant("b", 1) != nil {
			t.Error("b was granted a GPU that is somebody else's")
		}
		w.cluster.change(func() { w.cluster.allocs = nil })
		w.settle()
		if w.grant("b", 1) == nil {
			t.Error("b waits though the others are gone")
		}
	})
}

// A task that Nomad does not take somewhere goes elsewhere, or waits a while.
// What is a row's own is counted once, also as allocations of others come and go.
func TestOthersComeAndGoBesideOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		defer w.stop()
		w.settle()
		w.Ask(wants("a", 2))
		w.settle()
		own := foreign("own", "n1", w.devices("a", 1)...)
		own.JobID = "drover-a"
		theirs := foreign("theirs", "n1", "n1-gpu3")
		w.cluster.change(func() { w.cluster.allocs = []inventory.Alloc{own, theirs} })
		w.settle()
		w.Ask(wants("b", 1))
		w.Ask(wants("c", 1))
		w.settle()
		if got := w.devices("b", 1); !slices.Equal(got, []string{"n1-gpu2"}) {
			t.Errorf("b has %v, not what neither a nor the others have", got)
		}
		if w.grant("c", 1) != nil {
			t.Error("c was granted a GPU, and all were in use")
		}
		w.cluster.change(func() { w.cluster.allocs = []inventory.Alloc{own} })
		w.settle()
		if got := w.devices("c", 1); !slices.Equal(got, []string{"n1-gpu3"}) {
			t.Errorf("c has %v after the others have gone", got)
		}
		w.Ended("a", 1, false)
		w.cluster.change(func() { w.cluster.allocs = nil })
		w.settle()
		w.Ask(wants("d", 2))
		w.settle()
		if w.grant("d", 1) == nil {
			t.Error("d waits though a has ended")
		}
	})
}

func TestOldNewsDoNotHoldWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.stop()
		w.settle()
		w.Ask(wants("a", 1))
		w.settle()
		own := foreign("own", "n1", "n1-gpu0")
		own.JobID = "drover-a"
		w.cluster.change(func() {
			w.cluster.allocs = []inventory.Alloc{own}
			w.cluster.meanwhile = func() {
				w.Ended("a", 1, false)
				w.Ask(wants("b", 1))
			}
		})
		w.settle()
		if w.grant("b", 1) == nil {
			t.Error("b waits for what a had when the cluster was asked")
		}
	})
}

func TestDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2)
		defer w.stop()
		w.Ask(wants("a", 2))
		w.settle()
		first := w.grant("a", 1).Members[0].NodeID
		w.Declined("a", 1)
		w.Ended("a", 1, true)
		w.Ask(wants("a", 2, attempt(2)))
		synctest.Wait()
		g := w.grant("a", 2)
		if g == nil {
			t.Fatal("a waits though another node is free")
		}
		if g.Members[0].NodeID == first {
			t.Errorf("a was sent to %s again at once", first)
		}
		w.Declined("a", 2)
		w.Ended("a", 2, true)
		w.Ask(wants("a", 2, attempt(3)))
		synctest.Wait()
		if w.grant("a", 3) != nil {
			t.Fatal("a was sent at once where Nomad has just not taken it")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if w.grant("a", 3) == nil {
			t.Errorf("a is never tried again: %s", w.waits["a#3"])
		}
	})
}

func TestNodesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stop()
		w.Ask(wants("big", 8))
		w.settle()
		if w.grant("big", 1) != nil || !strings.Contains(w.waits["big#1"], "no node could ever run it") {
			t.Fatalf("big waits because %q", w.waits["big#1"])
		}
		w.cluster.change(func() { w.cluster.nodes = append(w.cluster.nodes, node("n2", 8)) })
		w.settle()
		if len(w.devices("big", 1)) != 8 {
			t.Fatalf("big has %v once there is a node for it", w.devices("big", 1))
		}
		w.cluster.change(func() { w.cluster.nodes[0].Eligible = false })
		w.settle()
		w.Ask(wants("small", 1))
		w.settle()
		if w.grant("small", 1) != nil {
			t.Error("small was sent to a node that takes no work")
		}
	})
}

// Nothing is told that is not stored.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stop()
		w.settle()
		w.store.mu.Lock()
		w.store.fail = 1 << 30
		w.store.mu.Unlock()
		w.Ask(wants("a", 1))
		w.settle()
		if w.grant("a", 1) != nil {
			t.Fatal("a was told of a grant that is not stored")
		}
		w.store.mu.Lock()
		w.store.fail = 0
		w.store.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.grant("a", 1) == nil {
			t.Error("a was not granted once the store works again")
		}
	})
}

func TestCheckRefusesWhatNeverFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		defer w.stop()
		w.settle()
		if err := w.Check(t.Context(), wants("", 4)); err != nil {
			t.Errorf("four of four GPUs: %v", err)
		}
		if err := w.Check(t.Context(), wants("", 5)); err == nil {
			t.Error("five of four GPUs were taken")
		}
	})
}

// Two tasks of one GPU on two nodes of two move together, so that one that needs a
// whole node starts; the one that moved goes on at once.
func TestConsolidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2)
		defer w.stop()
		for _, id := range []queue.JobID{"a", "b", "c"} {
			w.Ask(wants(id, 1, preemptible))
			w.settle()
		}
		// One GPU on each node is left once the right one of the first two ends.
		first, second, third := w.grant("a", 1).Members[0].NodeID, w.grant("b", 1).Members[0].NodeID, w.grant("c", 1).Members[0].NodeID
		if first != second || first == third {
			t.Fatalf("a and b are on %s and %s, c on %s: want them packed", first, second, third)
		}
		w.Ended("a", 1, false)
		w.settle()
		w.Ask(wants("whole", 2))
		w.settle()
		time.Sleep(time.Minute)
		synctest.Wait()
		var mover queue.JobID
		for _, id := range []queue.JobID{"b", "c"} {
			if why := w.evicted[key(id, 1)]; why != "" {
				if mover = id; !strings.Contains(why, "moves elsewhere") {
					t.Errorf("%s was told %q", id, why)
				}
			}
		}
		if mover == "" {
			t.Fatalf("nobody moves, and whole waits: %s", w.waits["whole#1"])
		}
		w.Ended(mover, 1, true)
		w.Ask(wants(mover, 1, preemptible, attempt(2)))
		w.settle()
		if len(w.devices("whole", 1)) != 2 || len(w.devices(mover, 2)) != 1 {
			t.Errorf("whole has %v, and %s goes on with %v", w.devices("whole", 1), mover, w.devices(mover, 2))
		}
	})
}

// A node with an endpoint's instance is lost while training has all the rest: the
// queue makes room for another instance, keeps it until Nomad has placed it, and
// forgets it then. Growing an endpoint is the same.
func TestMissingInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2)
		defer w.stop()
		instance := func(id, node, device string) inventory.Alloc {
			a := foreign(id, node, device)
			a.JobID, a.Meta = "drover-endpoint-x", map[string]string{jobspec.MetaWorkspace: "default", jobspec.MetaEndpoint: "x"}
			return a
		}
		w.cluster.change(func() {
			w.cluster.services = []admission.Service{{JobID: "drover-endpoint-x", Workspace: "default", Count: 1, Ask: wants("", 1).Ask}}
			w.cluster.allocs = []inventory.Alloc{instance("i1", "n1", "n1-gpu0")}
		})
		w.settle()
		w.Ask(wants("a", 1, preemptible))
		w.Ask(wants("b", 1, preemptible))
		w.settle()
		if len(w.evicted) > 0 {
			t.Fatalf("%v were told to leave while the endpoint is whole", w.evicted)
		}
		w.cluster.change(func() { w.cluster.nodes[0].Eligible, w.cluster.allocs = false, nil })
		w.settle()
		if len(w.evicted) != 1 {
			t.Fatalf("%v were told to leave, want one of a and b", w.evicted)
		}
		left := queue.JobID("a")
		if w.evicted["b#1"] != "" {
			left = "b"
		}
		device := w.devices(left, 1)[0]
		w.Ended(left, 1, true)
		w.Ask(wants(left, 1, preemptible, attempt(2)))
		w.settle()
		if w.grant(left, 2) != nil {
			t.Fatal("the room was given back to who has left")
		}
		w.cluster.change(func() { w.cluster.allocs = []inventory.Alloc{instance("i2", "n2", device)} })
		w.settle()
		v, err := w.Queue(t.Context(), admission.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		states := map[queue.JobID]string{}
		for _, e := range v.Entries {
			states[e.Task] = e.State
		}
		if len(states) != 3 || states["alloc/i2"] != "foreign" || states[left] != "waiting" {
			t.Errorf("the queue has %v", states)
		}
		w.cluster.change(func() { w.cluster.services, w.cluster.allocs = nil, nil }) // it was deleted
		w.settle()
		if w.grant(left, 2) == nil {
			t.Error("who has left does not go on once the endpoint is gone")
		}
	})
}

// What is too large by day and not by night waits for the night.
func TestCheckKnowsSchedules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 8)
		defer w.stop()
		quota := func(n int) workspace.Quotas {
			return workspace.Quotas{"nvidia-a100": {Nominal: workspace.Amount(queue.Amount(n) * queue.One)}}
		}
		w.spaces.declare(workspace.Definitions{Workspaces: []workspace.Workspace{{
			Name: "default", Quotas: quota(2),
			Schedules: []workspace.Schedule{{Name: "once", From: "03:00", To: "04:00", Quotas: quota(6)}},
		}}})
		w.settle()
		if err := w.Check(t.Context(), wants("", 6)); err != nil {
			t.Errorf("six GPUs, which the schedule gives: %v", err)
		}
		if err := w.Check(t.Context(), wants("", 7)); err == nil {
			t.Error("seven GPUs were taken, which no schedule gives")
		}
	})
}

// Four tasks of one GPU fill a node. A task of two GPUs makes exactly two of them
// leave if its priority is higher, by however little, and nobody if it is not.
func TestJustAsManyMakeRoomAsAreNeeded(t *testing.T) {
	for _, c := range []struct{ priority, leave int }{{50, 0}, {51, 2}, {60, 2}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 4)
			defer w.stop()
			for _, id := range []queue.JobID{"a", "b", "c", "d"} {
				w.Ask(wants(id, 1, preemptible, priority(50)))
			}
			w.settle()
			w.Ask(wants("high", 2, priority(c.priority)))
			w.settle()
			if len(w.evicted) != c.leave {
				t.Errorf("priority %d over 50: %d make room, want %d", c.priority, len(w.evicted), c.leave)
			}
		})
	}
}
