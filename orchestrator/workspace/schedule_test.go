package workspace

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(t *testing.T, zone, text string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	when, err := time.ParseInLocation("2006-01-02 15:04:05", text, loc)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestSchedulesHold(t *testing.T) {
	const berlin = "Europe/Berlin"
	nights := Schedule{From: "20:00", To: "06:00", Timezone: berlin}
	fridays := Schedule{Days: []string{"fri"}, From: "22:00", To: "02:30", Timezone: berlin}
	weekends := Schedule{Days: []string{"sat", "sun"}, Timezone: berlin}
	skipped := Schedule{From: "02:15", To: "02:45", Timezone: berlin}
	always := Schedule{From: "00:00", To: "24:00", Timezone: berlin}
	cron := Schedule{Cron: "30 20 * * 1-5", Duration: Duration(10 * time.Hour), Timezone: berlin}
	often := Schedule{Cron: "*/10 8-9 * * *", Duration: Duration(10 * time.Minute)}
	tests := map[string]struct {
		s     Schedule
		zone  string
		now   string
		holds bool
		until string // "": never
	}{
		"before a night":           {nights, berlin, "2026-01-15 19:59:59", false, "2026-01-15 20:00:00"},
		"as a night begins":        {nights, berlin, "2026-01-15 20:00:00", true, "2026-01-16 06:00:00"},
		"past midnight":            {nights, berlin, "2026-01-16 03:00:00", true, "2026-01-16 06:00:00"},
		"as it ends":               {nights, berlin, "2026-01-16 06:00:00", false, "2026-01-16 20:00:00"},
		"the night that is short":  {nights, berlin, "2026-03-28 21:00:00", true, "2026-03-29 06:00:00"},
		"a night of another day":   {fridays, berlin, "2026-01-16 01:00:00", false, "2026-01-16 22:00:00"},
		"the day after it began":   {fridays, berlin, "2026-01-17 01:00:00", true, "2026-01-17 02:30:00"},
		"two days are one":         {weekends, berlin, "2026-01-17 12:00:00", true, "2026-01-19 00:00:00"},
		"a time that is skipped":   {skipped, berlin, "2026-03-29 01:59:00", false, "2026-03-30 02:15:00"},
		"a time that is there":     {skipped, berlin, "2026-03-30 02:20:00", true, "2026-03-30 02:45:00"},
		"always":                   {always, berlin, "2026-03-29 12:00:00", true, ""},
		"cron before":              {cron, berlin, "2026-01-16 20:00:00", false, "2026-01-16 20:30:00"},
		"cron":                     {cron, berlin, "2026-01-17 01:00:00", true, "2026-01-17 06:30:00"},
		"cron that touches itself": {often, "UTC", "2026-01-17 08:05:00", true, "2026-01-17 10:00:00"},
		"no such time zone":        {Schedule{Timezone: "Mars/Olympus", From: "00:00"}, "UTC", "2026-01-17 08:05:00", false, ""},
		"a day that never comes":   {Schedule{Cron: "0 0 31 2 *", Duration: Duration(time.Hour)}, "UTC", "2026-01-17 08:05:00", false, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			holds, until := test.s.At(at(t, test.zone, test.now))
			if holds != test.holds {
				t.Errorf("it holds: %v, want %v", holds, test.holds)
			}
			if test.until == "" {
				if !until.IsZero() {
					t.Errorf("it changes at %s, want never", until)
				}
			} else if want := at(t, test.zone, test.until); !until.Equal(want) {
				t.Errorf("it changes at %s, want %s", until, want)
			}
		})
	}
}

// As clocks go back, a time that is there twice is the first of the two: 02:30
// was at 00:30 UTC, and an hour later.
func TestTheFirstOfTwo(t *testing.T) {
	s := Schedule{From: "01:00", To: "02:30", Timezone: "Europe/Berlin"}
	now := time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC)
	if holds, until := s.At(now); !holds || !until.Equal(now.Add(30*time.Minute)) {
		t.Errorf("it holds: %v until %s", holds, until)
	}
	if holds, _ := s.At(now.Add(time.Hour)); holds {
		t.Error("it holds once more as the clocks show 02:00 again")
	}
}

// The next change is one, and nothing changes before it.
func TestNextChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := aSchedule(t)
		now := time.Unix(rapid.Int64Range(1.6e9, 1.8e9).Draw(t, "now"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns"))
		holds, until := s.At(now)
		end := until
		if until.IsZero() {
			end = now.AddDate(0, 0, daysAhead)
		} else {
			if !until.After(now) {
				t.Fatalf("at %s, the next change of %+v is at %s", now, s, until)
			}
			if windows := windowsUntil(t, s, until, now); windows >= maxWindows {
				return // it may change there
			}
			if still, _ := s.At(until); still == holds {
				t.Fatalf("%+v does not change at %s", s, until)
			}
			if still, _ := s.At(until.Add(-1)); still != holds {
				t.Fatalf("%+v changes before %s", s, until)
			}
		}
		for range 20 {
			between := now.Add(time.Duration(rapid.Int64Range(0, int64(end.Sub(now))-1).Draw(t, "between")))
			if still, again := s.At(between); still != holds || !again.Equal(until) {
				t.Fatalf("at %s: %v until %s; at %s: %v until %s, of %+v", now, holds, until, between, still, again, s)
			}
		}
	})
}

// windowsUntil is how many windows a schedule by cron begins until a moment.
func windowsUntil(t *rapid.T, s Schedule, until, now time.Time) int {
	if s.Cron == "" {
		return 0
	}
	cron, err := parseCron(s.Cron)
	if err != nil {
		t.Fatal(err)
	}
	zone, _ := location(s.Timezone)
	n := 0
	for at := cron.Next(now.Add(-time.Duration(s.Duration)).In(zone)); at.Before(until); at = cron.Next(at) {
		n++
	}
	return n
}

// A schedule by days holds when the clock on the wall says so, but where clocks
// are put forward or back.
func TestTheClockOnTheWall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := aSchedule(t)
		s.Cron, s.Duration = "", 0
		s.From, s.To = timeOfDay(t), timeOfDay(t)
		zone, err := location(s.Timezone)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(rapid.Int64Range(1.6e9, 1.8e9).Draw(t, "now"), 0).In(zone)
		for _, day := range []int{-2, 2} {
			_, here := now.Zone()
			if _, there := now.AddDate(0, 0, day).Zone(); here != there {
				t.Skip("clocks change")
			}
		}
		from, to, _ := s.times()
		minute := now.Hour()*60 + now.Minute()
		on := func(day time.Time) bool {
			if len(s.Days) == 0 {
				return true
			}
			for _, d := range s.Days {
				if d == weekdays[day.Weekday()] {
					return true
				}
			}
			return false
		}
		want := on(now) && minute >= from && (minute < to || to <= from) || to <= from && on(now.AddDate(0, 0, -1)) && minute < to
		if holds, _ := s.At(now); holds != want {
			t.Fatalf("%+v holds at %s: %v", s, now, holds)
		}
	})
}
