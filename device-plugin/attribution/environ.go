package attribution

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxEnviron is how much of an environment is looked through. Linux allows
// 2 MiB where the stack is as large as usual.
const maxEnviron = 4 << 20

// environ is what a process's environment says of its task.
func (f *Finder) environ(pid int) (Task, error) {
	file, err := f.open(pid, "environ")
	if err != nil {
		return Task{}, err
	}
	defer file.Close()
	t, err := parseEnviron(io.LimitReader(file, maxEnviron))
	if err != nil {
		return Task{}, fmt.Errorf("reading the environment of process %d: %w", pid, err)
	}
	return t, nil
}

// parseEnviron reads an environment as the kernel shows it: NAME=value, each
// ended by a zero byte. The last of several values of a name counts. It keeps
// no copy of what it isn't looking for.
func parseEnviron(r io.Reader) (Task, error) {
	var t Task
	var fallback struct{ job, workspace string }
	// A variable is kept up to a length that its name and the part of the
	// value that counts fit into; the rest is skipped.
	kept := make([]byte, 0, maxName+1+maxValue+1)
	defer func() { clear(kept[:cap(kept)]) }()
	end := func() {
		name, value, ok := bytes.Cut(kept, []byte("="))
		if ok {
			switch string(name) {
			case "NOMAD_ALLOC_ID":
				t.Alloc = clean(value)
			case "NOMAD_TASK_NAME":
				t.Task = clean(value)
			case "NOMAD_JOB_ID":
				t.Job = clean(value)
			case "NOMAD_JOB_NAME":
				fallback.job = clean(value)
			case "NOMAD_NAMESPACE":
				t.Namespace = clean(value)
			case "NOMAD_META_drover.workspace", "NOMAD_META_drover_workspace":
				t.Workspace = clean(value)
			case "DROVER_WORKSPACE":
				fallback.workspace = clean(value)
			}
		}
		kept = kept[:0]
	}
	var chunk [8 << 10]byte
	defer clear(chunk[:])
	for {
		n, err := r.Read(chunk[:])
		for rest := chunk[:n]; len(rest) > 0; {
			part, after, ended := bytes.Cut(rest, []byte{0})
			kept = append(kept, part[:min(len(part), cap(kept)-len(kept))]...)
			if ended {
				end()
			}
			rest = after
		}
		if errors.Is(err, io.EOF) {
			end()
			break
		}
		if err != nil {
			return Task{}, err
		}
	}
	if t.Alloc == "" {
		return Task{}, nil
	}
	if t.Job == "" {
		t.Job = fallback.job
	}
	if t.Workspace == "" {
		t.Workspace = fallback.workspace
	}
	return t, nil
}

// maxName is the length of the longest name that parseEnviron looks for.
const maxName = len("NOMAD_META_drover.workspace")
