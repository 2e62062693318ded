package process

import (
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of times in /proc, which is the same on every Linux
// architecture that Go knows.
const clockTick = time.Second / 100

// Descendants lists the processes below one, in no particular order. A process
// whose parents are gone is below its nearest living subreaper.
func Descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range all() {
		if s, err := readStat(p); err == nil {
			children[s.parent] = append(children[s.parent], p)
		}
	}
	var below []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		below = append(below, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return below
}

// WithEnv lists the processes that were started with NAME=value in their
// environment.
func WithEnv(assignment string) []int {
	var found []int
	for _, p := range all() {
		for _, kv := range Environ(p) {
			if kv == assignment {
				found = append(found, p)
				break
			}
		}
	}
	return found
}

// Environ is the environment with which a process was started, nil if that
// can't be read.
func Environ(pid int) []string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return nil
	}
	var env []string
	for len(b) > 0 {
		i := 0
		for i < len(b) && b[i] != 0 {
			i++
		}
		env = append(env, string(b[:i]))
		if i == len(b) {
			break
		}
		b = b[i+1:]
	}
	return env
}

// Usage is what processes use now, and have used.
type Usage struct {
	User, System time.Duration
	RSSBytes     uint64
}

// UsageOf adds up the usage of processes. Those that have ended meanwhile, and
// what ended processes used, are not counted.
func UsageOf(pids []int) Usage {
	var u Usage
	for _, p := range pids {
		s, err := readStat(p)
		if err != nil {
			continue
		}
		u.User += time.Duration(s.user) * clockTick
		u.System += time.Duration(s.system) * clockTick
		u.RSSBytes += uint64(max(s.rssPages, 0)) * uint64(os.Getpagesize())
	}
	return u
}

func all() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
