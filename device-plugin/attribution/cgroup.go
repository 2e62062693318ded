package attribution

import (
	"bytes"
	"net/url"
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

// parseCgroup finds the control group of a task in the lines
// "<n>:<controllers>:<path>". The task may have made more below it, with any
// name, so the first on the way down counts; and users of the machine may make
// some below theirs.
func parseCgroup(b []byte) Task {
	for line := range bytes.Lines(b) {
		parts := strings.SplitN(strings.TrimRight(string(line), "\n"), ":", 3)
		if len(parts) != 3 || strings.HasPrefix(parts[2], "/user.slice/") {
			continue
		}
		above := ""
		for name := range strings.SplitSeq(parts[2], "/") {
			if t := taskOf(name, above); t.Alloc != "" {
				return t
			}
			above = name
		}
	}
	return Task{}
}

// taskOf is the task that a control group is named after. Nomad calls it
// <allocation>.<task>.scope with version 2, and <allocation>.<task> with
// version 1. Where Nomad makes none, Drover's driver makes
// drover/<allocation>%2F<task>%2F<start>.
func taskOf(name, above string) Task {
	alloc, task, ok := strings.Cut(strings.TrimSuffix(name, ".scope"), ".")
	if above == "drover" && strings.Contains(name, "%2F") {
		id, err := url.PathUnescape(name)
		if err != nil {
			return Task{}
		}
		alloc, task, ok = strings.Cut(id, "/")
		task, _, _ = strings.Cut(task, "/")
	}
	if !ok || task == "" || !isUUID(alloc) {
		return Task{}
	}
	return Task{Alloc: alloc, Task: clean([]byte(task))}
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
