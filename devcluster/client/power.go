package client

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// PowerOff ends the node as a power failure does: plugins, supervisors, tasks
// and log collection are killed at once, and nothing is told to the server.
// What is on its disk stays.
func (n *Node) PowerOff() {
	n.link.set(true)
	pids := n.processes()
	n.cancel() // before plugins are launched anew
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	n.Stop()
	// What was being started meanwhile.
	for _, pid := range n.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes finds all that runs because of this node: what has its mark in
// its environment or its folder in its arguments, and the children of those.
func (n *Node) processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := []byte(MarkEnv + "=" + n.cfg.Dir + "\x00")
	parents, ours := map[int]int{}, map[int]bool{}
	if pid := n.logs.pid(); pid > 0 {
		ours[pid] = true
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		parents[pid] = parentOf(pid)
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if bytes.Contains(append([]byte{0}, env...), append([]byte{0}, mark...)) || bytes.Contains(args, []byte(n.cfg.Dir+"/")) {
			ours[pid] = true
		}
	}
	for again := true; again; {
		again = false
		for pid, parent := range parents {
			if ours[parent] && !ours[pid] {
				ours[pid], again = true, true
			}
		}
	}
	var pids []int
	for pid := range ours {
		pids = append(pids, pid)
	}
	return pids
}

func parentOf(pid int) int {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything: fields count from its end.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(string(fields[1]))
	return ppid
}
