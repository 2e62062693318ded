package workspace

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/orchestrator/queue"
)

// Amount is an exact quantity of a flavor, or of hours, in thousandths. Its JSON
// is a number of whole units, such as 0.125.
type Amount queue.Amount

// String is the number of whole units.
func (a Amount) String() string { return queue.Amount(a).String() }

// MarshalJSON writes a number of whole units.
func (a Amount) MarshalJSON() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalJSON reads a number of whole units with three decimals at most.
func (a *Amount) UnmarshalJSON(b []byte) error {
	n, err := queue.ParseAmount(string(b))
	if err != nil {
		return fmt.Errorf("reading an amount: %w", err)
	}
	*a = Amount(n)
	return nil
}

// Duration is a duration whose JSON is text such as "1h30m".
type Duration time.Duration

// String is text such as 1h30m, without parts that are zero.
func (d Duration) String() string {
	s := time.Duration(d).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if n := len(s) - len(zero); n > 0 && s[n:] == zero {
			s = s[:n+1]
		}
	}
	return s
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration in Go's notation.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("reading a duration: %.40q is none; write numbers with units, as in \"90s\" or \"1h30m\"", b)
	}
	*d = Duration(v)
	return nil
}

// Period is how long a budget is for: a calendar period, in UTC.
type Period string

// The periods. Weeks begin on Monday.
const (
	Day     Period = "day"
	Week    Period = "week"
	Month   Period = "month"
	Quarter Period = "quarter"
	Year    Period = "year"
)

var periods = []string{string(Day), string(Week), string(Month), string(Quarter), string(Year)}

// Around is when the period that t is in begins and ends.
func (p Period) Around(t time.Time) (begin, end time.Time) {
	y, m, d := t.UTC().Date()
	at := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	switch p {
	case Day:
		return at(y, m, d), at(y, m, d+1)
	case Week:
		monday := d - (int(t.UTC().Weekday())+6)%7
		return at(y, m, monday), at(y, m, monday+7)
	case Quarter:
		first := (m-1)/3*3 + 1
		return at(y, first, 1), at(y, first+3, 1)
	case Year:
		return at(y, 1, 1), at(y+1, 1, 1)
	default:
		return at(y, m, 1), at(y, m+1, 1)
	}
}
