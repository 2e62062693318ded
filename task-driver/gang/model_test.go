package gang_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/mltask"
)

// fate is what a rank does: when it comes, if it does, and for how long it may
// wait before it is told to leave.
type fate struct {
	comes bool
	at    time.Duration
	stays time.Duration
}

// Whenever members come and leave, either all start, at one time, or none does.
// They start if all come before the first one gives up or leaves.
func TestAllOrNone(t *testing.T) {
	minutes := rapid.Custom(func(r *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(0, 1500).Draw(r, "seconds")) * time.Second
	})
	rapid.Check(t, func(r *rapid.T) {
		fates := make([]fate, rapid.IntRange(1, 5).Draw(r, "size"))
		for rank := range fates {
			fates[rank] = fate{
				comes: rapid.IntRange(0, 9).Draw(r, "comes") > 0,
				at:    minutes.Draw(r, "at"),
				stays: time.Hour,
			}
			if rapid.IntRange(0, 4).Draw(r, "leaves") == 0 {
				fates[rank].stays = minutes.Draw(r, "stays")
			}
		}
		var outcomes []outcome
		synctest.Test(t, func(t *testing.T) { outcomes = newMeeting(t, len(fates)).live(fates) })
		if problem := judge(fates, outcomes); problem != "" {
			r.Fatal(problem)
		}
	})
}

// live has members do as they are fated to.
func (m *meeting) live(fates []fate) []outcome {
	began, outcomes := time.Now(), make([]outcome, len(fates))
	var all sync.WaitGroup
	for rank, f := range fates {
		if !f.comes {
			continue
		}
		all.Go(func() {
			time.Sleep(f.at)
			ctx, leave := context.WithCancelCause(context.Background())
			stop := time.AfterFunc(f.stays, func() { leave(errors.New("told to")) })
			defer stop.Stop()
			o := &outcomes[rank]
			o.members, o.err = m.member(rank).Meet(ctx)
			o.after = time.Since(began)
		})
	}
	all.Wait()
	return outcomes
}

// judge says what is wrong with what became of members, "" for nothing.
func judge(fates []fate, outcomes []outcome) string {
	last, patience := time.Duration(0), time.Hour
	complete := true
	for _, f := range fates {
		complete = complete && f.comes
		if f.comes {
			last = max(last, f.at)
			patience = min(patience, f.at+min(f.stays, timeout))
		}
	}
	const slack = 2 * time.Second // of the polls
	must, may := complete && last+slack < patience, complete && last <= patience
	started := -1
	for rank, o := range outcomes {
		switch {
		case o.members == nil && o.err == nil && !fates[rank].comes:
		case o.err != nil && !mltask.IsGangIncomplete(o.err.Error()):
			return fmt.Sprintf("rank %d: %v", rank, o.err)
		case o.err != nil && must:
			return fmt.Sprintf("rank %d did not start, although all came in time: %v", rank, o.err)
		case o.err == nil && !may:
			return fmt.Sprintf("rank %d started at %v, although the others were not there", rank, o.after)
		case o.err == nil && len(o.members) != len(fates):
			return fmt.Sprintf("rank %d started with %d of %d", rank, len(o.members), len(fates))
		case o.err == nil && started >= 0 && (o.after-outcomes[started].after).Abs() > time.Second:
			return fmt.Sprintf("rank %d started at %v, rank %d at %v", started, outcomes[started].after, rank, o.after)
		case o.err == nil:
			started = rank
		}
	}
	for rank, o := range outcomes {
		// Who is told to leave in the moment of the start has been counted on.
		left := fates[rank].at+fates[rank].stays < last+slack
		if started >= 0 && o.err != nil && !left {
			return fmt.Sprintf("rank %d started, rank %d did not: %v", started, rank, o.err)
		}
	}
	return ""
}
