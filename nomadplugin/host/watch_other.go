//go:build !linux

package host

import "os"

func watch(proc *os.Process) (chan struct{}, error) { return watchBySignal(proc) }
