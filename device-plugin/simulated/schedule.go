package simulated

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// schedule is when something happens, counted from when its block was first
// read.
type schedule struct {
	at    time.Duration // of the first time
	lasts time.Duration // 0 is for good
	every time.Duration // from one time to the next; 0 is once
	times int           // how often; 0 is without end
}

// The attributes of a block that a schedule is made of:
//
//	at    = "5s"   # default: at once
//	for   = "2s"   # default: for good
//	every = "10s"  # again and again
//	times = 3      # default: without end
type timing struct {
	At    string   `hcl:"at,optional"`
	For   string   `hcl:"for,optional"`
	Every string   `hcl:"every,optional"`
	Times *int     `hcl:"times,optional"`
	Body  hcl.Body `hcl:",body"`
}

// minEvery keeps a script from doing nothing but wake the source up.
const minEvery = 10 * time.Millisecond

// schedule checks the timing of a block at a place.
func (t timing) schedule(block hcl.Range) (schedule, hcl.Diagnostics) {
	var s schedule
	var diags hcl.Diagnostics
	wrong := func(attribute, format string, args ...any) {
		diags = append(diags, problem(rangeOf(t.Body, attribute, block), fmt.Sprintf(format, args...)))
	}
	read := func(attribute, text string, to *time.Duration, least time.Duration) {
		if text == "" {
			return
		}
		d, err := time.ParseDuration(text)
		switch {
		case err != nil:
			wrong(attribute, "%s is %q; it is a duration such as \"500ms\", \"5s\" or \"1m30s\"", attribute, text)
		case d < least:
			wrong(attribute, "%s is %s; it is at least %s", attribute, d, least)
		case d > maxOffset:
			wrong(attribute, "%s is %s; it is at most %s", attribute, d, maxOffset)
		}
		*to = d
	}
	read("at", t.At, &s.at, 0)
	read("for", t.For, &s.lasts, time.Millisecond)
	read("every", t.Every, &s.every, minEvery)
	if t.Times != nil {
		s.times = *t.Times
		switch {
		case s.times < 1:
			wrong("times", "times is %d; it is at least 1", s.times)
		case s.every == 0:
			wrong("times", "times needs every")
		}
	}
	if s.every > 0 && s.lasts >= s.every {
		wrong("for", "for is %s, which is not over before the next time: it must be less than every (%s)", s.lasts, s.every)
	}
	return s, diags
}

// maxOffset is a limit on scripts: a year.
const maxOffset = 366 * 24 * time.Hour

// started is how often it has begun after so much time.
func (s schedule) started(elapsed time.Duration) int {
	switch {
	case elapsed < s.at:
		return 0
	case s.every == 0:
		return 1
	}
	n := int((elapsed-s.at)/s.every) + 1
	if s.times > 0 {
		n = min(n, s.times)
	}
	return n
}

// start is when it begins for the nth time, from 0.
func (s schedule) start(n int) time.Duration { return s.at + time.Duration(n)*s.every }

// active tells whether it goes on after so much time, and since when.
func (s schedule) active(elapsed time.Duration) (since time.Duration, ok bool) {
	n := s.started(elapsed)
	if n == 0 {
		return 0, false
	}
	since = s.start(n - 1)
	return since, s.lasts == 0 || elapsed < since+s.lasts
}

// next is when it next begins or ends.
func (s schedule) next(elapsed time.Duration) (time.Duration, bool) {
	n := s.started(elapsed)
	if n > 0 && s.lasts > 0 {
		if end := s.start(n-1) + s.lasts; elapsed < end {
			return end, true
		}
	}
	if n == 0 || s.every > 0 && (s.times == 0 || n < s.times) {
		return s.start(n), true
	}
	return 0, false
}

// total is for how long it has gone on, from its nth time on.
func (s schedule) total(first int, elapsed time.Duration) time.Duration {
	n := s.started(elapsed)
	if first >= n {
		return 0
	}
	last := elapsed - s.start(n-1)
	if s.lasts > 0 {
		last = min(last, s.lasts)
	}
	return time.Duration(n-1-first)*s.lasts + last
}
