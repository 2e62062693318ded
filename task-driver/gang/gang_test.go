package gang_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/gang"
)

const timeout = 10 * time.Minute

// meeting is a gang whose members meet in a store.
type meeting struct {
	t     *testing.T
	store string
	size  int
}

func newMeeting(t *testing.T, size int) *meeting {
	t.Helper()
	m := &meeting{t: t, store: "file://" + t.TempDir(), size: size}
	s, err := artifact.Open(m.store)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

// member is the first start of a rank, on a node of its own.
func (m *meeting) member(rank int) *gang.Gang {
	id := fmt.Sprintf("start-of-%d", rank)
	return &gang.Gang{
		Key: "run/train/1", Timeout: timeout,
		Self: gang.Member{
			Rank: rank, Size: m.size, AllocID: "alloc-" + id, TaskID: id, NodeName: fmt.Sprintf("n%d", rank),
			Machine: fmt.Sprintf("boot-%d", rank), Address: fmt.Sprintf("10.0.0.%d", rank), Port: 20000 + rank,
		},
		Open: func() (*artifact.Store, error) { return artifact.Open(m.store) },
	}
}

// outcome is what became of a member.
type outcome struct {
	members []gang.Member
	err     error
	after   time.Duration
}

// meet has members meet, and returns what became of each.
func (m *meeting) meet(members ...*gang.Gang) []outcome {
	began, outcomes := time.Now(), make([]outcome, len(members))
	var all sync.WaitGroup
	for i, g := range members {
		all.Go(func() {
			o := &outcomes[i]
			o.members, o.err = g.Meet(context.Background())
			o.after = time.Since(began)
		})
	}
	all.Wait()
	return outcomes
}

func (m *meeting) all() (members []*gang.Gang) {
	for rank := range m.size {
		members = append(members, m.member(rank))
	}
	return members
}

// failed checks that no member starts, all with one reason.
func failed(t *testing.T, outcomes []outcome, want string) {
	t.Helper()
	for i, o := range outcomes {
		if o.err == nil || !mltask.IsGangIncomplete(o.err.Error()) || !strings.Contains(o.err.Error(), want) || o.members != nil {
			t.Errorf("member %d: started %v, error %v; want %q", i, o.members != nil, o.err, want)
		}
	}
}

func TestAllAreThere(t *testing.T) {
	for _, size := range []int{1, 2, 4, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, size)
				for rank, o := range m.meet(m.all()...) {
					if o.err != nil {
						t.Fatalf("rank %d: %v", rank, o.err)
					}
					if o.after > 2*time.Second {
						t.Errorf("rank %d started after %v", rank, o.after)
					}
					for i, other := range o.members {
						if other.Rank != i || other.TaskID != fmt.Sprintf("start-of-%d", i) {
							t.Errorf("rank %d knows %+v as rank %d", rank, other, i)
						}
					}
					env := gang.Environment(o.members)
					if len(o.members) != size || env["MASTER_ADDR"] != "10.0.0.0" || env["MASTER_PORT"] != "20000" {
						t.Errorf("rank %d knows %d members, environment %v", rank, len(o.members), env)
					}
				}
			})
		})
	}
}

func TestSomebodyIsMissing(t *testing.T) {
	for _, test := range []struct {
		name    string
		size    int
		missing []int
		want    string
	}{
		{"one", 4, []int{2}, "gang: 3 of 4 members were there within 10m0s: rank 2 was missing"},
		{"rank 0", 3, []int{0}, "gang: 2 of 3 members were there within 10m0s: rank 0 was missing"},
		{"all others", 4, []int{0, 1, 2}, "gang: 1 of 4 members were there within 10m0s: ranks 0, 1 and 2 were missing"},
		{"many", 12, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more were missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, test.size)
				there := slices.DeleteFunc(m.all(), func(g *gang.Gang) bool { return slices.Contains(test.missing, g.Self.Rank) })
				outcomes := m.meet(there...)
				failed(t, outcomes, test.want)
				for _, o := range outcomes {
					if o.after < timeout || o.after > timeout+time.Second {
						t.Errorf("a member gave up after %v", o.after)
					}
				}
				// Who comes too late learns of it at once.
				late := m.meet(m.member(test.missing[0]))
				failed(t, late, test.want)
				if late[0].after > time.Second {
					t.Errorf("who came late waited for %v", late[0].after)
				}
			})
		})
	}
}

// Members that come one after the other, each before the first one gives up,
// start together.
func TestMembersComeOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 4)
		var all sync.WaitGroup
		starts := make([]time.Time, m.size)
		for i, rank := range []int{3, 1, 0, 2} {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 3 * time.Minute)
				if _, err := m.member(rank).Meet(t.Context()); err != nil {
					t.Errorf("rank %d: %v", rank, err)
				}
				starts[rank] = time.Now()
			})
		}
		all.Wait()
		for rank, at := range starts {
			if d := at.Sub(starts[0]).Abs(); d > time.Second {
				t.Errorf("rank %d started %v apart from rank 0", rank, d)
			}
		}
	})
}

// A member whose process was killed while it waited does not count, although
// its record is there.
func TestDeadMemberDoesNotCount(t *testing.T) {
	for _, rank := range []int{0, 2} {
		t.Run(fmt.Sprintf("rank %d", rank), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, 4)
				m.die(rank)
				others := slices.DeleteFunc(m.all(), func(g *gang.Gang) bool { return g.Self.Rank == rank })
				failed(t, m.meet(others...), fmt.Sprintf("3 of 4 members were there after 10m0s: rank %d had come, and answered no more", rank))
			})
		})
	}
}

