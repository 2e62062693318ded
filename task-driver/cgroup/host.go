package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Host is what a machine has of control groups.
type Host struct {
	// Version is 1 or 2, or 0 if there are none to use.
	Version int
	// Reason says, for version 0, why.
	Reason string
	mounts map[string]mount
}

// mount is where a hierarchy is mounted; root is the part of it that is
// visible there, "/" but in some containers.
type mount struct{ point, root string }

// parent is the folder, in each hierarchy, that holds the groups of tasks.
const parent = "drover"

// Detect looks at what is mounted. It changes nothing.
func Detect() Host {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Host{Reason: err.Error()}
	}
	defer f.Close()
	h := Host{mounts: parseMounts(f)}
	h.choose()
	return h
}

// choose decides for the version that has the memory controller.
func (h *Host) choose() {
	if m, ok := h.mounts["memory"]; ok {
		if _, ok := h.mounts["freezer"]; !ok {
			h.Reason = "control groups of version 1 without the freezer controller"
			return
		}
		h.Version = 1
		h.check(m)
		return
	}
	m, ok := h.mounts[unified]
	if !ok {
		h.Reason = "no control groups are mounted"
		return
	}
	b, err := os.ReadFile(filepath.Join(m.point, "cgroup.controllers"))
	if err != nil {
		h.Reason = err.Error()
		return
	}
	if have := strings.Fields(string(b)); !slices.Contains(have, "memory") || !slices.Contains(have, "cpu") {
		h.Reason = "control groups of version 2 without the memory and cpu controllers"
		return
	}
	if occupied(m.point) {
		h.Reason = "control groups of version 2 whose top has processes and doesn't share out memory and cpu"
		return
	}
	h.Version = 2
	h.check(m)
}

// occupied reports whether groups of version 2 can have no limits below a
// folder, because there are processes in it. Only the true root may have both.
func occupied(top string) bool {
	if _, err := os.Stat(filepath.Join(top, "cgroup.type")); err != nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(top, "cgroup.subtree_control"))
	if have := strings.Fields(string(b)); err == nil && slices.Contains(have, "memory") && slices.Contains(have, "cpu") {
		return false
	}
	return len(readProcs(filepath.Join(top, "cgroup.procs"))) > 0
}

func (h *Host) check(m mount) {
	if err := writable(m.point); err != nil {
		h.Version, h.Reason = 0, err.Error()
	}
}

// Controllers lists what limits this host can set, for people.
func (h Host) Controllers() []string {
	switch h.Version {
	case 1:
		var have []string
		for _, c := range v1Controllers {
			if _, ok := h.mounts[c]; ok {
				have = append(have, c)
			}
		}
		return have
	case 2:
		return []string{"memory", "cpu"}
	}
	return nil
}

// Create makes a group by name, or takes up the one that is there. Client is
// the control group that the agent made for the task, "" for none.
func (h Host) Create(name, client string, l Limits) (Group, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\n") {
		return Group{}, fmt.Errorf("%q is no name for a control group", name)
	}
	switch h.Version {
	case 1:
		return h.createV1(name, client, l)
	case 2:
		return h.createV2(name, client, l)
	}
	return Group{}, nil
}

// parentShares is the weight of all tasks together against the rest of the
// machine. With that of a single group, which is the default, many tasks would
// get no more than one service.
func parentShares() int64 { return 1024 * int64(runtime.NumCPU()) }

func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making control group %s: %w", dir, err)
	}
	return nil
}

// parseMounts reads /proc/self/mountinfo.
func parseMounts(r io.Reader) map[string]mount {
	mounts := map[string]mount{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 5 || len(t) < 3 {
			continue
		}
		m := mount{root: unescape(f[3]), point: unescape(f[4])}
		switch t[0] {
		case "cgroup2":
			mounts[unified] = m
		case "cgroup":
			for option := range strings.SplitSeq(t[2], ",") {
				if slices.Contains(v1Controllers, option) || option == "cpuset" {
					mounts[option] = m
				}
			}
		}
	}
	return mounts
}

// unescape undoes the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
