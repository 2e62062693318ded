// Package task is what the driver and a task's supervisor share: the task's
// state on disk, its events, and the environment that its command gets.
//
// The state of a task is a folder of its own, private to the driver's user:
//
//	lock            held by whoever starts the task, then by its supervisor
//	running.json    Running: the task has a supervisor, which has started the
//	                command or, in a gang, will
//	exit.json       Exit: the command has ended, and all that follows is done
//	events.jsonl    Event lines, in the order in which they happened
//	events.seen     how many bytes of them were shown to the agent
//	supervisor.log  what the supervisor logs
//
// The JSON files are written under another name, and renamed. So what is
// there is whole, and is true after kill -9 of anything: with exit.json the task
// has ended; without it, it runs if its supervisor does, and is lost if not.
// After a loss of power exit.json is as true as before, for it is synced.
package task

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/process"
)

// Version is the version of the stored state.
const Version = 1

// Running says who runs a task. It is stored as running.json, for a member of a
// gang twice: when the supervisor begins to wait for the others, with a Command
// that is zero, and when the command has started. For example:
//
//	{"version":1,"task_id":"8f3c…/main/1a2b3c4d",
//	 "supervisor":{"pid":310,"start":5512,"boot":"9c2f…"},
//	 "command":{"pid":316,"start":5513,"boot":"9c2f…"},
//	 "group":{"version":1,"dirs":{"memory":"/sys/fs/cgroup/memory/drover/8f3c…"}},
//	 "work_dir":"/…/main/local","started":"2026-01-02T03:04:05Z"}
type Running struct {
	Version    int          `json:"version"`
	TaskID     string       `json:"task_id"`
	Supervisor process.ID   `json:"supervisor"`
	Command    process.ID   `json:"command"`
	Group      cgroup.Group `json:"group"`
	// WorkDir, User and NetNS are for commands that are run beside the task's.
	WorkDir string      `json:"work_dir"`
	User    *Credential `json:"user,omitempty"`
	NetNS   string      `json:"netns,omitempty"`
	Started time.Time   `json:"started"`
	// Gang is nil for a task of its own. The supervisors of others take
	// supervisor.Ending.
	Gang *Gang `json:"gang,omitempty"`
}

// Gang says of which gang a task is a member, and where that meets.
type Gang struct {
	Store string `json:"store"` // the artefact store's URL
	Key   string `json:"key"`
	Rank  int    `json:"rank"`
}

// Waiting reports whether the command has not been started yet, because its
// gang is not complete.
func (r Running) Waiting() bool { return r.Gang != nil && r.Command == process.ID{} }

// Credential is the user that a command runs as. Nil means the driver's own.
type Credential struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Exit says how a task ended. It is stored as exit.json, for example:
//
//	{"version":1,"exit_code":1,"error":"output \"model\" is missing",
//	 "finished":"2026-01-02T03:04:05Z"}
type Exit struct {
	Version  int  `json:"version"`
	ExitCode int  `json:"exit_code"`
	Signal   int  `json:"signal,omitempty"`
	OOM      bool `json:"oom,omitempty"`
	// Error says what else went wrong; ExitCode is then not 0.
	Error    string    `json:"error,omitempty"`
	Finished time.Time `json:"finished"`
}

// Dir is the folder with a task's state.
type Dir string

// DirOf is the folder of a task below the driver's state folder.
func DirOf(stateDir, taskID string) Dir {
	return Dir(filepath.Join(stateDir, "tasks", Name(taskID)))
}

// Name makes one file name, the same ever after, of a task ID, which holds
// slashes and may hold anything.
func Name(taskID string) string {
	name := url.PathEscape(taskID)
	if len(name) > 200 || name == "" || name[0] == '.' {
		sum := sha256.Sum256([]byte(taskID))
		return hex.EncodeToString(sum[:])
	}
	return name
}

// Create makes the folder, and those above it, private to the driver's user.
func (d Dir) Create() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("making the task's state folder: %w", err)
	}
	return nil
}

// Exists reports whether the folder is there, or may be.
func (d Dir) Exists() bool {
	_, err := os.Stat(string(d))
	return !errors.Is(err, fs.ErrNotExist)
}

// Remove removes the folder.
func (d Dir) Remove() error { return os.RemoveAll(string(d)) }

// LogFile is where the supervisor logs.
func (d Dir) LogFile() string { return filepath.Join(string(d), "supervisor.log") }

// ErrLocked says that the task is being started, or has a supervisor.
var ErrLocked = errors.New("the task has a supervisor already")

// Lock takes the task until the file is closed, in this process and in all that
// inherit it, or returns ErrLocked.
func (d Dir) Lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the task: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking the task: %w", err)
	}
	return f, nil
}

// SetRunning stores who runs the task. After a loss of power it may
// be gone, but so is the command.
func (d Dir) SetRunning(r Running) error {
	r.Version = Version
	return d.write("running.json", r, false)
}

// Running reads who runs the task; the error is fs.ErrNotExist if nobody ever
// did.
func (d Dir) Running() (Running, error) {
	var r Running
	if err := d.read("running.json", &r); err != nil {
		return Running{}, err
	}
	if r.Version != Version {
		return Running{}, fmt.Errorf("task state of version %d is not known to this driver, which knows version %d", r.Version, Version)
	}
	return r, nil
}

// SetExit stores how the task ended.
func (d Dir) SetExit(e Exit) error {
	e.Version = Version
	return d.write("exit.json", e, true)
}

// Exit reads how the task ended; the error is fs.ErrNotExist if it has not.
func (d Dir) Exit() (Exit, error) {
	var e Exit
	if err := d.read("exit.json", &e); err != nil {
		return Exit{}, err
	}
	if e.Version != Version {
		return Exit{}, fmt.Errorf("exit status of version %d is not known to this driver, which knows version %d", e.Version, Version)
	}
	return e, nil
}

func (d Dir) read(name string, v any) error {
	file := filepath.Join(string(d), name)
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}

// write writes a file so that it is there whole or not at all, whatever
// processes die. If it is durable, a loss of power is survived, too.
func (d Dir) write(name string, v any, durable bool) error {
	file := filepath.Join(string(d), name)
	err := func() error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := writeTemp(file+".new", b, durable); err != nil {
			return err
		}
		if err := os.Rename(file+".new", file); err != nil || !durable {
			return err
		}
		return syncFolder(string(d))
	}()
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

func writeTemp(file string, data []byte, durable bool) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
