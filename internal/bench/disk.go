package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// diskFolder makes a temporary folder on a disk: in memory, a sync costs
// nothing and durability means nothing. The caller removes it.
func diskFolder() (string, error) {
	dir, err := os.MkdirTemp("", "drover-bench")
	if err != nil {
		return "", err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		_ = os.Remove(dir)
		return "", fmt.Errorf("asking what file system %s is on: %w", dir, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		_ = os.Remove(dir)
		return "", fmt.Errorf("%s is in memory: set TMPDIR to a folder on a disk", dir)
	}
	return dir, nil
}
