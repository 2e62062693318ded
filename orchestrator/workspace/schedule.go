package workspace

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // time zones also where the machine has none

	"github.com/hashicorp/cronexpr"
)

// Schedule is quotas that hold at certain times, either on days of the week
// between two times of day, or for a while from each time that a cron expression
// names. Each of its quotas takes the place of a whole quota.
type Schedule struct {
	Name string `json:"name"`
	// Days are those on which it begins: mon to sun; none: all. From and To are
	// times of day, as 20:00; To is on the next day if it is not after From.
	Days []string `json:"days,omitempty" maxItems:"7" doc:"Days on which it begins: mon to sun. Default: all"`
	From string   `json:"from,omitempty" doc:"Time of day, default 00:00"`
	To   string   `json:"to,omitempty" doc:"Time of day, of the next day if it is not after from; default 24:00"`
	// Cron is when it begins, Duration for how long.
	Cron     string   `json:"cron,omitempty" maxLength:"200" doc:"A cron expression of when it begins, instead of days, from and to"`
	Duration Duration `json:"duration,omitempty" doc:"How long it holds from there"`
	Timezone string   `json:"timezone,omitempty" doc:"Name of a time zone, as Europe/Berlin; default UTC"`
	Quotas   Quotas   `json:"quotas"`
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// At is whether s holds at now, and when that changes; zero: never.
//
// Where a time of day is skipped as clocks go forward, it is when they do; where
// it is there twice as they go back, it is the first of the two. A schedule of
// windows without a gap for so long that looking ahead has a limit is said to
// change at that limit.
func (s Schedule) At(now time.Time) (holds bool, until time.Time) {
	zone, err := location(s.Timezone)
	if err != nil {
		return false, time.Time{}
	}
	if s.Cron != "" {
		return s.byCron(now.In(zone))
	}
	return s.byDay(now.In(zone))
}

// maxWindows is how many windows ahead are looked at.
const maxWindows = 1000

func (s Schedule) byCron(now time.Time) (bool, time.Time) {
	cron, err := parseCron(s.Cron)
	if err != nil {
		return false, time.Time{}
	}
	// The first that is not over.
	begin := cron.Next(now.Add(-time.Duration(s.Duration)))
	if begin.IsZero() || begin.After(now) {
		return false, begin
	}
	// Windows that touch are one.
	end := begin.Add(time.Duration(s.Duration))
	for range maxWindows {
		if begin = cron.Next(begin); begin.IsZero() || begin.After(end) {
			break
		}
		end = begin.Add(time.Duration(s.Duration))
	}
	return true, end
}

// window is from a moment until before another.
type window struct{ begin, end time.Time }

// daysAhead is how far ahead byDay looks: where days differ they do so within a
// week, and clocks that go forward may swallow one window.
const daysAhead = 15

func (s Schedule) byDay(now time.Time) (holds bool, until time.Time) {
	from, to, err := s.times()
	if err != nil {
		return false, time.Time{}
	}
	var windows []window
	y, m, d := now.Date()
	for day := d - 2; day <= d+daysAhead; day++ {
		weekday := weekdays[time.Date(y, m, day, 12, 0, 0, 0, time.UTC).Weekday()]
		if len(s.Days) > 0 && !slices.Contains(s.Days, weekday) {
			continue
		}
		end := day
		if to <= from {
			end++
		}
		windows = append(windows, window{wall(y, m, day, from, now.Location()), wall(y, m, end, to, now.Location())})
	}
	in := func(t time.Time) bool {
		return slices.ContainsFunc(windows, func(w window) bool { return !t.Before(w.begin) && t.Before(w.end) })
	}
	holds = in(now)
	horizon := wall(y, m, d+daysAhead, 0, now.Location())
	for _, w := range windows {
		for _, t := range []time.Time{w.begin, w.end} {
			if t.After(now) && t.Before(horizon) && in(t) != holds && (until.IsZero() || t.Before(until)) {
				until = t
			}
		}
	}
	return holds, until
}

const minutesPerDay = 24 * 60

// times are From and To in minutes after midnight.
func (s Schedule) times() (from, to int, err error) {
	to = minutesPerDay
	if s.From != "" {
		if from, err = minuteOf(s.From); err != nil {
			return 0, 0, err
		}
	}
	if s.To != "" {
		if to, err = minuteOf(s.To); err != nil {
			return 0, 0, err
		}
	}
	return from, to, nil
}

// minuteOf reads a time of day from 00:00 to 24:00.
func minuteOf(text string) (int, error) {
	if text == "24:00" {
		return minutesPerDay, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != 5 {
		return 0, fmt.Errorf("%.20q is no time of day; write it as 08:30, from 00:00 to 24:00", text)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// wall is the first moment at which a day's clocks show a time, or when they are
// put forward past it.
func wall(y int, m time.Month, d, minute int, zone *time.Location) time.Time {
	want := time.Date(y, m, d, 0, minute, 0, 0, time.UTC)
	shows := func(t time.Time) time.Time { // the clock's reading at t, as if in UTC
		_, offset := t.In(zone).Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	// The offset before is that of the earlier moment if there are two.
	_, before := want.Add(-minutesPerDay * time.Minute).In(zone).Zone()
	_, after := want.Add(minutesPerDay * time.Minute).In(zone).Zone()
	var earliest time.Time
	for _, offset := range []int{before, after} {
		t := want.Add(-time.Duration(offset) * time.Second)
		if shows(t).Equal(want) && (earliest.IsZero() || t.Before(earliest)) {
			earliest = t
		}
	}
	if !earliest.IsZero() {
		return earliest.In(zone)
	}
	begin, _ := want.Add(-time.Duration(before) * time.Second).In(zone).ZoneBounds()
	return begin
}

// zones are the time zones that were asked for, by name: reading one takes long.
var zones sync.Map

func location(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("there is no time zone %.60q; write a name such as Europe/Berlin", name)
	}
	zones.Store(name, zone)
	return zone, nil
}

// parseCron reads a cron expression of minute, hour, day, month and weekday.
func parseCron(text string) (*cronexpr.Expression, error) {
	if n := len(strings.Fields(text)); n != 5 && !strings.HasPrefix(text, "@") {
		return nil, fmt.Errorf("a cron expression has five fields: minute, hour, day of the month, month, day of the week; %.60q has %d", text, n)
	}
	e, err := cronexpr.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%.60q is no cron expression: %w", text, err)
	}
	return e, nil
}
