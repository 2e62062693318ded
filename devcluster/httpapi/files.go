package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
)

const (
	frameSize = 64 << 10
	// lookEvery is how often a followed file is looked at.
	lookEvery = 100 * time.Millisecond
	// frameHeartbeat is how often an idle stream says that it is alive.
	frameHeartbeat = time.Second
	logFolder      = "alloc/logs"
)

func (s *Server) fileRoutes() {
	serve := func(op string, do func(root *os.Root, w http.ResponseWriter, r *http.Request) error) {
		s.mux.HandleFunc("GET /v1/client/fs/"+op+"/{id}", func(w http.ResponseWriter, r *http.Request) {
			root, err := s.allocRoot(r.PathValue("id"))
			if err != nil {
				s.fail(w, r, err)
				return
			}
			defer root.Close()
			if err := do(root, w, r); err != nil {
				s.fail(w, r, fileError(err))
			}
		})
	}
	serve("ls", s.listFiles)
	serve("stat", s.statFile)
	serve("cat", func(root *os.Root, w http.ResponseWriter, r *http.Request) error {
		return s.copyFile(root, w, r, 0, -1)
	})
	serve("readat", func(root *os.Root, w http.ResponseWriter, r *http.Request) error {
		offset, err := number(r, "offset")
		if err != nil {
			return err
		}
		limit, err := number(r, "limit")
		if err != nil {
			return err
		}
		if limit == 0 {
			limit = -1
		}
		return s.copyFile(root, w, r, offset, limit)
	})
	serve("stream", s.streamFile)
	serve("logs", s.streamLogs)
}

// allocRoot opens an allocation's folder. Nothing outside of it can be
// reached through the result, not by links either.
func (s *Server) allocRoot(id string) (*os.Root, error) {
	c, err := s.clientOf(id)
	if err != nil {
		return nil, err
	}
	dir, err := c.AllocDir(id)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &control.Error{Status: http.StatusNotFound, Message: "Unknown allocation: " + id + ": its files are not there any more"}
	}
	return root, err
}

func fileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &control.Error{Status: http.StatusNotFound, Message: err.Error()}
	}
	return err
}

func number(r *http.Request, name string) (int64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("error parsing %s: %q is not a number of bytes", name, v)
	}
	return n, nil
}

// filePath is the request's ?path, as a path in the folder. What tasks keep
// secret is not shown.
func filePath(r *http.Request, fallback string) (string, error) {
	p := r.URL.Query().Get("path")
	if p == "" {
		p = fallback
	}
	if p == "" {
		return "", badRequest("must provide a file name")
	}
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		p = "."
	}
	if parts := strings.Split(p, "/"); len(parts) > 1 && (parts[1] == "secrets" || parts[1] == "private") {
		return "", &control.Error{Status: http.StatusForbidden, Message: "Reading secret file prohibited: " + p}
	}
	return p, nil
}

func fileInfo(root *os.Root, path, name string, fi fs.FileInfo) *api.AllocFileInfo {
	info := &api.AllocFileInfo{Name: name, IsDir: fi.IsDir(), Size: fi.Size(), FileMode: fi.Mode().String(), ModTime: fi.ModTime()}
	if !fi.IsDir() {
		if info.ContentType = mime.TypeByExtension(filepath.Ext(name)); info.ContentType == "" {
			info.ContentType = sniff(root, path)
		}
	}
	return info
}

// sniff tells a file's type by its first bytes.
func sniff(root *os.Root, path string) string {
	const looked = 512
	f, err := openFile(root, path)
	if err != nil {
		return "application/octet-stream"
	}
	defer f.Close()
	head, _ := io.ReadAll(io.LimitReader(f, looked))
	return http.DetectContentType(head)
}

func (s *Server) listFiles(root *os.Root, w http.ResponseWriter, r *http.Request) error {
	p, err := filePath(r, "/")
	if err != nil {
		return err
	}
	d, err := root.Open(p)
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	infos := []*api.AllocFileInfo{}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			infos = append(infos, fileInfo(root, path.Join(p, e.Name()), e.Name(), fi))
		}
	}
	slices.SortFunc(infos, func(a, b *api.AllocFileInfo) int { return strings.Compare(a.Name, b.Name) })
	s.reply(w, r, infos)
	return nil
}

