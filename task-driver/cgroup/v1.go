package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// v1Controllers are the controllers of version 1 in which tasks get a group,
// where they are mounted.
var v1Controllers = []string{"memory", "cpu", "cpuacct", "freezer", "devices"}

func (h Host) createV1(name, client string, l Limits) (Group, error) {
	g := Group{Version: 1, Dirs: map[string]string{}, mounts: h.mounts}
	for _, c := range v1Controllers {
		m, ok := h.mounts[c]
		if !ok {
			continue
		}
		above := filepath.Join(m.point, parent)
		if err := mkdir(above); err != nil {
			return Group{}, err
		}
		g.Dirs[c] = filepath.Join(above, name)
		if err := mkdir(g.Dirs[c]); err != nil {
			return Group{}, err
		}
	}
	if m, ok := h.mounts["cpu"]; ok {
		if err := writeFile(filepath.Join(m.point, parent), "cpu.shares", strconv.FormatInt(parentShares(), 10)); err != nil {
			return Group{}, err
		}
	}
	// The agent's group is one of cpuset, made for the cores of the task.
	if m, ok := h.mounts["cpuset"]; ok && strings.HasPrefix(client, m.point+"/") {
		if _, err := os.Stat(filepath.Join(client, "tasks")); err == nil {
			g.Guest = []string{client}
		}
	}
	return g, g.limitV1(l)
}

func (g Group) limitV1(l Limits) error {
	if dir := g.Dirs["memory"]; l.MemoryBytes > 0 {
		limit := strconv.FormatInt(l.MemoryBytes, 10)
		if err := setMemoryV1(dir, limit); err != nil {
			return err
		}
		if l.MemoryLowBytes > 0 {
			if err := writeFile(dir, "memory.soft_limit_in_bytes", strconv.FormatInt(l.MemoryLowBytes, 10)); err != nil {
				return err
			}
		}
	}
	if dir, ok := g.Dirs["cpu"]; ok && l.CPUShares > 0 {
		if err := writeFile(dir, "cpu.shares", strconv.FormatInt(max(l.CPUShares, 2), 10)); err != nil {
			return err
		}
	}
	return nil
}

// setMemoryV1 sets the limit of memory and of memory with swap, which must
// never be the smaller one: when a group is taken up again with a larger limit,
// the second has to be raised first.
func setMemoryV1(dir, limit string) error {
	swap := "memory.memsw.limit_in_bytes"
	_, err := os.Stat(filepath.Join(dir, swap))
	accounted := err == nil // by a kernel option
	err = writeFile(dir, "memory.limit_in_bytes", limit)
	if err != nil && accounted {
		if err := writeFile(dir, swap, limit); err != nil {
			return err
		}
		err = writeFile(dir, "memory.limit_in_bytes", limit)
	}
	if err == nil && accounted {
		err = writeFile(dir, swap, limit)
	}
	return err
}

// startV1 moves this thread into the group, starts cmd, which inherits that,
// and moves the thread back.
func (g Group) startV1(cmd *exec.Cmd) (err error) {
	home, err := g.home()
	if err != nil {
		return err
	}
	defer func() {
		for _, dir := range home {
			if lerr := writeFile(dir, "tasks", "0"); lerr != nil && err == nil {
				// A thread left behind would be killed with the task.
				err = fmt.Errorf("leaving the task's control group: %w", lerr)
			}
		}
		if err != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	for _, dir := range append(g.folders(), g.Guest...) {
		if err := writeFile(dir, "tasks", "0"); err != nil {
			return fmt.Errorf("entering the task's control group: %w", err)
		}
	}
	return cmd.Start()
}

// home lists this thread's own folders in the hierarchies that the group is in.
func (g Group) home() ([]string, error) {
	mounts := g.mounts
	if mounts == nil { // a group that was stored
		mounts = Detect().mounts
	}
	b, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("finding the own control groups: %w", err)
	}
	var dirs []string
	for line := range bytes.Lines(b) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		controller, _, _ := strings.Cut(f[1], ",")
		m, ok := mounts[controller]
		if !ok {
			continue
		}
		path := f[2]
		if m.root != "/" {
			path = strings.TrimPrefix(path, m.root)
		}
		if dir := filepath.Join(m.point, path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// freeze stops the group's processes as far as it can in a moment, and returns
// what lets them go on.
func (g Group) freeze() (thaw func()) {
	file, frozen, thawed := filepath.Join(g.Dirs["freezer"], "freezer.state"), "FROZEN", "THAWED"
	state, want := file, frozen
	if g.Version == 2 {
		file, frozen, thawed = filepath.Join(g.Dirs[unified], "cgroup.freeze"), "1", "0"
		state, want = filepath.Join(g.Dirs[unified], "cgroup.events"), "frozen 1"
	}
	if os.WriteFile(file, []byte(frozen), 0) != nil {
		return func() {}
	}
	for deadline := time.Now().Add(100 * time.Millisecond); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(state); err != nil || bytes.Contains(b, []byte(want)) {
			break
		}
	}
	return func() { _ = os.WriteFile(file, []byte(thawed), 0) }
}

func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fmt.Errorf("control groups at %s can't be written: %w", dir, err)
	}
	return nil
}
