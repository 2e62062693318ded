// Package term prints for people: aligned tables, colours where they can be
// seen, and a block of lines that is redrawn in place.
//
// On anything but a terminal, and with NO_COLOR set, what it prints is plain
// text without a single escape sequence.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	xterm "golang.org/x/term"
)

// Color is a colour of text.
type Color string

// The colours, as SGR parameters.
const (
	Plain  Color = ""
	Bold   Color = "1"
	Dim    Color = "2"
	Red    Color = "31"
	Green  Color = "32"
	Yellow Color = "33"
	Cyan   Color = "36"
)

// Screen is where a command prints. It is not safe for concurrent use.
type Screen struct {
	w     io.Writer
	file  *os.File // nil if w is no file
	tty   bool
	color bool
	drawn int // lines of the block that stand on the terminal
}

// New makes a screen of w. It is a terminal if w is a file that is one and TERM
// is not "dumb".
func New(w io.Writer, getenv func(string) string) *Screen {
	s := &Screen{w: w}
	if f, ok := w.(*os.File); ok {
		s.file = f
		s.tty = xterm.IsTerminal(int(f.Fd())) && getenv("TERM") != "dumb"
	}
	s.color = s.tty && getenv("NO_COLOR") == ""
	return s
}

// NoColor turns colours off.
func (s *Screen) NoColor() { s.color = false }

// Terminal reports whether lines can be redrawn in place.
func (s *Screen) Terminal() bool { return s.tty }

// Size returns the terminal's width and height; 80 by 24 if they are unknown.
func (s *Screen) Size() (width, height int) {
	if s.file != nil {
		if w, h, err := xterm.GetSize(int(s.file.Fd())); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// Paint returns text in a colour, or as it is where there are no colours.
func (s *Screen) Paint(c Color, text string) string {
	if !s.color || c == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Printf prints below everything printed so far, above a block drawn later.
func (s *Screen) Printf(format string, args ...any) {
	s.erase()
	fmt.Fprintf(s.w, format, args...)
}

// Draw replaces the block drawn before by lines, cut to the terminal's width.
// Lines that the terminal's height has no room for are left out at the end;
// the caller sorts by importance.
func (s *Screen) Draw(lines []string) {
	width, height := s.Size()
	if len(lines) > height-1 {
		lines = lines[:max(height-1, 1)]
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, line := range lines {
		b.WriteString("\r" + Clip(line, width-1) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = io.WriteString(s.w, b.String())
}

// Keep leaves the block drawn last where it is.
func (s *Screen) Keep() { s.drawn = 0 }

// erase takes the drawn block off the terminal.
func (s *Screen) erase() {
	if s.drawn > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

// Width is how many columns text takes, colours not counted.
func Width(text string) int {
	n := 0
	for rest := text; rest != ""; {
		if skip := escape(rest); skip > 0 {
			rest = rest[skip:]
			continue
		}
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
		n++
	}
	return n
}

// Clip cuts text to width columns, with an ellipsis if something was cut.
func Clip(text string, width int) string {
	if Width(text) <= width {
		return text
	}
	var b strings.Builder
	n, colored := 0, false
	for rest := text; rest != ""; {
		if skip := escape(rest); skip > 0 {
			b.WriteString(rest[:skip])
			rest, colored = rest[skip:], true
			continue
		}
		if n == width-1 {
			break
		}
		_, size := utf8.DecodeRuneInString(rest)
		b.WriteString(rest[:size])
		rest = rest[size:]
		n++
	}
	b.WriteString("…")
	if colored {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// escape returns the length of the SGR sequence that text begins with, 0 if
// it begins with none.
func escape(text string) int {
	if !strings.HasPrefix(text, "\x1b[") {
		return 0
	}
	if end := strings.IndexByte(text, 'm'); end > 0 {
		return end + 1
	}
	return 0
}

// Clean makes text that came from elsewhere safe to print on a terminal:
// control characters other than tab and newline are shown as �.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (r >= 0x20 && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			return r
		}
		return utf8.RuneError
	}, strings.ReplaceAll(text, "\r\n", "\n"))
}

// Colors reports whether there are colours.
func (s *Screen) Colors() bool { return s.color }
