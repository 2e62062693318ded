// Package cgroup puts a task's processes into control groups, version 1 or 2,
// so that they keep to their limits, can be counted, and end together.
//
// Who makes a Group removes it. A Group is plain data: store it, and use it
// again from another process. The zero Group stands for a machine without
// usable control groups; its methods do nothing and find nothing.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits is what a group is held to. Zero fields set nothing.
type Limits struct {
	// MemoryBytes is the hard limit, swap included: beyond it the kernel kills.
	MemoryBytes int64
	// MemoryLowBytes is what the group may keep when memory gets short.
	MemoryLowBytes int64
	// CPUShares is the weight against other groups, in MHz as Nomad gives it.
	CPUShares int64
}

// Group is a task's control group.
type Group struct {
	// Version is 1 or 2, or 0 for none.
	Version int `json:"version"`
	// Dirs are the group's folders: one for each controller in version 1, one
	// under the name "unified" in version 2.
	Dirs map[string]string `json:"dirs,omitempty"`
	// Guest are groups that the processes join and that belong to others, such
	// as the agent's for reserved cores.
	Guest []string `json:"guest,omitempty"`
	// Borrowed says that the agent made the folder and will remove it.
	Borrowed bool `json:"borrowed,omitempty"`
	// mounts is the host's, nil in a group that was stored.
	mounts map[string]mount
}

const unified = "unified"

// folders lists the group's folders without repeats.
func (g Group) folders() []string {
	var dirs []string
	for _, d := range g.Dirs {
		if !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// Start starts cmd inside the group. The caller must have locked its goroutine
// to its thread, for in version 1 it is the thread that enters the group, and
// leaves it after the start.
func (g Group) Start(cmd *exec.Cmd) error {
	switch g.Version {
	case 1:
		return g.startV1(cmd)
	case 2:
		dir, err := os.Open(g.Dirs[unified])
		if err != nil {
			return fmt.Errorf("opening the control group: %w", err)
		}
		defer dir.Close()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	return cmd.Start()
}

// Processes lists the group's processes, those of groups below it included.
func (g Group) Processes() []int {
	var pids []int
	for _, dir := range g.folders() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // gone meanwhile, or a file
			}
			pids = append(pids, readProcs(filepath.Join(path, "cgroup.procs"))...)
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Kill kills all processes of the group and returns when none is left. It
// returns an error if some are still there when ctx ends.
func (g Group) Kill(ctx context.Context) error {
	const pause = 20 * time.Millisecond // for the kernel to end what was killed
	for {
		pids := g.Processes()
		if len(pids) == 0 {
			return nil
		}
		g.killOnce(pids)
		select {
		case <-ctx.Done():
			if left := g.Processes(); len(left) > 0 {
				return fmt.Errorf("killing the processes of control group %s: %d are left, such as %d", g.folders()[0], len(left), left[0])
			}
			return nil
		case <-time.After(pause):
		}
	}
}

func (g Group) killOnce(pids []int) {
	if g.Version == 2 && os.WriteFile(filepath.Join(g.Dirs[unified], "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	// Frozen processes can't fork while they are being killed.
	thaw := g.freeze()
	defer thaw()
	pids = append(pids, g.Processes()...)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Remove removes the group, unless it is borrowed. The group must be empty;
// the kernel may take a moment to see that.
func (g Group) Remove(ctx context.Context) error {
	if g.Borrowed {
		return nil
	}
	var errs []error
	for _, dir := range g.folders() {
		errs = append(errs, removeTree(ctx, dir))
	}
	return errors.Join(errs...)
}

// removeTree removes a folder of control groups, the deepest first. Their
// files can't be removed and vanish with them.
func removeTree(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("removing control group %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("removing control group %s: %w", dir, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func readProcs(file string) []int {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

func writeFile(dir, name, value string) error {
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
		return fmt.Errorf("setting %s to %s: %w", filepath.Join(dir, name), value, err)
	}
	return nil
}

// counter reads a number from a file of "name value" lines.
func counter(dir, file, name string) (uint64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// number reads a file that holds one number.
func number(dir, file string) (uint64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
