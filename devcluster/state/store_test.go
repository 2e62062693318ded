package state

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func testJob(id string) *api.Job {
	return &api.Job{ID: &id, Namespace: ptr("default"), Version: ptr(uint64(0))}
}

func TestARejectedTransactionLeavesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	boom := errors.New("no")
	_, err := s.Update(func(tx *Tx) error {
		if err := tx.PutJob(testJob("a"), true); err != nil {
			return err
		}
		if tx.Job("default", "a") == nil {
			t.Error("a transaction does not read its own writes")
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	s.View(func(r Reader) {
		if len(r.Jobs()) != 0 || r.Index() != 1 {
			t.Errorf("%d jobs at index %d", len(r.Jobs()), r.Index())
		}
	})
}

func TestAllocationsKeepTheVersionOfTheirJob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	job := testJob("a")
	_, err := s.Update(func(tx *Tx) error {
		if err := tx.PutJob(job, true); err != nil {
			return err
		}
		return tx.PutAlloc(&api.Allocation{ID: "x", Namespace: "default", JobID: "a", NodeID: "n", Job: job, ClientStatus: "running"}, false)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(func(tx *Tx) error { return tx.DeleteJob(job) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	s.View(func(r Reader) {
		a := r.Alloc("x")
		if a == nil || a.Job == nil || *a.Job.ID != "a" || r.LiveAllocsOn("n")["x"] == nil {
			t.Errorf("allocation %+v", a)
		}
	})
}

// TestReopeningLosesNothing does random transactions, some of them refused,
// and compares with a map after every reopening.
func TestReopeningLosesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		s := open(t, dir)
		model := map[string]string{}
		var index uint64
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			key := rapid.StringMatching(`[a-e]`).Draw(rt, "key")
			value := rapid.StringMatching(`[a-z]{0,5}`).Draw(rt, "value")
			switch rapid.IntRange(0, 3).Draw(rt, "operation") {
			case 0, 1:
				i, err := s.Update(func(tx *Tx) error {
					return tx.PutVariable(&api.Variable{Namespace: "default", Path: key, Items: map[string]string{"v": value}})
				})
				if err != nil || i <= index {
					rt.Fatalf("index %d after %d, %v", i, index, err)
				}
				model[key], index = value, i
			case 2:
				_, err := s.Update(func(tx *Tx) error {
					v := tx.Variable("default", key)
					if v == nil {
						return errors.New("nothing there")
					}
					return tx.DeleteVariable(v)
				})
				if _, had := model[key]; had != (err == nil) {
					rt.Fatalf("deleting: %v", err)
				}
				delete(model, key)
			case 3:
				if rapid.Bool().Draw(rt, "compacts") {
					if err := s.rewrite(); err != nil {
						rt.Fatal(err)
					}
				}
				s.Close()
				s = open(t, dir)
			}
			s.View(func(r Reader) {
				if len(r.Variables()) != len(model) {
					rt.Fatalf("%d variables, want %d", len(r.Variables()), len(model))
				}
				for k, v := range model {
					if got := r.Variable("default", k); got == nil || got.Items["v"] != v {
						rt.Fatalf("%s is %+v, want %q", k, got, v)
					}
				}
				if r.Index() < index {
					rt.Fatalf("index %d, was %d", r.Index(), index)
				}
			})
		}
	})
}

func TestAwaitSeesEveryChange(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan bool, 1)
	go func() { done <- s.Await(ctx, func(r Reader) bool { return len(r.Variables()) == 20 }) }()
	for i := range 20 {
		if _, err := s.Update(func(tx *Tx) error {
			return tx.PutVariable(&api.Variable{Namespace: "default", Path: fmt.Sprint(i)})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !<-done {
		t.Error("the last change was missed")
	}
	short, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	if s.Await(short, func(Reader) bool { return false }) {
		t.Error("true without a reason")
	}
}

func TestEventsComeInOrderAndResume(t *testing.T) {
	s := open(t, t.TempDir())
	var indexes []uint64
	for i := range 5 {
		index, err := s.Update(func(tx *Tx) error {
			tx.As("JobRegistered")
			return tx.PutJob(testJob(fmt.Sprint(i)), true)
		})
		if err != nil {
			t.Fatal(err)
		}
		indexes = append(indexes, index)
	}
	for i, after := range indexes[:4] {
		got := s.Events().Next(context.Background(), after)
		if len(got) != 4-i || got[0].Index != indexes[i+1] || got[0].Events[0].Type != "JobRegistered" {
			t.Errorf("after %d: %d batches", after, len(got))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := s.Events().Next(ctx, indexes[4]); got != nil {
		t.Errorf("events from the future: %v", got)
	}
}
