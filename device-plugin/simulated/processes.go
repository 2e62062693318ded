package simulated

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// processTable finds the processes of this host that were given simulated
// GPUs: those whose environment names one. It looks when it is asked, at most
// once a second, and reads of most processes nothing: an environment seldom
// changes.
type processTable struct {
	root string // /proc, but for tests
	now  func() time.Time

	mu     sync.Mutex
	looked time.Time
	round  int
	known  map[int]seenProcess
	users  []user
	buffer []byte // for environments
}

// user is a process on a device.
type user struct {
	pid    int
	device gpu.ID
}

// seenProcess is what a process's environment said.
type seenProcess struct {
	since   time.Time // first seen
	round   int       // last seen
	devices []gpu.ID
}

const (
	lookEvery = time.Second
	// A new process takes over its parent's environment until it executes its
	// program, so the environment of a young one is read again.
	settleAfter = 5 * time.Second
	// Numbers are used again: everybody is asked again after so many looks.
	askEvery = 30
	// maxEnvironment is how much of an environment is read.
	maxEnvironment = 256 << 10
)

// on lists who uses which device.
func (t *processTable) on() []user {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.round > 0 && now.Sub(t.looked) < lookEvery && !now.Before(t.looked) {
		return t.users
	}
	t.look(now)
	return t.users
}

// fresh lists who uses which device right now.
func (t *processTable) fresh() []user {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look(t.now())
	return t.users
}

func (t *processTable) look(now time.Time) {
	t.looked = now
	t.round++
	dir, err := os.Open(t.root)
	if err != nil {
		t.users = nil
		return
	}
	names, _ := dir.Readdirnames(-1) // what could be read is what there is
	dir.Close()
	if t.buffer == nil {
		t.buffer, t.known = make([]byte, maxEnvironment), make(map[int]seenProcess, len(names))
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, old := t.known[pid]
		if !old {
			p.since = now
		}
		if !old || now.Sub(p.since) < settleAfter || (pid+t.round)%askEvery == 0 {
			p.devices = t.devicesOf(name, t.buffer)
		}
		p.round = t.round
		t.known[pid] = p
	}
	maps.DeleteFunc(t.known, func(_ int, p seenProcess) bool { return p.round != t.round })
	t.users = t.roots()
}

// roots are the users of which no ancestor that is a user too was given the
// same device: a program, not the helpers that it starts.
func (t *processTable) roots() []user {
	var users []user
	for pid, p := range t.known {
		if len(p.devices) == 0 {
			continue
		}
		parent := t.known[t.parentOf(pid)]
		for _, d := range p.devices {
			if !slices.Contains(parent.devices, d) {
				users = append(users, user{pid, d})
			}
		}
	}
	slices.SortFunc(users, func(a, b user) int { return a.pid - b.pid })
	return users
}

// devicesOf are the devices that a process was given. A process of somebody
// else was given none, as far as we are allowed to see.
func (t *processTable) devicesOf(pid string, buffer []byte) []gpu.ID {
	f, err := os.Open(filepath.Join(t.root, pid, "environ"))
	if err != nil {
		return nil
	}
	defer f.Close()
	n, err := io.ReadFull(f, buffer)
	if err != nil && n == 0 {
		return nil
	}
	var devices []gpu.ID
	environment := buffer[:n]
	// Most have none, and are told apart without taking them to pieces.
	if !bytes.Contains(environment, []byte(visibleDevices)) {
		return nil
	}
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		name, value, _ := bytes.Cut(variable, []byte("="))
		if !bytes.HasSuffix(name, []byte(visibleDevices)) {
			continue
		}
		for id := range bytes.SplitSeq(value, []byte(",")) {
			id := gpu.ID(bytes.TrimSpace(id))
			if id != "" && !slices.Contains(devices, id) {
				devices = append(devices, id)
			}
		}
	}
	return devices
}

// visibleDevices ends the names NVIDIA_VISIBLE_DEVICES and
// CUDA_VISIBLE_DEVICES.
const visibleDevices = "A_VISIBLE_DEVICES"

// parentOf is a process's parent, 0 if it cannot be told.
func (t *processTable) parentOf(pid int) int {
	stat, err := os.ReadFile(filepath.Join(t.root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The command, in parentheses, may have anything in it.
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	if !ok {
		return 0
	}
	fields := bytes.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}
