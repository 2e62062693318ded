package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/internal/mltask"
)

func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, mltask.MetricsFile)
	m := newMetrics(dir)
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	check := func(what string, final, wantGrown bool, want map[string]float64) {
		t.Helper()
		grown, err := m.read(final)
		if err != nil || grown != wantGrown {
			t.Errorf("%s: grown %v, %v; want %v", what, grown, err, wantGrown)
		}
		if diff := cmp.Diff(want, m.last); diff != "" {
			t.Errorf("%s: last (-want +got):\n%s", what, diff)
		}
	}
	none := map[string]float64{}
	check("no file", false, false, none)
	add(`{"step":1,"metrics":{"loss":3,"acc":0.1}}` + "\n")
	check("a line", false, true, map[string]float64{"loss": 3, "acc": 0.1})
	check("nothing new", false, false, map[string]float64{"loss": 3, "acc": 0.1})
	add(`{"step":2,"metr`)
	check("half a line", false, false, map[string]float64{"loss": 3, "acc": 0.1})
	add(`ics":{"loss":2}}` + "\n")
	check("its other half", false, true, map[string]float64{"loss": 2, "acc": 0.1})
	if m.malformed != nil {
		t.Errorf("malformed = %v", m.malformed)
	}
	add("nonsense\n" + strings.Repeat("x", mltask.MaxMetricsLine+100) + "\n" + `{"step":3,"metrics":{"loss":1}}` + "\n")
	check("malformed lines", false, true, map[string]float64{"loss": 1, "acc": 0.1})
	if m.malformed == nil || !strings.Contains(m.malformed.Error(), "line 3") {
		t.Errorf("malformed = %v, want line 3", m.malformed)
	}
	add(`{"step":4,"metrics":{"loss":0.5}}`)
	check("a last line without an end", true, true, map[string]float64{"loss": 0.5, "acc": 0.1})
	if err := os.WriteFile(file, []byte(`{"step":1,"metrics":{"loss":9}}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check("begun anew", false, true, map[string]float64{"loss": 9})
}

// The file is the task's, who may put anything in its place.
func TestMetricsFileThatIsNone(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(`{"step":1,"metrics":{"secret":1}}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(file string) error{
		"link":   func(f string) error { return os.Symlink(secret, f) },
		"folder": func(f string) error { return os.Mkdir(f, 0o755) },
		"FIFO":   func(f string) error { return syscall.Mkfifo(f, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := put(filepath.Join(dir, mltask.MetricsFile)); err != nil {
				t.Fatal(err)
			}
			m := newMetrics(dir)
			if _, err := m.read(true); err == nil || len(m.last) != 0 {
				t.Errorf("read %v, %v", m.last, err)
			}
		})
	}
}

// However the file grows, the last values are the same.
func TestMetricsInPieces(t *testing.T) {
	text := `{"step":1,"metrics":{"a":1}}` + "\nx\n" + `{"step":2,"metrics":{"b":2}}` + "\n\n" + `{"step":3,"metrics":{"a":3}}` + "\n"
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "m")
		if err != nil {
			rt.Fatal(err)
		}
		m := newMetrics(dir)
		for at := 0; at < len(text); {
			at = min(len(text), at+rapid.IntRange(1, 40).Draw(rt, "piece"))
			if err := os.WriteFile(filepath.Join(dir, mltask.MetricsFile), []byte(text[:at]), 0o644); err != nil {
				rt.Fatal(err)
			}
			if _, err := m.read(false); err != nil {
				rt.Fatal(err)
			}
		}
		if diff := cmp.Diff(map[string]float64{"a": 3, "b": 2}, m.last); diff != "" {
			rt.Errorf("last (-want +got):\n%s", diff)
		}
	})
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"run": 0o755, "data": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=relative::/no/such/dir:" + dir}
	for _, test := range []struct{ name, command, want, err string }{
		{"on the PATH", "run", filepath.Join(dir, "run"), ""},
		{"absolute", filepath.Join(dir, "run"), filepath.Join(dir, "run"), ""},
		{"below the working directory", "./run", filepath.Join(dir, "run"), ""},
		{"not executable on the PATH", "data", "", "permission denied"},
		{"not executable", "./data", "", "permission denied"},
		{"a folder", "folder", "", "permission denied"},
		{"nowhere", "none", "", "is not on the task's PATH"},
		{"empty", "", "", "empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := lookPath(test.command, env, dir)
			if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("lookPath = %q, %v; want %q, %q", got, err, test.want, test.err)
			}
		})
	}
}

func TestEnding(t *testing.T) {
	const exited3, killed = syscall.WaitStatus(3 << 8), syscall.WaitStatus(9)
	for _, test := range []struct {
		name   string
		status syscall.WaitStatus
		errs   []error
		want   ending
		ok     bool
	}{
		{"success", 0, nil, ending{}, true},
		{"exit code", exited3, nil, ending{code: 3}, false},
		{"signal", killed, nil, ending{code: 137, signal: 9}, false},
		{"an error makes a failure of a success", 0, []error{errors.New("a"), errors.New("b")}, ending{code: 1, err: "a; b"}, false},
		{"an error keeps the exit code", exited3, []error{errors.New("a")}, ending{code: 3, err: "a"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e ending
			e.take(test.status)
			for _, err := range test.errs {
				e.addError(err)
			}
			e.settle()
			if e != test.want || e.succeeded() != test.ok {
				t.Errorf("ending = %+v, success %v; want %+v, %v", e, e.succeeded(), test.want, test.ok)
			}
		})
	}
}

func TestOpenOutput(t *testing.T) {
	if f, err := OpenOutput(t.Context(), os.DevNull); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if _, err := OpenOutput(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func FuzzReadSpec(f *testing.F) {
	f.Add(`{"TaskID":"a","Argv":["true"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := readSpec(strings.NewReader(text)); err == nil && len(s.Argv) == 0 {
			t.Error("an order without a command")
		}
	})
}
