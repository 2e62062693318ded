package artifact

import (
	"io/fs"
	"os"
)

// syncDir makes the names in a folder durable. It costs next to nothing when
// they already are.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func renameIfAbsent(folder *os.Root, oldname, newname string) error {
	if _, err := folder.Lstat(newname); err == nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: fs.ErrExist}
	}
	return folder.Rename(oldname, newname)
}
