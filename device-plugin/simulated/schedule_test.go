package simulated

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestScheduleProperties compares a schedule with the list of all of its
// times.
func TestScheduleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, least, most int) time.Duration {
			return time.Duration(rapid.IntRange(least, most).Draw(t, name)) * time.Millisecond
		}
		s := schedule{at: ms("at", 0, 50)}
		if rapid.Bool().Draw(t, "repeats") {
			s.every = ms("every", 10, 40)
			s.lasts = ms("for", 0, int(s.every/time.Millisecond)-1)
			s.times = rapid.IntRange(0, 5).Draw(t, "times")
		} else {
			s.lasts = ms("for", 0, 60)
		}
		elapsed := ms("elapsed", -10, 300)
		first := rapid.IntRange(0, 6).Draw(t, "first")

		var starts []time.Duration
		for at, n := s.at, 0; at <= elapsed && (n == 0 || s.every > 0 && (s.times == 0 || n < s.times)); at, n = at+s.every, n+1 {
			starts = append(starts, at)
		}
		if n := s.started(elapsed); n != len(starts) {
			t.Fatalf("started %d times, want %d", n, len(starts))
		}
		since, active := s.active(elapsed)
		wantActive := len(starts) > 0 && (s.lasts == 0 || elapsed < starts[len(starts)-1]+s.lasts)
		if active != wantActive || active && since != starts[len(starts)-1] {
			t.Fatalf("active since %v: %v", since, active)
		}
		var total time.Duration
		for i, start := range starts {
			if i < first {
				continue
			}
			lasted := elapsed - start
			if s.lasts > 0 || i < len(starts)-1 {
				lasted = min(lasted, s.lasts)
			}
			total += lasted
		}
		if got := s.total(first, elapsed); got != total {
			t.Fatalf("lasted %v, want %v", got, total)
		}
		next, ok := s.next(elapsed)
		before := func(at time.Duration) (int, bool) { _, a := s.active(at); return s.started(at), a }
		n, _ := before(elapsed)
		if ok {
			if next <= elapsed {
				t.Fatalf("next is %v, not after %v", next, elapsed)
			}
			atN, atActive := before(next)
			justN, justActive := before(next - 1)
			if atN == justN && atActive == justActive {
				t.Fatalf("nothing begins or ends at %v", next)
			}
			if justN != n || justActive != active {
				t.Fatalf("something began or ended before %v", next)
			}
		} else if atN, atActive := before(elapsed + time.Hour); atN != n || atActive != active {
			t.Fatal("something happens later")
		}
	})
}