func (s *Server) statFile(root *os.Root, w http.ResponseWriter, r *http.Request) error {
	p, err := filePath(r, "")
	if err != nil {
		return err
	}
	fi, err := root.Stat(p)
	if err != nil {
		return err
	}
	s.reply(w, r, fileInfo(root, p, fi.Name(), fi))
	return nil
}

func (s *Server) copyFile(root *os.Root, w http.ResponseWriter, r *http.Request, offset, limit int64) error {
	p, err := filePath(r, "")
	if err != nil {
		return err
	}
	f, err := openFile(root, p)
	if err != nil {
		return s.lateError(root, w, p, err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	var src io.Reader = f
	if limit >= 0 {
		src = io.LimitReader(f, limit)
	}
	w.Header().Set("Content-Type", "text/plain")
	_, err = io.Copy(w, src)
	if err != nil {
		s.Logger.Debug("sending a file", "path", p, "error", err)
	}
	return nil
}

// lateError tells of a missing file as Nomad does when it reads or streams
// one: with status 200, as the body.
func (s *Server) lateError(root *os.Root, w http.ResponseWriter, p string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintf(w, "stat %s: no such file or directory", filepath.Join(root.Name(), p))
	return nil
}

// openFile opens a regular file: a FIFO would block, a folder has no bytes.
func openFile(root *os.Root, p string) (*os.File, error) {
	fi, err := root.Stat(p)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, badRequest("file %q is not a regular file", p)
	}
	return root.Open(p)
}

// origin reads ?origin and ?offset; fromEnd means that offset counts back.
func origin(r *http.Request) (offset int64, fromEnd bool, err error) {
	if offset, err = number(r, "offset"); err != nil {
		return 0, false, err
	}
	switch r.URL.Query().Get("origin") {
	case "", "start":
		return offset, false, nil
	case "end":
		return offset, true, nil
	}
	return 0, false, badRequest("origin must be start or end")
}

// frames writes parts of files as Nomad's stream frames, or plainly.
type frames struct {
	w     http.ResponseWriter
	flush func() error
	plain bool
	sent  time.Time
}

func newFrames(w http.ResponseWriter, plain bool) *frames {
	w.Header().Set("Content-Type", "application/json")
	if plain {
		w.Header().Set("Content-Type", "text/plain")
	}
	return &frames{w: w, flush: http.NewResponseController(w).Flush, plain: plain, sent: time.Now()}
}

func (f *frames) write(frame api.StreamFrame) error {
	f.sent = time.Now()
	if f.plain {
		if _, err := f.w.Write(frame.Data); err != nil {
			return err
		}
		return f.flush()
	}
	b, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	if _, err := f.w.Write(b); err != nil {
		return err
	}
	return f.flush()
}

// idle is called when there is nothing to send.
func (f *frames) idle() error {
	if time.Since(f.sent) < frameHeartbeat {
		return nil
	}
	return f.write(api.StreamFrame{})
}

// copy sends what a file has from offset on, and returns the new offset.
func (f *frames) copy(file *os.File, name string, offset int64) (int64, error) {
	buf := make([]byte, frameSize)
	for {
		n, err := file.ReadAt(buf, offset)
		if n > 0 {
			if err := f.write(api.StreamFrame{Offset: offset + int64(n), Data: buf[:n], File: name}); err != nil {
				return offset, err
			}
			offset += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
	}
}

func (s *Server) streamFile(root *os.Root, w http.ResponseWriter, r *http.Request) error {
	p, err := filePath(r, "")
	if err != nil {
		return err
	}
	offset, fromEnd, err := origin(r)
	if err != nil {
		return err
	}
	follow := true
	if r.URL.Query().Has("follow") {
		follow = flag(r, "follow")
	}
	file, err := openFile(root, p)
	if err != nil {
		return s.lateError(root, w, p, err)
	}
	defer file.Close()
	if fromEnd {
		fi, err := file.Stat()
		if err != nil {
			return err
		}
		offset = max(0, fi.Size()-offset)
	}
	out := newFrames(w, flag(r, "plain"))
	s.sent(r, s.follow(r.Context(), root, file, p, offset, follow, out))
	return nil
}

// follow sends a file, and with more what is appended to it until the client goes.
func (s *Server) follow(ctx context.Context, root *os.Root, file *os.File, name string, offset int64, more bool, out *frames) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var err error
		if offset, err = out.copy(file, name, offset); err != nil || !more {
			return err
		}
		if fi, err := file.Stat(); err == nil && fi.Size() < offset {
			offset = 0
			if err := out.write(api.StreamFrame{File: name, FileEvent: "file truncated"}); err != nil {
				return err
			}
			continue
		}
		if _, err := root.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return out.write(api.StreamFrame{File: name, FileEvent: "file deleted"})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := out.idle(); err != nil {
			return err
		}
	}
}

