//go:build !linux

package artifact

import (
	"os"

	"golang.org/x/sys/unix"
)

func startWriteback(*os.File, int64, int64) {}

func syncFilesystem(*os.File) error {
	unix.Sync()
	return nil
}

func renameNew(oldpath, newpath string) error { return renameIfAbsent(oldpath, newpath) }
