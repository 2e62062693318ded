package term

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestTable(t *testing.T) {
	tests := map[string]struct {
		table func() *Table
		want  string
	}{
		"columns are aligned, empty cells are dashes": {func() *Table {
			t := NewTable("STEP", "PHASE", "DETAIL")
			t.Row("step.train", "running", "on dev-1")
			t.Row("a", "", "")
			return t
		}, "STEP        PHASE    DETAIL\nstep.train  running  on dev-1\na           -"},
		"numbers to the right": {func() *Table {
			t := NewTable("NAME", "VALUE").Right(1)
			t.Row("a", "1")
			t.Row("b", "10000000")
			return t
		}, "NAME     VALUE\na            1\nb     10000000"},
		"columns that nobody fills are left out": {func() *Table {
			t := NewTable("A", "B", "C")
			t.Row("1", "", "")
			return t
		}, "A\n1"},
		"no rows": {func() *Table { return NewTable("A", "B") }, "A  B"},
		"colours take no room": {func() *Table {
			t := NewTable("A", "B")
			t.Row("\x1b[31mred\x1b[0m", "x")
			t.Row("plain", "y")
			return t
		}, "A      B\n\x1b[31mred\x1b[0m    x\nplain  y"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, strings.Join(test.table().Lines(), "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFields(t *testing.T) {
	var b bytes.Buffer
	New(&b, env(nil)).Fields("Run", "r1", "Error", "", "Metrics", "a=1", "Metrics", "b=2")
	if want := "Run     = r1\nMetrics = a=1\n          b=2\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestClip(t *testing.T) {
	tests := map[string]struct {
		text  string
		width int
		want  string
	}{
		"fits":                  {"abc", 3, "abc"},
		"too long":              {"abcd", 3, "ab…"},
		"wide runes count once": {"äöüß", 3, "äö…"},
		"colour ends":           {"\x1b[31mabcd\x1b[0m", 3, "\x1b[31mab…\x1b[0m"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Clip(test.text, test.width); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestClipNeverExceedsItsWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, width := rapid.String().Draw(t, "text"), rapid.IntRange(1, 40).Draw(t, "width")
		if got := Width(Clip(text, width)); got > width {
			t.Errorf("%d columns, at most %d", got, width)
		}
	})
}

func TestCleanTextCannotSteerATerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got := Clean(rapid.String().Draw(t, "text"))
		if !utf8.ValidString(got) {
			t.Errorf("%q is no UTF-8", got)
		}
		for _, r := range got {
			if r == 0x1b || r == '\b' || r == '\r' || (r >= 0x80 && r <= 0x9f) {
				t.Errorf("%q has %q", got, r)
			}
		}
	})
}

// terminal is a screen on a terminal of a size, and what reads it.
func terminal(t *testing.T, rows, cols uint16, vars map[string]string) (*Screen, func() string) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("skipped: no pseudo-terminal: %v", err)
	}
	if err := pty.Setsize(slave, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	return New(slave, env(vars)), func() string {
		if _, err := slave.WriteString("\x04END"); err != nil {
			t.Fatal(err)
		}
		var got []byte
		buf := make([]byte, 4096)
		for !bytes.Contains(got, []byte("END")) {
			n, err := master.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		text, _, _ := strings.Cut(string(got), "\x04END")
		return strings.ReplaceAll(text, "\r\n", "\n")
	}
}

func TestDrawReplacesWhatWasDrawn(t *testing.T) {
	s, read := terminal(t, 10, 20, map[string]string{"TERM": "xterm"})
	s.Draw([]string{"one", "two"})
	s.Draw([]string{"three"})
	s.Printf("message\n")
	s.Draw([]string{"four"})
	want := "\rone\x1b[K\n\rtwo\x1b[K\n\x1b[J" + "\x1b[2A\rthree\x1b[K\n\x1b[J" + "\x1b[1A\x1b[J" + "message\n" + "\rfour\x1b[K\n\x1b[J"
	if got := read(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestDrawFitsTheTerminal(t *testing.T) {
	s, read := terminal(t, 3, 6, map[string]string{"TERM": "xterm"})
	s.Draw([]string{"too wide for it", "2", "3", "4"})
	if got, want := read(), "\rtoo …\x1b[K\n\r2\x1b[K\n\x1b[J"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestColours(t *testing.T) {
	tests := map[string]struct {
		vars   map[string]string
		colors bool
	}{
		"a terminal":      {map[string]string{"TERM": "xterm"}, true},
		"NO_COLOR":        {map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
		"a dumb terminal": {map[string]string{"TERM": "dumb"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := terminal(t, 24, 80, test.vars)
			if got := s.Paint(Red, "x") != "x"; got != test.colors {
				t.Errorf("colours %v, want %v", got, test.colors)
			}
		})
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if s := New(file, env(map[string]string{"TERM": "xterm"})); s.Terminal() || s.Colors() {
		t.Error("a file is taken for a terminal")
	}
}
