package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/internal/mltask"
)

// metrics follows a task's metrics file. The task owns the file and may do
// anything to it: it is opened without following links out of the task's
// folder, and only if it is a regular file.
type metrics struct {
	folder string
	offset int64
	// last is the last value of every metric.
	last map[string]float64
	// malformed is about the first line that could not be used.
	malformed error
	lines     int
}

func newMetrics(folder string) *metrics {
	return &metrics{folder: folder, last: map[string]float64{}}
}

// open opens the file; the error is fs.ErrNotExist if there is none.
func (m *metrics) open() (*os.File, error) {
	root, err := os.OpenRoot(m.folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(mltask.MetricsFile, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	return f, nil
}

// read takes in the lines that are new, and reports whether there are any. Once
// the task has ended, final takes in a last line without an end, too.
func (m *metrics) read(final bool) (grown bool, err error) {
	f, err := m.open()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() < m.offset { // the task began it anew
		m.offset, m.last = 0, map[string]float64{}
	}
	if _, err := f.Seek(m.offset, io.SeekStart); err != nil {
		return false, err
	}
	before := m.offset
	err = m.take(f, final)
	return m.offset != before, err
}

func (m *metrics) take(r io.Reader, final bool) error {
	lines := bufio.NewReaderSize(r, mltask.MaxMetricsLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			m.offset += int64(len(line)) // of a line too long; so is its rest
			m.reject(fmt.Errorf("longer than %d bytes", mltask.MaxMetricsLine))
			continue
		case err == io.EOF && (!final || len(line) == 0):
			return nil // the rest is still being written
		case err != nil && err != io.EOF:
			return err
		}
		m.offset += int64(len(line))
		m.lines++
		parsed, err := mltask.ParseMetricsLine(line)
		if err != nil {
			m.reject(err)
			continue
		}
		maps.Copy(m.last, parsed.Metrics)
	}
}

func (m *metrics) reject(err error) {
	if m.malformed == nil {
		m.malformed = fmt.Errorf("line %d: %w", m.lines, err)
	}
}
