package nvml

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/nvml/kernellog"
)

// Host is what is read beside NVML. The zero Host is this machine; one with
// Files is used as it is.
type Host struct {
	// Files are those of the machine, from its root folder on.
	Files fs.FS
	// IsDevice reports whether a path is a character device. Nil knows none.
	IsDevice func(path string) bool
	// KernelLog opens the kernel's log at its beginning. Nil is a machine
	// where it cannot be read.
	KernelLog func() (kernellog.Log, error)
	// Uptime is the time since the machine's start, by the clock of its kernel
	// log.
	Uptime func() time.Duration
}

// thisHost is the machine that the process runs on.
func thisHost() Host {
	return Host{
		Files: os.DirFS("/"),
		IsDevice: func(path string) bool {
			info, err := os.Stat(path)
			return err == nil && info.Mode()&os.ModeCharDevice != 0
		},
		KernelLog: func() (kernellog.Log, error) { return os.Open("/dev/kmsg") },
		Uptime: func() time.Duration {
			var now unix.Timespec
			if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
				return 0
			}
			return time.Duration(now.Nano())
		},
	}
}

// maxFileBytes bounds what is read of one file.
const maxFileBytes = 4 << 20

// file is the content of a file; nil if it cannot be read. The path is without
// its first slash.
func (h Host) file(path string) []byte {
	f, err := h.Files.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil
	}
	return content
}

// listedBoards are the bus IDs of the boards that the kernel's part of the
// driver has.
func (h Host) listedBoards() []string {
	names, err := fs.Glob(h.Files, "proc/driver/nvidia/gpus/*")
	if err != nil {
		return nil
	}
	return names
}

// libraryReplaced reports whether the library that this process has loaded is
// no longer on the disk, as after an upgrade of the driver. A process cannot
// load it anew: its calls are bound to the old one for good.
func (h Host) libraryReplaced() bool {
	for line := range strings.Lines(string(h.file("proc/self/maps"))) {
		if strings.Contains(line, "/libnvidia-ml.so") && strings.HasSuffix(strings.TrimSpace(line), " (deleted)") {
			return true
		}
	}
	return false
}

// migMinorsPath lists the capability device of each GPU and compute instance.
const migMinorsPath = "proc/driver/nvidia-caps/mig-minors"

// migMinors maps "gpu0/gi1/ci0/access" to the minor number of its device file.
// Without MIG there is no such file, and nothing in the map.
func (h Host) migMinors() map[string]int { return parseMIGMinors(h.file(migMinorsPath)) }

// parseMIGMinors reads lines of a name and a number, and skips others.
func parseMIGMinors(content []byte) map[string]int {
	minors := make(map[string]int)
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		name, number, ok := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(number)); err == nil && n >= 0 {
			minors[name] = n
		}
	}
	return minors
}

// boardNodes are the device files for a board, its own first.
func (h Host) boardNodes(minor int) []string {
	return h.existing(
		fmt.Sprintf("/dev/nvidia%d", minor),
		"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools",
	)
}

// sliceNodes are the capabilities that a MIG device needs beside its board's
// files.
func (h Host) sliceNodes(minors map[string]int, boardMinor, gpuInstance, computeInstance int) []string {
	instance := fmt.Sprintf("gpu%d/gi%d/", boardMinor, gpuInstance)
	var paths []string
	for _, name := range []string{instance + "access", fmt.Sprintf("%sci%d/access", instance, computeInstance)} {
		if n, ok := minors[name]; ok {
			paths = append(paths, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", n))
		}
	}
	return h.existing(paths...)
}

func (h Host) existing(paths ...string) []string {
	var there []string
	for _, p := range paths {
		if h.IsDevice != nil && h.IsDevice(p) {
			there = append(there, p)
		}
	}
	return there
}
