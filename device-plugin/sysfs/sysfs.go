// Package sysfs reads from /sys how a machine's network cards are doing, and
// where on its PCI buses and NUMA nodes they and the GPUs are.
//
// Every function takes the root of /sys as a file system, os.DirFS("/sys") on a
// real machine. What is not there, or makes no sense, is left out: kernels and
// drivers differ in what they tell. An error means that nothing could be read.
package sysfs

import (
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// maxFileBytes is that of a page, which no attribute exceeds.
const maxFileBytes = 4096

// text is the content of an attribute; "" if it cannot be read.
func text(root fs.FS, name ...string) string {
	f, err := root.Open(path.Join(name...))
	if err != nil {
		return ""
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return "" // the speed of an interface that is down, for one
	}
	return strings.TrimSpace(string(content))
}

// number is the number in an attribute; nil if there is none.
func number(root fs.FS, name ...string) *int64 {
	n, err := strconv.ParseInt(text(root, name...), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// counter is a number that cannot be negative.
func counter(root fs.FS, name ...string) *int64 {
	if n := number(root, name...); n != nil && *n >= 0 {
		return n
	}
	return nil
}

// names are those of a folder's entries, sorted; none if it is not there.
func names(root fs.FS, dir string) []string {
	entries, err := fs.ReadDir(root, dir)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// resolve is where a name leads, links followed to the end, relative to root;
// "" if it leads nowhere or out of root.
func resolve(root fs.FS, name string) string {
	resolved, rest := ".", path.Clean(name)
	for hops := 0; rest != "" && rest != "."; {
		var first string
		first, rest, _ = strings.Cut(rest, "/")
		if first == ".." {
			if resolved == "." {
				return ""
			}
			resolved = path.Dir(resolved)
			continue
		}
		next := path.Join(resolved, first)
		info, err := fs.Lstat(root, next)
		if err != nil {
			return ""
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			resolved = next
			continue
		}
		target, err := fs.ReadLink(root, next)
		if hops++; err != nil || path.IsAbs(target) || hops > maxHops {
			return ""
		}
		rest = path.Join(target, rest)
	}
	return resolved
}

// maxHops is how many links may be followed to one file.
const maxHops = 40
