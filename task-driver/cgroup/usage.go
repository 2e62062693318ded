package cgroup

import "time"

// Usage is what a group uses now, and has used. A nil value is not measured.
type Usage struct {
	User, System     *time.Duration
	ThrottledPeriods *uint64
	Throttled        *time.Duration
	// Memory, in bytes.
	RSS, Cache, Usage, MaxUsage, Swap *uint64
}

// OOMKills is how many processes of the group the kernel has killed for want of
// memory, within the group's limit or the machine's.
func (g Group) OOMKills() uint64 {
	switch g.Version {
	case 1:
		n, _ := counter(g.Dirs["memory"], "memory.oom_control", "oom_kill")
		return n
	case 2:
		n, _ := counter(g.Dirs[unified], "memory.events", "oom_kill")
		return n
	}
	return 0
}

// Usage reads the group's counters; ok is false if there are none.
func (g Group) Usage() (u Usage, ok bool) {
	switch g.Version {
	case 1:
		memory := g.Dirs["memory"]
		u = Usage{
			RSS:      ptr(counter(memory, "memory.stat", "total_rss")),
			Cache:    ptr(counter(memory, "memory.stat", "total_cache")),
			Usage:    ptr(number(memory, "memory.usage_in_bytes")),
			MaxUsage: ptr(number(memory, "memory.max_usage_in_bytes")),
			Swap:     ptr(counter(memory, "memory.stat", "total_swap")),
			User:     nanoseconds(number(g.Dirs["cpuacct"], "cpuacct.usage_user")),
			System:   nanoseconds(number(g.Dirs["cpuacct"], "cpuacct.usage_sys")),

			ThrottledPeriods: ptr(counter(g.Dirs["cpu"], "cpu.stat", "nr_throttled")),
			Throttled:        nanoseconds(counter(g.Dirs["cpu"], "cpu.stat", "throttled_time")),
		}
		return u, u.Usage != nil
	case 2:
		dir := g.Dirs[unified]
		u = Usage{
			RSS:      ptr(counter(dir, "memory.stat", "anon")),
			Cache:    ptr(counter(dir, "memory.stat", "file")),
			Usage:    ptr(number(dir, "memory.current")),
			MaxUsage: ptr(number(dir, "memory.peak")),
			Swap:     ptr(number(dir, "memory.swap.current")),
			User:     microseconds(counter(dir, "cpu.stat", "user_usec")),
			System:   microseconds(counter(dir, "cpu.stat", "system_usec")),

			ThrottledPeriods: ptr(counter(dir, "cpu.stat", "nr_throttled")),
			Throttled:        microseconds(counter(dir, "cpu.stat", "throttled_usec")),
		}
		return u, u.Usage != nil
	}
	return Usage{}, false
}

func ptr(n uint64, ok bool) *uint64 {
	if !ok {
		return nil
	}
	return &n
}

func nanoseconds(n uint64, ok bool) *time.Duration {
	if !ok {
		return nil
	}
	d := time.Duration(n)
	return &d
}

func microseconds(n uint64, ok bool) *time.Duration {
	return nanoseconds(n*1000, ok)
}
