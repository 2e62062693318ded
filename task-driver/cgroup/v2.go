package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func (h Host) createV2(name, client string, l Limits) (Group, error) {
	root := h.mounts[unified].point
	g := Group{Version: 2, Dirs: map[string]string{}}
	if strings.HasPrefix(client, root+"/") {
		if _, err := os.Stat(filepath.Join(client, "cgroup.procs")); err == nil {
			g.Dirs[unified], g.Borrowed = client, true
			return g, g.limitV2(l)
		}
	}
	above := filepath.Join(root, parent)
	if err := writeFile(root, "cgroup.subtree_control", "+memory +cpu"); err != nil {
		return Group{}, err
	}
	if err := mkdir(above); err != nil {
		return Group{}, err
	}
	if err := writeFile(above, "cgroup.subtree_control", "+memory +cpu"); err != nil {
		return Group{}, err
	}
	if err := writeFile(above, "cpu.weight", strconv.FormatInt(weight(parentShares()), 10)); err != nil {
		return Group{}, err
	}
	g.Dirs[unified] = filepath.Join(above, name)
	if err := mkdir(g.Dirs[unified]); err != nil {
		return Group{}, err
	}
	return g, g.limitV2(l)
}

func (g Group) limitV2(l Limits) error {
	dir := g.Dirs[unified]
	if l.MemoryBytes > 0 {
		if err := writeFile(dir, "memory.max", strconv.FormatInt(l.MemoryBytes, 10)); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(dir, "memory.swap.max")); err == nil {
			if err := writeFile(dir, "memory.swap.max", "0"); err != nil {
				return err
			}
		}
	}
	if l.MemoryLowBytes > 0 {
		if err := writeFile(dir, "memory.low", strconv.FormatInt(l.MemoryLowBytes, 10)); err != nil {
			return err
		}
	}
	if l.CPUShares > 0 {
		return writeFile(dir, "cpu.weight", strconv.FormatInt(weight(l.CPUShares), 10))
	}
	return nil
}

// weight maps version 1's shares, 2 to 262144, to version 2's weight, 1 to
// 10000, as systemd and container runtimes do.
func weight(shares int64) int64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}
