// Package driver is the ml task driver: Nomad's calls, answered from the state
// that each task keeps on disk.
//
// This process owns nothing that a task needs. A task's supervisor runs it and
// stores how it ended; the driver starts supervisors, watches them, and reads
// what they stored. So it may be killed, upgraded and started again at any
// time.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/stage"
	"github.com/drover-ml/drover/task-driver/task"
)

// Driver implements driver.Plugin. It is safe for concurrent use.
type Driver struct {
	log     hclog.Logger
	logFile *LogFile
	version string
	// environ is this process's own environment, which it has from the agent.
	environ map[string]string
	events  *feed

	mu       sync.Mutex
	settings Settings
	agent    *base.AgentConfig
	cache    *stage.Cache
	cacheDir string
	tasks    map[string]*handle
	// lost are tasks that could not be recovered, until they are destroyed.
	lost     map[string]task.Dir
	starting map[string]*sync.Mutex
}

var _ driver.Plugin = (*Driver)(nil)

// New returns a driver with default settings. File takes the log file that the
// settings may name.
func New(version string, log hclog.Logger, file *LogFile) *Driver {
	s := defaultSettings()
	_ = s.complete() // the defaults are valid
	return &Driver{
		log: log, logFile: file, version: version,
		environ:  task.EnvMap(os.Environ()),
		events:   newFeed(),
		settings: s,
		tasks:    map[string]*handle{},
		lost:     map[string]task.Dir{},
		starting: map[string]*sync.Mutex{},
	}
}

// SetConfig implements base.Plugin.
func (d *Driver) SetConfig(_ context.Context, c base.Config) error {
	s := defaultSettings()
	if len(c.MsgPack) > 0 {
		if err := c.Decode(&s); err != nil {
			return fmt.Errorf("reading the config of plugin %q: %w", "nomad-driver-ml", err)
		}
	}
	if err := s.complete(); err != nil {
		return fmt.Errorf("config of plugin %q: %w", "nomad-driver-ml", err)
	}
	if c.Agent != nil { // not the agent's check of its configuration
		if err := d.logFile.Open(s.LogFile); err != nil {
			d.log.Warn("opening the log file", "path", s.LogFile, "error", err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings, d.agent = s, c.Agent
	return nil
}

func (d *Driver) current() Settings {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settings
}

// openCache opens the cache at the first need of it.
func (d *Driver) openCache() (*stage.Cache, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cache != nil && d.cacheDir == d.settings.CacheDir {
		return d.cache, nil
	}
	c, err := stage.OpenCache(d.settings.CacheDir, d.settings.CacheMaxGiB<<30)
	if err != nil {
		return nil, err
	}
	d.cache, d.cacheDir = c, d.settings.CacheDir
	return c, nil
}

func (d *Driver) find(id string) (*handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h, ok := d.tasks[id]; ok {
		return h, nil
	}
	return nil, driver.ErrTaskNotFound
}

// startLock serialises what starts and recovers one task.
func (d *Driver) startLock(id string) *sync.Mutex {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.starting[id] == nil {
		d.starting[id] = &sync.Mutex{}
	}
	return d.starting[id]
}

// LogFile is a log's second destination, which becomes known late. Writing
// before that, or after an error, does nothing.
type LogFile struct {
	mu   sync.Mutex
	path string
	file *os.File
}

var _ io.Writer = (*LogFile)(nil)

// Open opens the file at a path, "" for none.
func (l *LogFile) Open(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if path == l.path {
		return nil
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.path = nil, ""
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.file, l.path = f, path
	return nil
}

// Write implements io.Writer.
func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return len(p), nil
	}
	return l.file.Write(p)
}

// TaskEvents implements driver.Plugin.
func (d *Driver) TaskEvents(ctx context.Context, publish func(driver.TaskEvent) error) error {
	return d.events.serve(ctx, publish)
}

// errEnded says that a task ended before its events could be shown.
var errEnded = errors.New("the task was destroyed")

// feed brings the events of all tasks to the agent. An event counts as shown
// once a stream to an agent has taken it; without a stream, tasks' events wait
// where they are stored.
type feed struct{ offers chan offer }

type offer struct {
	event driver.TaskEvent
	taken chan error
}

func newFeed() *feed { return &feed{offers: make(chan offer)} }

// show returns nil when an agent has got the event, or errEnded.
func (f *feed) show(e driver.TaskEvent, ended <-chan struct{}) error {
	o := offer{event: e, taken: make(chan error, 1)}
	select {
	case f.offers <- o:
		return <-o.taken
	case <-ended:
		return errEnded
	}
}

func (f *feed) serve(ctx context.Context, publish func(driver.TaskEvent) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case o := <-f.offers:
			err := publish(o.event)
			o.taken <- err
			if err != nil {
				return err
			}
		}
	}
}
