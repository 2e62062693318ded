package host

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// watch returns a channel that is closed when a process that need not be a
// child ends.
func watch(proc *os.Process) (chan struct{}, error) {
	fd, err := unix.PidfdOpen(proc.Pid, 0)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return watchBySignal(proc)
		}
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	gone := make(chan struct{})
	go func() {
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && err != unix.EINTR {
				close(gone)
				return
			}
		}
	}()
	return gone, nil
}
