package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/task"
)

// Place is where and as whom a command of a task runs.
type Place struct {
	Group   cgroup.Group
	User    *task.Credential
	NetNS   string
	WorkDir string
	Env     []string
}

// Command prepares a command; its program is looked up on the PATH of its own
// environment.
func (p Place) Command(argv []string) (*exec.Cmd, error) {
	path, err := lookPath(argv[0], p.Env, p.WorkDir)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: path,
		Args: argv,
		Env:  p.Env,
		Dir:  p.WorkDir,
		SysProcAttr: &syscall.SysProcAttr{
			Credential: p.credential(),
			Setpgid:    true,
			// A command never outlives the thread that started it.
			Pdeathsig: syscall.SIGKILL,
		},
	}, nil
}

func (p Place) credential() *syscall.Credential {
	if p.User == nil {
		return nil
	}
	return &syscall.Credential{Uid: p.User.UID, Gid: p.User.GID, Groups: p.User.Groups}
}

// Start starts a command in the task's control group and network. The calling
// goroutine must be locked to its thread, must keep that for as long as the
// command is to live, and must use it for nothing else if NetNS is set.
func (p Place) Start(cmd *exec.Cmd) error {
	if p.NetNS != "" {
		ns, err := os.Open(p.NetNS)
		if err != nil {
			return fmt.Errorf("opening the network namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace %s: %w", p.NetNS, err)
		}
	}
	return p.Group.Start(cmd)
}

// lookPath finds a program as execvp would in the given environment.
func lookPath(name string, env []string, dir string) (string, error) {
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if strings.Contains(name, "/") {
		file := name
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, name)
		}
		if err := executable(file); err != nil {
			return "", fmt.Errorf("command %q: %w", name, err)
		}
		return file, nil
	}
	path := task.EnvMap(env)["PATH"]
	var denied error
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			continue
		}
		file := filepath.Join(d, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", fmt.Errorf("command %q: %w", name, denied)
	}
	return "", fmt.Errorf("command %q is not on the task's PATH (%s)", name, path)
}

func executable(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return &fs.PathError{Op: "running", Path: file, Err: fs.ErrPermission}
	}
	return nil
}
