package artifact

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback asks the kernel to begin writing [off, off+n) of f to disk,
// so that the sync at the end finds little left to do. Whether it did does not
// matter to anyone.
func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// syncFilesystem makes all that was written to f's file system durable. f
// must have been opened before those writes, for their errors to be seen.
func syncFilesystem(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// cloneFile makes dst share all blocks of src, if the file system can.
func cloneFile(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// renameNew renames inside a folder, open twice, without replacing what has
// the new name.
func renameNew(folder *os.Root, open *os.File, oldname, newname string) error {
	fd := int(open.Fd())
	err := unix.Renameat2(fd, oldname, fd, newname, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return renameIfAbsent(folder, oldname, newname) // the file system cannot
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	return nil
}
