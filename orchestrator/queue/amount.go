package queue

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Amount is an exact quantity of a flavor in thousandths: 1,500 is one and a half
// GPUs.
type Amount int64

const (
	// One is a whole GPU.
	One Amount = 1000
	// MaxAmount is the greatest amount of a quota or a job: about a billion GPUs.
	// With at most [MaxJobs] of them no sum overflows.
	MaxAmount Amount = 1 << 40
	// MaxJobs is how many jobs a state holds, and how many queues and cohorts.
	MaxJobs = 1 << 21
)

// ErrInvalid is wrapped by errors about quotas and jobs that make no sense.
var ErrInvalid = errors.New("invalid")

// Flavor is a kind of resource with a quota of its own, as a GPU model.
type Flavor string

// The flavors that are no devices: they have quotas as others, and do not count as
// lost work.
const (
	CPU    Flavor = "cpu"    // a whole one is 1,000 MHz
	Memory Flavor = "memory" // a whole one is 1 GiB
)

func (f Flavor) device() bool { return f != CPU && f != Memory }

// Resources are amounts by flavor.
type Resources map[Flavor]Amount

// ParseAmount reads a decimal number of whole units, as "8" or "0.125".
func ParseAmount(s string) (Amount, error) {
	whole, frac, dot := strings.Cut(s, ".")
	if whole == "" || (dot && frac == "") || len(frac) > 3 || len(whole) > 10 || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, fmt.Errorf("%w amount %.40q: write a number such as 8 or 0.125, with at most three decimals", ErrInvalid, s)
	}
	n, err := strconv.ParseInt(whole+frac+"000"[len(frac):], 10, 64)
	if err != nil || Amount(n) > MaxAmount {
		return 0, fmt.Errorf("%w amount %.40q: the most is %s", ErrInvalid, s, MaxAmount)
	}
	return Amount(n), nil
}

// String is what ParseAmount reads, without zeros at the end.
func (a Amount) String() string {
	sign, n := "", uint64(a)
	if a < 0 {
		sign, n = "-", -n
	}
	s := sign + strconv.FormatUint(n/1000, 10)
	if n%1000 == 0 {
		return s
	}
	return s + "." + strings.TrimRight(fmt.Sprintf("%03d", n%1000), "0")
}

// MemoryAmount is what a job is charged that asks for a number of devices by
// their memory instead of whole: the part of the smallest card that holds askMiB,
// rounded up, times devices. Cards without memory, as nodes without GPUs report
// them, are no cards.
func MemoryAmount(devices int, askMiB int64, cardsMiB []int64) (Amount, error) {
	var card int64
	for _, c := range cardsMiB {
		if c >= askMiB && c > 0 && (card == 0 || c < card) {
			card = c
		}
	}
	if devices < 1 || askMiB < 1 || askMiB > int64(MaxAmount) {
		return 0, fmt.Errorf("%w: %d devices of %d MiB", ErrInvalid, devices, askMiB)
	}
	if card == 0 {
		return 0, fmt.Errorf("%w: no card has %d MiB", ErrInvalid, askMiB)
	}
	// askMiB is at most 2^40, so the product stays below 2^51.
	return times(Amount((askMiB*int64(One)+card-1)/card), devices)
}

// times is a product that is checked to be an amount.
func times(a Amount, n int) (Amount, error) {
	if a < 0 || n < 0 || (n > 0 && a > MaxAmount/Amount(n)) {
		return 0, fmt.Errorf("%w: %d times %s: amounts are 0 to %s", ErrInvalid, n, a, MaxAmount)
	}
	return a * Amount(n), nil
}
