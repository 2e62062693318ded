package simulate

import "time"

// declared are the run times that people declare.
var declared = []time.Duration{
	time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour,
	day, 2 * day, 4 * day, 7 * day, 14 * day, 30 * day, 60 * day, 90 * day, 180 * day,
}

const day = 24 * time.Hour

// Declared is what somebody declares whose job takes d: the next of the usual run
// times, from a minute to half a year, or else whole years.
func Declared(d time.Duration) time.Duration {
	for _, u := range declared {
		if d <= u {
			return u
		}
	}
	const year = 365 * day
	return (d + year - 1) / year * year
}
