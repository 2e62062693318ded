package nvml

import (
	"bufio"
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Host is what is asked about device files. Exists decides whether a zero Host
// is replaced by this machine.
type Host struct {
	// Exists reports whether a path is a character device.
	Exists func(path string) bool
	// ReadFile is for files below /proc; nil reads nothing.
	ReadFile func(path string) ([]byte, error)
}

// migMinorsPath lists the capability device of each GPU and compute instance.
const migMinorsPath = "/proc/driver/nvidia-caps/mig-minors"

// migMinors maps "gpu0/gi1/ci0/access" to the minor number of its device file.
// Without MIG there is no such file, and nothing in the map.
func (h Host) migMinors() map[string]int {
	if h.ReadFile == nil {
		return nil
	}
	content, err := h.ReadFile(migMinorsPath)
	if err != nil {
		return nil
	}
	return parseMIGMinors(content)
}

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
		if h.Exists(p) {
			there = append(there, p)
		}
	}
	return there
}