// sent notes how a stream ended; its status was sent long ago.
func (s *Server) sent(r *http.Request, err error) {
	if err != nil {
		s.Logger.Debug("streaming", "path", r.URL.Path, "error", err)
	}
}

// logFile is one of a task's rotated log files.
type logFile struct {
	name  string
	index int
	size  int64
}

func logFiles(root *os.Root, task, kind string) ([]logFile, error) {
	d, err := root.Open(logFolder)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var files []logFile
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), task+"."+kind+".")
		index, err := strconv.Atoi(suffix)
		if !ok || err != nil {
			continue
		}
		if fi, err := e.Info(); err == nil {
			files = append(files, logFile{e.Name(), index, fi.Size()})
		}
	}
	slices.SortFunc(files, func(a, b logFile) int { return a.index - b.index })
	return files, nil
}

// streamLogs sends a task's log across its rotated files. Like Nomad's it goes
// on after the task's end when it is to follow.
func (s *Server) streamLogs(root *os.Root, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	task, kind := q.Get("task"), q.Get("type")
	if task == "" || strings.ContainsAny(task, `/\`) {
		return badRequest("must provide task name")
	}
	if kind != "stdout" && kind != "stderr" {
		return badRequest("must provide log type (stdout/stderr)")
	}
	offset, fromEnd, err := origin(r)
	if err != nil {
		return err
	}
	if _, err := root.Stat(task); err != nil {
		return badRequest("unknown task name %q", task)
	}
	files, err := logFiles(root, task, kind)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("log entry for task %q and log type %q not found: %w", task, kind, fs.ErrNotExist)
	}
	at, offset := seekLogs(files, offset, fromEnd)
	out := newFrames(w, flag(r, "plain"))
	s.sent(r, s.copyLogs(r.Context(), root, task, kind, at, offset, flag(r, "follow"), out))
	return nil
}

// seekLogs finds the file and the offset in it to start from.
func seekLogs(files []logFile, offset int64, fromEnd bool) (index int, at int64) {
	if fromEnd {
		for i := len(files) - 1; i >= 0; i-- {
			if offset <= files[i].size {
				return files[i].index, files[i].size - offset
			}
			offset -= files[i].size
		}
		return files[0].index, 0
	}
	for _, f := range files {
		if offset <= f.size {
			return f.index, offset
		}
		offset -= f.size
	}
	last := files[len(files)-1]
	return last.index, last.size
}

func (s *Server) copyLogs(ctx context.Context, root *os.Root, task, kind string, index int, offset int64, follow bool, out *frames) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		// The next file is looked for before this one is read to its end: once
		// there is a next one, nothing is appended to this one any more.
		files, err := logFiles(root, task, kind)
		if err != nil {
			return err
		}
		next := slices.IndexFunc(files, func(f logFile) bool { return f.index > index })
		name := fmt.Sprintf("%s/%s.%s.%d", logFolder, task, kind, index)
		file, err := root.Open(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // rotated away
		case err != nil:
			return err
		default:
			offset, err = out.copy(file, name, offset)
			file.Close()
			if err != nil {
				return err
			}
		}
		if next >= 0 {
			index, offset = files[next].index, 0
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := out.idle(); err != nil {
			return err
		}
	}
}
