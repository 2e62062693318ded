package sysfs

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// address is how the kernel writes a PCI device's place: domain, bus, device
// and function.
var address = regexp.MustCompile(`^([0-9a-f]{4,8}):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$`)

// busID is the bus ID of the PCI device that a path leads through last, in the
// NVIDIA driver's form; "" if it leads through none.
func busID(at string) string {
	for ; inside(at); at = path.Dir(at) {
		if m := address.FindStringSubmatch(path.Base(at)); m != nil {
			domain, _ := strconv.ParseUint(m[1], 16, 32) // it is a number by the expression
			return fmt.Sprintf("%08X:%s", domain, strings.ToUpper(m[2]))
		}
	}
	return ""
}

// location is where a PCI device is below devices/: its host bridge, the
// bridges on the way, and itself last; "" if it is not there.
func location(root fs.FS, busID string) string {
	m := address.FindStringSubmatch(strings.ToLower(busID))
	if m == nil {
		return ""
	}
	domain, _ := strconv.ParseUint(m[1], 16, 32) // it is a number by the expression
	return resolve(root, fmt.Sprintf("bus/pci/devices/%04x:%s", domain, m[2]))
}

// numaNode is the node of the device at a path, or of what it hangs on; nil if
// unknown.
func numaNode(root fs.FS, at string) *int {
	for ; inside(at); at = path.Dir(at) {
		content := text(root, at, "numa_node")
		if content == "" {
			continue
		}
		if n, err := strconv.Atoi(content); err == nil && n >= 0 {
			return &n
		}
		return nil
	}
	return nil
}

// inside reports whether a path has a name left to look at.
func inside(at string) bool { return at != "" && at != "." && at != "/" }
