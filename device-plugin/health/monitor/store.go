package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
)

// Names in the plugin's state folder.
const (
	// FileName is the health of the GPUs, as health.Tracker.Snapshot has it.
	FileName = "health.json"
	// clearFolder has a file for each device that a person asked to clear.
	clearFolder = "clear"
)

const (
	// keepPeriod is how often the folder is looked at for requests.
	keepPeriod = time.Second
	// savePeriod is how often what changes all the time, such as the energy
	// used, is written.
	savePeriod = 5 * time.Minute
)

// kept is what is on disk.
type kept struct {
	going  bool // Keep runs
	report health.Report
	at     time.Time
	// current counts how often the faults changed, and saved is its value when
	// the file was written last.
	current, saved int
	changed        chan struct{} // closed, and replaced, when saved or going changes
}

// savePatience is for how long others do not hear of a fault so that it is on
// disk when they do.
const savePatience = 500 * time.Millisecond

// awaitSaved waits until a version of the faults is on disk, so that a plugin
// that is killed as soon as somebody heard of a fault knows of it when it is
// started again. A disk that is slow does not keep a fault a secret for long.
func (m *Monitor) awaitSaved(version int) {
	timer := time.NewTimer(savePatience)
	defer timer.Stop()
	for {
		m.mu.Lock()
		done, changed := !m.kept.going || m.kept.saved >= version, m.kept.changed
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-timer.C:
			return
		case <-changed:
		}
	}
}

// note changes what is known to be on disk.
func (m *Monitor) note(change func(*kept)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.kept)
	close(m.kept.changed)
	m.kept.changed = make(chan struct{})
}

// restore reads the file.
func (m *Monitor) restore() {
	if m.config.File == "" {
		return
	}
	data, err := readLimited(m.config.File)
	if err == nil {
		err = m.tracker.Restore(time.Now(), data)
	}
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
	default:
		aside := m.config.File + ".unreadable"
		m.log.Error("what was known of the health of the GPUs is lost: devices that were out of service are offered again unless they fail anew",
			"error", err, "kept_as", aside, "rename_error", os.Rename(m.config.File, aside))
	}
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, health.MaxSnapshotBytes+1))
}

// Keep writes the file, and does what people ask for through its folder, until
// ctx ends. Only one process may do that at a time.
func (m *Monitor) Keep(ctx context.Context) error {
	if m.config.File == "" {
		<-ctx.Done()
		return nil
	}
	m.note(func(k *kept) { k.going = true })
	defer m.note(func(k *kept) { k.going = false })
	ticker := time.NewTicker(keepPeriod)
	defer ticker.Stop()
	for {
		if err := m.clearRequested(); err != nil {
			return err
		}
		if err := m.save(false); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return m.save(true)
		case <-m.dirty:
		case <-ticker.C:
		}
	}
}

// save writes the file if it would tell something else, or always.
func (m *Monitor) save(always bool) error {
	now := time.Now()
	m.mu.Lock()
	report, current := m.tracker.Report(), m.kept.current
	if !always && now.Sub(m.kept.at) < savePeriod && current == m.kept.saved && reflect.DeepEqual(report, m.kept.report) {
		m.mu.Unlock()
		return nil
	}
	data, err := m.tracker.Snapshot(now)
	m.mu.Unlock()
	if err == nil {
		err = replace(m.config.File, data)
	}
	if err != nil {
		return fmt.Errorf("keeping the health of the GPUs: %w", err)
	}
	m.note(func(k *kept) { k.report, k.at, k.saved = report, now, current })
	return nil
}

// replace writes a file so that after a crash it has the old content or the
// new.
func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".health-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// RequestClear asks the plugin that keeps its state in a folder to clear a
// device. The plugin does so as soon as it runs; done reports whether it has.
func RequestClear(stateDir string, id gpu.ID) (done func() bool, err error) {
	dir := filepath.Join(stateDir, clearFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("asking the plugin to clear %s: %w", id, err)
	}
	path := filepath.Join(dir, url.PathEscape(string(id)))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, fmt.Errorf("asking the plugin to clear %s: %w", id, err)
	}
	return func() bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	}, nil
}

// clearRequested does what RequestClear asked for. It waits for a first
// inventory, without which a board looks as if it was taken out.
func (m *Monitor) clearRequested() error {
	m.mu.Lock()
	looked := m.looked
	m.mu.Unlock()
	dir := filepath.Join(filepath.Dir(m.config.File), clearFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || !looked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for devices to clear: %w", err)
	}
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err != nil {
			name = e.Name()
		}
		m.observe(func(now time.Time, t *health.Tracker) { err = t.Clear(now, gpu.ID(name)) })
		if err != nil {
			m.log.Warn("a device cannot be cleared", "error", err)
		} else {
			m.log.Info("GPU was cleared by an operator", "id", name)
		}
		// Saved before the request goes, so that a crash repeats it rather
		// than forgets it.
		if err := m.save(true); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clearing %s: %w", name, err)
		}
	}
	return nil
}
