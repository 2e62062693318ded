package logmon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(EnvDir); dir != "" {
		if err := Serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func start(t *testing.T) (*Client, string) {
	t.Helper()
	dir := t.TempDir()
	c, err := Connect(context.Background(), filepath.Join(dir, strings.Repeat("long/", 30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(c.PID(), syscall.SIGKILL) })
	return c, dir
}

func stream(t *testing.T, dir string) Stream {
	t.Helper()
	s := Stream{FIFO: filepath.Join(dir, "fifo"), Base: filepath.Join(dir, "out"), MaxFiles: 2, MaxBytes: 10}
	for range 2 {
		if err := MakeFIFO(s.FIFO); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestAWriterOutlivesTheConnection(t *testing.T) {
	c, dir := start(t)
	s := stream(t, dir)
	if err := c.Collect(s); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(s.FIFO, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write := func(text string) {
		t.Helper()
		if _, err := w.WriteString(text); err != nil {
			t.Fatalf("the writer got %v", err)
		}
	}
	write("one\n")
	pid := c.PID()
	c.Close()
	write("two\n")
	again, err := Connect(context.Background(), filepath.Join(dir, strings.Repeat("long/", 30)))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.PID() != pid {
		t.Errorf("collector %d, was %d", again.PID(), pid)
	}
	if err := again.Collect(s); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := again.Finish(s); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.Base + ".0"); err != nil || string(b) != "one\ntwo\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

func TestFinishDoesNotWaitForAWriterThatStays(t *testing.T) {
	c, dir := start(t)
	defer c.Close()
	s := stream(t, dir)
	if err := c.Collect(s); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(s.FIFO, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	began := time.Now()
	if err := c.Finish(s); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*drainTime {
		t.Errorf("it took %v", took)
	}
}

func TestRotation(t *testing.T) {
	tests := []struct {
		name  string
		write []string
		want  map[string]string
	}{
		{"fits", []string{"abc\n", "def\n"}, map[string]string{"0": "abc\ndef\n"}},
		{"lines stay whole", []string{"abcdef\n", "ghijkl\n"}, map[string]string{"0": "abcdef\n", "1": "ghijkl\n"}},
		{"old files go", []string{"aaaaaaaaa\n", "bbbbbbbbb\n", "ccccccccc\n"}, map[string]string{"1": "bbbbbbbbb\n", "2": "ccccccccc\n"}},
		{"a line longer than a file", []string{"0123456789abc\n"}, map[string]string{"0": "0123456789", "1": "abc\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Stream{Base: filepath.Join(t.TempDir(), "out"), MaxFiles: 2, MaxBytes: 10}
			r, err := openRotated(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range tt.write {
				if err := r.write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			r.close()
			names, _ := filepath.Glob(s.Base + ".*")
			if len(names) != len(tt.want) {
				t.Errorf("files %v", names)
			}
			for i, want := range tt.want {
				if b, err := os.ReadFile(s.Base + "." + i); err != nil || string(b) != want {
					t.Errorf("file %s: %q, %v", i, b, err)
				}
			}
			again, err := openRotated(s)
			if err != nil || again.index != r.index {
				t.Errorf("goes on with file %d, was at %d, %v", again.index, r.index, err)
			}
			again.close()
		})
	}
}
