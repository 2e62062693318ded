package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/task"
)

// Request is what to put in place for a task.
type Request struct {
	TaskDir string // the task's folder, which exists
	Config  *mltask.Config
	Store   *artifact.Store // nil for none
	Cache   *Cache
	User    *task.Credential // who is to own it; nil for this process's user
	// CheckpointKey is under which the store has the task's checkpoints; "" for
	// a task without.
	CheckpointKey string
	// Event tells people what goes on.
	Event func(key, message string, details map[string]string)
}

// Staged is what a task starts from.
type Staged struct {
	Folder  string
	WorkDir string
	// Resume is the checkpoint to go on from, "" for a start from the
	// beginning, and ResumedFrom its step.
	Resume      string
	ResumedFrom *int64
}

// Stage prepares a task's folder. What an earlier start left in it is removed,
// but for checkpoints, and for the metrics up to the one resumed from. It may
// be repeated after it was cut short.
func Stage(ctx context.Context, r Request) (Staged, error) {
	root, err := os.OpenRoot(r.TaskDir)
	if err != nil {
		return Staged{}, fmt.Errorf("opening the task's folder: %w", err)
	}
	defer root.Close()
	s := &staging{Request: r, root: root, out: Staged{
		Folder:  filepath.Join(r.TaskDir, mltask.Folder),
		WorkDir: filepath.Join(r.TaskDir, "local"),
	}}
	for _, step := range []func(context.Context) error{s.folders, s.announce, s.code, s.inputs, s.params, s.resume, s.metrics} {
		if err := step(ctx); err != nil {
			return Staged{}, err
		}
	}
	switch wd := r.Config.WorkDir; {
	case filepath.IsAbs(wd):
		s.out.WorkDir = wd
	case wd != "":
		s.out.WorkDir = filepath.Join(r.TaskDir, wd)
	}
	if info, err := os.Stat(s.out.WorkDir); err != nil || !info.IsDir() {
		return Staged{}, fmt.Errorf("work_dir: %q is not a folder", s.out.WorkDir)
	}
	return s.out, nil
}

type staging struct {
	Request
	root *os.Root
	out  Staged
}

// in is a path of the task's folder.
func in(elem ...string) string { return path.Join(append([]string{mltask.Folder}, elem...)...) }

// folders makes the folders of the contract. All is done inside root, and a
// link that an earlier start put in the way of the folder is removed, so that
// nobody is led elsewhere.
func (s *staging) folders(context.Context) error {
	if info, err := s.root.Lstat(mltask.Folder); err == nil && !info.IsDir() {
		if err := s.root.RemoveAll(mltask.Folder); err != nil {
			return err
		}
	}
	if err := s.root.MkdirAll(mltask.Folder, 0o755); err != nil {
		return fmt.Errorf("making the task's folder: %w", err)
	}
	for _, name := range []string{mltask.InputsDir, mltask.OutputsDir, mltask.CodeDir} {
		if err := s.root.RemoveAll(in(name)); err != nil {
			return fmt.Errorf("emptying %s: %w", in(name), err)
		}
	}
	if info, err := s.root.Lstat(in(mltask.CheckpointsDir)); err == nil && !info.IsDir() {
		if err := s.root.RemoveAll(in(mltask.CheckpointsDir)); err != nil {
			return err
		}
	}
	for _, name := range []string{mltask.InputsDir, mltask.OutputsDir, mltask.CheckpointsDir} {
		if err := s.root.Mkdir(in(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making %s: %w", in(name), err)
		}
	}
	return s.own(in(), in(mltask.OutputsDir), in(mltask.CheckpointsDir))
}

// own gives names to the task's user.
func (s *staging) own(names ...string) error {
	if s.User == nil {
		return nil
	}
	for _, name := range names {
		if err := s.root.Lchown(name, int(s.User.UID), int(s.User.GID)); err != nil {
			return fmt.Errorf("giving %s to the task's user: %w", name, err)
		}
	}
	return nil
}

// ownTree gives a folder with all that is in it to the task's user.
func (s *staging) ownTree(name string) error {
	if s.User == nil {
		return nil
	}
	return fs.WalkDir(s.root.FS(), name, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return s.own(p)
	})
}

// announce tells what is about to be staged, which may take a while.
func (s *staging) announce(context.Context) error {
	var what []string
	if s.Config.Code != "" {
		what = append(what, "code")
	}
	for _, i := range s.Config.Inputs {
		what = append(what, i.Name)
	}
	if len(what) > 0 {
		s.Event("staging", "Staging "+strings.Join(what, ", "), nil)
	}
	return nil
}

func (s *staging) code(ctx context.Context) error {
	if s.Config.Code == "" {
		return nil
	}
	d, err := s.bring(ctx, s.Config.Code, "", in(mltask.CodeDir))
	if err != nil {
		return fmt.Errorf("staging the code: %w", err)
	}
	s.out.WorkDir = filepath.Join(s.out.Folder, mltask.CodeDir)
	if info, err := s.root.Stat(in(mltask.CodeDir)); err != nil || !info.IsDir() {
		return fmt.Errorf("staging the code: artifact %s is a file; the code must be a folder", d)
	}
	return s.ownTree(in(mltask.CodeDir))
}

func (s *staging) inputs(ctx context.Context) error {
	for _, i := range s.Config.Inputs {
		if _, err := s.bring(ctx, i.Source, i.SHA256, in(mltask.InputsDir, i.Name), artifact.ReadOnly()); err != nil {
			return fmt.Errorf("staging input %q: %w", i.Name, err)
		}
	}
	return nil
}

// bring puts a copy of a source at dest, and returns its digest. If pin is set,
// it must be that.
func (s *staging) bring(ctx context.Context, source, pin, dest string, opts ...artifact.FetchOption) (artifact.Digest, error) {
	from := s.Store
	d := artifact.Digest(source)
	if !mltask.IsDigest(source) {
		var err error
		if d, err = s.take(ctx, source); err != nil {
			return "", err
		}
		from = nil // it is in the cache now, and nowhere else
	} else if s.Store == nil {
		return "", errors.New("it is named by digest, but there is no artifact store: set store in the task's config or the driver's")
	}
	if pin != "" && string(d) != pin {
		return "", fmt.Errorf("%s has the content %s, but the job pins %s", source, d, pin)
	}
	return d, s.Cache.Fetch(ctx, from, d, filepath.Join(s.TaskDir, dest), opts...)
}

// take brings a file or folder of the machine into the cache.
func (s *staging) take(ctx context.Context, source string) (artifact.Digest, error) {
	file, ok := strings.CutPrefix(source, "file://")
	if !ok {
		return s.Cache.Add(ctx, s.root, path.Clean(source))
	}
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", err
	}
	parent, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return "", err
	}
	defer parent.Close()
	return s.Cache.Add(ctx, parent, filepath.Base(file))
}

func (s *staging) params(context.Context) error {
	params := s.Config.Params
	if params == "" {
		params = "{}"
	}
	if err := s.replace(in(mltask.ParamsFile), []byte(params)); err != nil {
		return fmt.Errorf("writing the params: %w", err)
	}
	return nil
}

// replace writes a file of the task's, never through what is there.
func (s *staging) replace(name string, data []byte) error {
	if err := s.root.RemoveAll(name); err != nil {
		return err
	}
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.own(name)
}
