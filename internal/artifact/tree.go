package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// tree is a file or folder about to be read.
type tree struct {
	root     *os.Root // the folder, or the one that the file is in
	name     string   // of the file in root; "" for a folder
	info     fs.FileInfo
	opts     putOptions
	dirs     []string // all folders, parents first
	manifest Manifest // without sizes and sums
}

func (t *tree) close() {
	if t.name == "" {
		t.root.Close()
	}
}

var errReplaced = errors.New("it was replaced while it was read")

// scan lists what is to be read and refuses what cannot be.
func scan(parent *os.Root, name string, opts []PutOption) (*tree, error) {
	var o putOptions
	for _, opt := range opts {
		opt(&o)
	}
	fi, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	m := Manifest{Version: manifestVersion}
	switch {
	case fi.Mode().IsRegular():
		m.Kind, m.Files = KindFile, []Entry{{Path: ".", Mode: modeOf(fi)}}
		return &tree{root: parent, name: name, info: fi, opts: o, manifest: m}, nil
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("it is a symbolic link: name what it leads to")
	case !fi.IsDir():
		return nil, fmt.Errorf("it is neither a file nor a folder but %s", fi.Mode().Type())
	}
	m.Kind = KindDir
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root, info: fi, opts: o, manifest: m}
	// The name may have become a link since it was looked at.
	now, err := root.Stat(".")
	if err == nil && !os.SameFile(fi, now) {
		err = errReplaced
	}
	if err == nil {
		err = t.scanDir(".")
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	slices.SortFunc(t.manifest.Files, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	slices.Sort(t.manifest.Dirs)
	return t, nil
}

func (t *tree) scanDir(dir string) error {
	t.dirs = append(t.dirs, dir)
	f, err := t.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	empty := true
	for _, e := range entries {
		rel := path.Join(dir, e.Name())
		if t.opts.skip != nil && t.opts.skip(rel) {
			continue
		}
		empty = false
		if err := t.scanEntry(rel, e); err != nil {
			return err
		}
	}
	if empty && dir != "." {
		t.manifest.Dirs = append(t.manifest.Dirs, dir)
	}
	return nil
}

func (t *tree) scanEntry(rel string, e fs.DirEntry) error {
	if !utf8.ValidString(rel) {
		return fmt.Errorf("the name %q is not valid UTF-8 text: rename it", rel)
	}
	switch {
	case e.IsDir():
		return t.scanDir(rel)
	case e.Type().IsRegular():
		fi, err := e.Info()
		if err != nil {
			return err
		}
		t.manifest.Files = append(t.manifest.Files, Entry{Path: rel, Mode: modeOf(fi)})
		return nil
	case e.Type()&fs.ModeSymlink != 0:
		target, err := t.root.Readlink(rel)
		if err != nil {
			return err
		}
		entry := Entry{Path: rel, Link: target}
		t.manifest.Files = append(t.manifest.Files, entry)
		return entry.validateLink()
	}
	return fmt.Errorf("%q is neither a file, a folder nor a link but %s", rel, e.Type())
}

func modeOf(fi fs.FileInfo) Mode {
	if fi.Mode()&0o100 != 0 {
		return ModeExec
	}
	return ModeFile
}

// eachFile opens every file of the tree, several at once, and calls f with
// its index in the manifest. Then it syncs the tree if that was asked for.
func (t *tree) eachFile(ctx context.Context, f func(ctx context.Context, i int, file *os.File) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFiles)
	for i, e := range t.manifest.Files {
		if e.Link != "" {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			name := e.Path
			if t.name != "" {
				name = t.name
			}
			if err := t.withFile(name, func(file *os.File) error { return f(gctx, i, file) }); err != nil {
				return fmt.Errorf("reading %q: %w", e.Path, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil || !t.opts.sync {
		return err
	}
	return t.syncDirs()
}

// syncsFiles tells if each file is synced by itself.
func (t *tree) syncsFiles() bool { return t.opts.sync && len(t.manifest.Files) <= manyFiles }

// syncDirs makes the folders durable and, if they are many, the files.
func (t *tree) syncDirs() error {
	if !t.syncsFiles() {
		top, err := t.root.Open(".")
		if err != nil {
			return err
		}
		defer top.Close()
		return syncFilesystem(top)
	}
	for _, dir := range t.dirs {
		f, err := t.root.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) withFile(name string, f func(*os.File) error) error {
	// Should the name have become a FIFO, the open must not wait for a writer.
	file, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || t.name != "" && !os.SameFile(fi, t.info) {
		return errReplaced
	}
	if t.syncsFiles() {
		return hashWhileSyncing(file, fi.Size(), f)
	}
	return f(file)
}

func hashWhileSyncing(file *os.File, size int64, f func(*os.File) error) error {
	started := make(chan struct{})
	go func() { // as it may wait for the disk's queue
		defer close(started)
		startWriteback(file, 0, size)
	}()
	err := f(file)
	<-started
	if err == nil {
		err = file.Sync()
	}
	return err
}

// parallelFiles is how many files are read or written at once.
var parallelFiles = max(4, min(runtime.GOMAXPROCS(0), 16))
