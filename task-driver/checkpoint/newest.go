package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
)

// Newest returns the newest sealed step that verifies, and what it set aside
// to get there: newer steps that do not verify, and all that no seal vouches
// for. It returns ErrNone if no step is left. Unfinished writes are removed.
//
// It must not be called while the task runs.
func (d *Dir) Newest(ctx context.Context) (Seal, []Aside, error) {
	found, leftovers, err := d.scan()
	if err != nil {
		return Seal{}, nil, err
	}
	for _, name := range leftovers {
		// What cannot be removed does no harm where it is.
		_ = d.root.RemoveAll(name)
	}
	var asides []Aside
	for _, step := range found.Unsealed {
		asides = append(asides, d.setAside(step, "it was not sealed"))
	}
	for _, step := range slices.Backward(found.Sealed) {
		s, err := d.verify(ctx, step)
		switch {
		case err == nil:
			return s, asides, nil
		case isCanceled(err) || outOfResources(err):
			return Seal{}, asides, fmt.Errorf("verifying checkpoint step %d: %w", step, err)
		}
		asides = append(asides, d.setAside(step, err.Error()))
	}
	return Seal{}, asides, ErrNone
}

// Verify reads a sealed step whole and compares it with its seal.
func (d *Dir) Verify(ctx context.Context, step int64) (Seal, error) {
	s, err := d.verify(ctx, step)
	if err != nil {
		return Seal{}, fmt.Errorf("verifying checkpoint step %d: %w", step, err)
	}
	return s, nil
}

func (d *Dir) verify(ctx context.Context, step int64) (Seal, error) {
	s, err := d.readSeal(step)
	if err != nil {
		return Seal{}, err
	}
	digest, m, err := artifact.DigestAt(ctx, d.root, stepName(step))
	if err != nil {
		return Seal{}, err
	}
	if digest != s.Digest {
		return Seal{}, errors.New(difference(s.Manifest, m))
	}
	return s, nil
}

// outOfResources tells if err says nothing about the file, only that this
// process could not look at it just now.
func outOfResources(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// difference says in words how got is not the want that was sealed.
func difference(want, got artifact.Manifest) string {
	have := make(map[string]artifact.Entry, len(got.Files))
	for _, e := range got.Files {
		have[e.Path] = e
	}
	for _, w := range want.Files {
		g, ok := have[w.Path]
		switch {
		case !ok:
			return fmt.Sprintf("%s is missing", fileName(w.Path))
		case g.Link != w.Link:
			return fmt.Sprintf("%s is another kind of file, or links elsewhere, than was sealed", fileName(w.Path))
		case g.Size != w.Size:
			return fmt.Sprintf("%s has %d bytes, %d were sealed", fileName(w.Path), g.Size, w.Size)
		case g.SHA256 != w.SHA256:
			return fmt.Sprintf("%s changed: its SHA-256 is not the sealed one", fileName(w.Path))
		case g != w:
			return fmt.Sprintf("%s has mode %s, %s was sealed", fileName(w.Path), g.Mode, w.Mode)
		}
		delete(have, w.Path)
	}
	for name := range have {
		return fmt.Sprintf("%s was added after sealing", fileName(name))
	}
	return "its folders changed after sealing"
}

func fileName(path string) string {
	if path == "." {
		return "the file" // the step is one
	}
	return fmt.Sprintf("file %q", path)
}

// setAside moves a step out of the way, or removes it where even that fails,
// as on a full disk: its name must be free for the task to write it again.
func (d *Dir) setAside(step int64, reason string) Aside {
	a := Aside{Step: step, Reason: reason, FoundAt: time.Now().UTC()}
	name := stepName(step)
	err := d.root.MkdirAll(asideDir, 0o755)
	if err == nil {
		a.Path, err = d.freeAside(name)
	}
	if err == nil {
		err = d.root.Rename(name, a.Path)
	}
	if err != nil && !notThere(err) {
		a.Path = ""
		a.Reason += "; it was removed, because it could not be set aside: " + err.Error()
		if err := d.root.RemoveAll(name); err != nil {
			a.Reason += "; removing it: " + err.Error()
		}
	}
	// Without its seal a step counts for nothing, so the order does not matter
	// to a crash in between.
	_ = d.root.RemoveAll(name + sealSuffix)
	if a.Path != "" {
		if data, err := json.Marshal(a); err == nil {
			_ = d.writeFile(a.Path+".json", append(data, '\n')) // a note for people
		}
	}
	return a
}

func (d *Dir) freeAside(name string) (string, error) {
	for i := 1; ; i++ {
		p := path.Join(asideDir, name)
		if i > 1 {
			p += "." + strconv.Itoa(i)
		}
		if _, err := d.root.Lstat(p); notThere(err) {
			return p, nil
		} else if err != nil {
			return "", err
		}
	}
}

// Prune removes all sealed steps but the newest keep, at least one, and all
// but the newest keep of those set aside. It returns the steps removed.
func (d *Dir) Prune(keep int) ([]int64, error) {
	keep = max(keep, 1)
	found, err := d.Scan()
	if err != nil {
		return nil, err
	}
	var removed []int64
	for _, step := range found.Sealed[:max(0, len(found.Sealed)-keep)] {
		if err := d.remove(step); err != nil {
			return removed, fmt.Errorf("pruning checkpoint step %d: %w", step, err)
		}
		removed = append(removed, step)
	}
	if err := d.pruneAsides(keep); err != nil {
		return removed, fmt.Errorf("pruning checkpoints set aside: %w", err)
	}
	return removed, nil
}

// remove takes the name away first, so that no half of a step is ever seen.
func (d *Dir) remove(step int64) error {
	name := stepName(step)
	trash := garbage + "pruned-" + name
	if err := d.root.RemoveAll(trash); err != nil {
		return err
	}
	if err := d.root.Rename(name, trash); err != nil && !notThere(err) {
		return err
	}
	if err := d.root.RemoveAll(name + sealSuffix); err != nil {
		return err
	}
	return d.root.RemoveAll(trash)
}

func (d *Dir) pruneAsides(keep int) error {
	fi, err := d.root.Lstat(asideDir)
	switch {
	case notThere(err):
		return nil
	case err == nil && !fi.IsDir():
		return d.root.RemoveAll(asideDir) // the task's doing, and in the way
	}
	f, err := d.root.Open(asideDir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	type aged struct {
		name string
		when time.Time
	}
	var steps []aged
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && path.Ext(e.Name()) != ".json" {
			steps = append(steps, aged{e.Name(), fi.ModTime()})
		}
	}
	slices.SortFunc(steps, func(a, b aged) int { return b.when.Compare(a.when) })
	for _, s := range steps[min(keep, len(steps)):] {
		p := path.Join(asideDir, s.name)
		if err := errors.Join(d.root.RemoveAll(p), d.root.RemoveAll(p+".json")); err != nil {
			return err
		}
	}
	return nil
}
