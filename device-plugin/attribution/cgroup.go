package attribution

import (
	"bytes"
	"strings"
)

// maxCgroup bounds what is read of a process's control groups: some twelve
// lines, each with a path.
const maxCgroup = 64 << 10

// group is the task whose control group a process is in. Of it only the
// allocation and the task are known.
func (f *Finder) group(pid int) (Task, error) {
	b, err := f.read(pid, "cgroup", maxCgroup)
	if err != nil {
		return Task{}, err
	}
	return parseCgroup(b), nil
}

// parseCgroup finds Nomad's control group of a task in the lines
// "<n>:<controllers>:<path>". Nomad makes
// /nomad.slice/share.slice/<allocation>.<task>.scope (or reserve.slice, with
// reserved cores) with version 2, and <parent>/<allocation>.<task> with
// version 1. The task may have made more below it.
func parseCgroup(b []byte) Task {
	for line := range bytes.Lines(b) {
		parts := strings.SplitN(strings.TrimRight(string(line), "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[2], "/") {
			alloc, task, ok := strings.Cut(strings.TrimSuffix(name, ".scope"), ".")
			if ok && task != "" && isUUID(alloc) {
				return Task{Alloc: alloc, Task: clean([]byte(task))}
			}
		}
	}
	return Task{}
}

// isUUID reports whether s has the form of an allocation's ID.
func isUUID(s string) bool {
	if len(s) != len("00000000-0000-0000-0000-000000000000") {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
