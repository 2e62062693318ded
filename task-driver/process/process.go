// Package process names, awaits and signals processes although their PIDs are
// reused. A PID alone is never enough here: after a reboot, or after a busy
// day, it belongs to somebody else.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process has ended, or never was on this boot.
var ErrGone = errors.New("the process is gone")

// ID identifies one process for good.
type ID struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks after the boot.
	Start uint64 `json:"start"`
	// Boot is the kernel's random ID of the boot.
	Boot string `json:"boot"`
}

func (id ID) String() string { return fmt.Sprintf("process %d", id.PID) }

// Of identifies the process that has a PID now.
func Of(pid int) (ID, error) {
	s, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	boot, err := BootID()
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: s.start, Boot: boot}, nil
}

// BootID is the ID of this boot of the machine.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot ID: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// Alive reports whether the process still runs. A process that has exited but
// was not yet reaped by its parent does not.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	if boot, err := BootID(); err != nil || boot != id.Boot {
		return false
	}
	s, err := readStat(id.PID)
	return err == nil && s.start == id.Start && s.state != 'Z' && s.state != 'X'
}

// Vanished reports whether the process ended on this boot and no other process
// has its PID: then the record of it is no older than the machine's memory.
func (id ID) Vanished() bool {
	if boot, err := BootID(); err != nil || boot != id.Boot || id.PID <= 0 {
		return false
	}
	s, err := readStat(id.PID)
	return errors.Is(err, ErrGone) || err == nil && s.start == id.Start && !id.Alive()
}

// Signal sends a signal to the process, or returns ErrGone.
func (id ID) Signal(sig syscall.Signal) error {
	fd, err := id.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return gone(unix.PidfdSendSignal(fd, sig, nil, 0))
}

// Catches reports whether the process handles a signal, so that it is safe to
// send one that would end a process that does not.
func (id ID) Catches(sig syscall.Signal) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(id.PID) + "/status")
	if err != nil || !id.Alive() {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && bits&(1<<(sig-1)) != 0
		}
	}
	return false
}

// SignalGroup sends a signal to the process group that the process leads, or
// returns ErrGone if the leader is.
func (id ID) SignalGroup(sig syscall.Signal) error {
	if !id.Alive() {
		return ErrGone
	}
	return gone(unix.Kill(-id.PID, sig))
}

// Wait returns nil when the process has ended, however that is known; it need
// not be a child. It returns ctx's error if ctx ends first.
func (id ID) Wait(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	// A non-blocking file goes to the runtime's poller, so that waiting for a
	// thousand tasks takes no thread.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("awaiting %v: %w", id, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("awaiting %v: %w", id, err)
	}
	err = conn.Read(func(fd uintptr) bool {
		n, perr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return perr == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// open returns a pidfd of the process.
func (id ID) open() (int, error) {
	if !id.Alive() {
		return 0, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return 0, gone(err)
	}
	// The PID may have changed hands before the open, but not after it.
	if !id.Alive() {
		unix.Close(fd)
		return 0, ErrGone
	}
	return fd, nil
}

// CheckKernel reports whether the kernel has what this package needs.
func CheckKernel() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w (Linux 5.3 or newer is needed)", err)
	}
	return unix.Close(fd)
}

func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// stat is what is used of /proc/<pid>/stat.
type stat struct {
	state        byte
	parent       int
	start        uint64
	user, system uint64 // clock ticks
	rssPages     int64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return stat{}, ErrGone
		}
		return stat{}, err
	}
	return parseStat(string(b))
}

// parseStat reads the fields after the command's name, which is in parentheses
// and may itself hold spaces and parentheses.
func parseStat(line string) (stat, error) {
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return stat{}, errors.New("stat line of a process without a name")
	}
	f := strings.Fields(line[i+1:])
	const first = 3 // the number, in proc(5), of the field f[0]
	if len(f) <= 24-first {
		return stat{}, fmt.Errorf("stat line of a process with %d fields", len(f)+first-1)
	}
	if s := f[0]; len(s) != 1 || !strings.Contains("RSDZTtWXxKPI", s) {
		return stat{}, fmt.Errorf("stat line of a process in state %q", s)
	}
	var s stat
	s.state = f[0][0]
	var err error
	number := func(field int) uint64 {
		v, perr := strconv.ParseUint(f[field-first], 10, 64)
		err = errors.Join(err, perr)
		return v
	}
	s.parent = int(number(4))
	s.user = number(14)
	s.system = number(15)
	s.start = number(22)
	s.rssPages = int64(number(24))
	return s, err
}
