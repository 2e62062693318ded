// Package attribution tells which Nomad task a process belongs to.
//
// Two things know: the control group that Nomad keeps a task's processes in,
// which is named after allocation and task, and the environment that Nomad
// starts a task with. A process can start another with any environment, but
// not leave its control group, so the control group decides, and an
// environment counts only if it agrees. Where there is no control group of
// Nomad's (containers have those of their runtime), the environment of the
// process decides, or that of the nearest ancestor which has one.
//
// Of an environment nothing is kept but the variables that name the task.
package attribution

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Task names a task of a Nomad allocation. "" is unknown; Alloc is always
// known, except in the zero Task, which is none.
type Task struct {
	Alloc     string // the allocation's ID
	Task      string
	Job       string // the job's ID
	Namespace string
	Workspace string // Drover's, of jobs that Drover runs
}

// Config is where a Finder looks.
type Config struct {
	// Proc is the proc file system; "" is /proc.
	Proc string
}

// Bounds on what one look costs.
const (
	maxProcesses = 4096 // of one call; more are not attributed
	maxAncestors = 16   // of one process
	maxValue     = 256  // bytes of a name; more are cut off
)

// Finder finds the tasks of processes. It is not safe for concurrent use.
type Finder struct {
	proc string
	// known are the attributed processes of the last call.
	known map[process]Task
	buf   []byte
}

// process is a process for good: PIDs are used again.
type process struct {
	pid   int
	start uint64 // clock ticks after the boot
}

// New makes a Finder.
func New(c Config) *Finder {
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	return &Finder{proc: c.Proc}
}

// Tasks finds the tasks of processes. Those that are of no task, or have
// ended, are not in the answer; helpers of the driver, which are of no task
// and no strangers either, are with the zero Task. What it finds is remembered
// as long as a process is in every call; what it doesn't find is looked for
// again, since a process may join a control group after its start.
func (f *Finder) Tasks(pids []int) map[int]Task {
	found := make(map[int]Task)
	known := make(map[process]Task)
	for _, pid := range pids[:min(len(pids), maxProcesses)] {
		if _, done := found[pid]; done {
			continue
		}
		start, _, err := f.stat(pid)
		if err != nil {
			continue
		}
		p := process{pid, start}
		t, ok := f.known[p]
		if !ok {
			if t, ok = f.find(pid); !ok {
				ok = f.helps(pid)
			}
		}
		// The PID may have changed hands while its files were read.
		if again, _, err := f.stat(pid); !ok || err != nil || again != start {
			continue
		}
		found[pid], known[p] = t, t
	}
	f.known = known
	return found
}

// helps reports whether a process is NVIDIA's MPS server, which works on behalf
// of its clients. The kernel cuts names off after 15 bytes.
func (f *Finder) helps(pid int) bool {
	b, err := f.read(pid, "comm", 32)
	return err == nil && string(bytes.TrimSpace(b)) == "nvidia-cuda-mps"
}

// find looks at a process and, as far as need be, at its ancestors: shells
// don't pass on variables with a dot in their names, as that of the workspace
// has, and many programs clear their environment.
func (f *Finder) find(pid int) (Task, bool) {
	group, _ := f.group(pid)
	best := group
	for range maxAncestors {
		env, err := f.environ(pid)
		if err == nil && env.Alloc != "" && (best.Alloc == "" || best.Alloc == env.Alloc && best.Task == env.Task) {
			best = best.With(env)
			if best.Workspace != "" {
				break
			}
		}
		_, parent, err := f.stat(pid)
		if err != nil || parent <= 1 {
			break
		}
		if g, _ := f.group(parent); g != group && group.Alloc != "" {
			break // the parent is outside of the task
		}
		pid = parent
	}
	return best, best.Alloc != ""
}

// With fills what is unknown of a task from another account of it.
func (t Task) With(o Task) Task {
	return Task{
		Alloc: cmp.Or(t.Alloc, o.Alloc), Task: cmp.Or(t.Task, o.Task), Job: cmp.Or(t.Job, o.Job),
		Namespace: cmp.Or(t.Namespace, o.Namespace), Workspace: cmp.Or(t.Workspace, o.Workspace),
	}
}

// stat is when a process started, and its parent.
func (f *Finder) stat(pid int) (start uint64, parent int, err error) {
	b, err := f.read(pid, "stat", 4096)
	if err != nil {
		return 0, 0, err
	}
	return parseStat(b)
}

// parseStat reads a stat file: "PID (command) state parent ...". A command
// may hold anything, parentheses too.
func parseStat(b []byte) (start uint64, parent int, err error) {
	const afterParent, beforeStart = 2, 19
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= beforeStart {
		return 0, 0, errors.New("not the stat file of a process")
	}
	if parent, err = strconv.Atoi(string(fields[afterParent-1])); err != nil {
		return 0, 0, fmt.Errorf("the parent's PID: %w", err)
	}
	if start, err = strconv.ParseUint(string(fields[beforeStart]), 10, 64); err != nil {
		return 0, 0, fmt.Errorf("the start time: %w", err)
	}
	return start, parent, nil
}

// read reads at most limit bytes of a file of a process. The next call
// overwrites what it returns.
func (f *Finder) read(pid int, name string, limit int) ([]byte, error) {
	file, err := f.open(pid, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f.buf = slices.Grow(f.buf[:0], limit)[:limit]
	n, err := io.ReadFull(file, f.buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading %s of process %d: %w", name, pid, err)
	}
	return f.buf[:n], nil
}

func (f *Finder) open(pid int, name string) (fs.File, error) {
	file, err := os.Open(filepath.Join(f.proc, strconv.Itoa(pid), name))
	if err != nil {
		return nil, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	return file, nil
}

// clean makes a name fit to be shown: valid text of a bounded length.
func clean(b []byte) string {
	if len(b) > maxValue {
		b = b[:maxValue]
		for len(b) > 0 && !utf8.RuneStart(b[len(b)-1]) {
			b = b[:len(b)-1]
		}
		if r, size := utf8.DecodeLastRune(b); r == utf8.RuneError && size == 1 {
			b = b[:len(b)-1]
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