// die has a rank come and be killed: it leaves its record and no word.
func (m *meeting) die(rank int) {
	m.t.Helper()
	g := m.member(rank)
	g.Self.TaskID = "killed"
	ctx, kill := context.WithCancel(context.Background())
	open := g.Open
	g.Open = func() (*artifact.Store, error) {
		if ctx.Err() != nil {
			return nil, errors.New("killed")
		}
		return open()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = g.Meet(ctx)
	}()
	time.Sleep(time.Second)
	s, err := artifact.Open(m.store)
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Close()
	var before gang.Member
	if err := s.GetRecord(context.Background(), fmt.Sprintf("gangs/run/train/1/rank-%d", rank), &before); err != nil {
		m.t.Fatal(err)
	}
	kill()
	<-done
	// It could not say good-bye.
	if err := s.DeleteRecord(context.Background(), "gangs/run/train/1/verdict"); err != nil {
		m.t.Fatal(err)
	}
}

// A rank that is started again before the gang has started takes the place of
// its earlier start.
func TestRankStartedAgain(t *testing.T) {
	for _, rank := range []int{0, 1} {
		t.Run(fmt.Sprintf("rank %d", rank), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, 3)
				m.die(rank)
				for i, o := range m.meet(m.all()...) {
					if o.err != nil || o.members[rank].TaskID != fmt.Sprintf("start-of-%d", rank) {
						t.Errorf("rank %d: %v, members %v", i, o.err, o.members)
					}
				}
			})
		})
	}
}

// A rank that is started again after the gang has started does not start, and
// the others learn that they are one short.
func TestRankStartedAgainTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 2)
		members := m.all()
		for _, o := range m.meet(members...) {
			if o.err != nil {
				t.Fatal(o.err)
			}
		}
		again := m.member(1)
		again.Self.TaskID = "another start"
		failed(t, m.meet(again), "rank 1 was started again, after the gang had started")
		if reason, err := members[0].Broken(t.Context()); err != nil || !strings.Contains(reason, "rank 1 was started again") {
			t.Errorf("rank 0 learnt %q, %v", reason, err)
		}
	})
}

func TestMemberLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 3)
		ctx, leave := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		outcomes := make([]outcome, 2)
		for rank := range 2 {
			all.Go(func() {
				o, on := &outcomes[rank], context.Background()
				if rank == 1 {
					on = ctx
				}
				o.members, o.err = m.member(rank).Meet(on)
			})
		}
		time.Sleep(time.Minute)
		began := time.Now()
		leave(errors.New("it was stopped"))
		all.Wait()
		failed(t, outcomes, "gang: rank 1 left while it waited: it was stopped")
		if d := time.Since(began); d > time.Second {
			t.Errorf("the others waited for another %v", d)
		}
	})
}

func TestGangsThatDoNotFitTogether(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*gang.Member)
		want   string
	}{
		{"another step", func(m *gang.Member) { m.ResumedFrom = new(int64(120)) }, "rank 0 from the beginning, rank 1 from step 120"},
		{"another size", func(m *gang.Member) { m.Size = 3 }, "rank 1 is of a gang of 3, and rank 0 of one of 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, 2)
				other := m.member(1)
				test.change(&other.Self)
				failed(t, m.meet(m.member(0), other), test.want)
			})
		})
	}
	t.Run("no way to rank 0", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMeeting(t, 2)
			master := m.member(0)
			master.Self.Address = "127.0.0.1"
			failed(t, m.meet(master, m.member(1)), `rank 1 on node n1 cannot reach rank 0 on node n0`)
		})
	})
}

// A store that fails for a while delays the meeting, and one that fails for ever
// ends it.
func TestStoreFails(t *testing.T) {
	for _, test := range []struct {
		name string
		back time.Duration
		want string
	}{
		{"for a while", timeout / 2, ""},
		{"for ever", time.Hour, "the artifact store can't be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeeting(t, 2)
				members, began := m.all(), time.Now()
				for _, g := range members {
					open := g.Open
					g.Open = func() (*artifact.Store, error) {
						if time.Since(began) < test.back {
							return nil, errors.New("stale file handle")
						}
						return open()
					}
				}
				outcomes := m.meet(members...)
				if test.want != "" {
					failed(t, outcomes, test.want)
					return
				}
				for rank, o := range outcomes {
					if o.err != nil || o.after < test.back {
						t.Errorf("rank %d: %v after %v", rank, o.err, o.after)
					}
				}
			})
		})
	}
}

func TestBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, 3)
		members := m.all()
		for _, rank := range []int{2, 1} { // the first one counts
			if err := members[rank].Break(t.Context(), fmt.Sprintf("rank %d failed", rank)); err != nil {
				t.Fatal(err)
			}
		}
		for _, rank := range []int{0, 1} {
			if reason, err := members[rank].Broken(t.Context()); err != nil || reason != "rank 2 failed" {
				t.Errorf("rank %d learnt %q, %v", rank, reason, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if reason, err := members[2].Broken(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("rank 2 learnt of its own failure: %q, %v", reason, err)
		}
	})
}
