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

func cloneFile(dst, src *os.File) bool { return false }

func renameNew(folder *os.Root, _ *os.File, oldname, newname string) error {
	return renameIfAbsent(folder, oldname, newname)
}
