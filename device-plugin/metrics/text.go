package metrics

import (
	"io"
	"math"
	"strconv"
	"sync"
)

// The kinds of metrics.
const (
	gauge   = "gauge"
	counter = "counter"
)

// text writes Prometheus's text format in pieces, so that a scrape needs one
// small buffer however much there is to say.
type text struct {
	w   io.Writer
	b   []byte
	err error
	// family is the one that begins with its first series.
	name, kind, help string
	begun            bool
	labels           int // of the present series
}

const pieceBytes = 32 << 10

var texts = sync.Pool{New: func() any { return &text{b: make([]byte, 0, pieceBytes+4096)} }}

func newText(w io.Writer) *text {
	t := texts.Get().(*text)
	*t = text{w: w, b: t.b[:0]}
	return t
}

func (t *text) release() {
	*t = text{b: t.b[:0]}
	texts.Put(t)
}

// family begins a family of series. One without any series isn't written.
func (t *text) family(name, kind, help string) {
	t.name, t.kind, t.help, t.begun = name, kind, help, false
}

// series begins one of the family, with labels that are written already.
// value ends it.
func (t *text) series(labels ...[]byte) {
	if !t.begun {
		t.begun = true
		t.b = append(append(append(t.b, "# HELP "...), t.name...), ' ')
		t.b = append(append(t.b, t.help...), "\n# TYPE "...)
		t.b = append(append(append(append(t.b, t.name...), ' '), t.kind...), '\n')
	}
	t.b = append(t.b, t.name...)
	t.labels = 0
	for _, l := range labels {
		if len(l) > 0 {
			t.separate()
			t.b = append(t.b, l...)
		}
	}
}

// label adds one label to a series. Without a value there is none.
func (t *text) label(name, value string) {
	if value != "" {
		t.separate()
		t.b = appendLabel(t.b, name, value)
	}
}

func (t *text) separate() {
	if t.labels == 0 {
		t.b = append(t.b, '{')
	} else {
		t.b = append(t.b, ',')
	}
	t.labels++
}

// value ends a series.
func (t *text) value(v float64) {
	if t.labels > 0 {
		t.b = append(t.b, '}')
	}
	t.b = append(t.b, ' ')
	if math.Abs(v) < 1e18 {
		t.b = strconv.AppendFloat(t.b, v, 'f', -1, 64)
	} else {
		t.b = strconv.AppendFloat(t.b, v, 'g', -1, 64)
	}
	t.b = append(t.b, '\n')
	if len(t.b) >= pieceBytes {
		t.flush()
	}
}

func (t *text) flush() {
	if t.err == nil {
		_, t.err = t.w.Write(t.b)
	}
	t.b = t.b[:0]
}

// appendLabel appends name="value", escaped. Labels are separated by commas.
func appendLabel(b []byte, name, value string) []byte {
	b = append(append(b, name...), `="`...)
	for i := range len(value) {
		switch c := value[i]; c {
		case '\\':
			b = append(b, `\\`...)
		case '"':
			b = append(b, `\"`...)
		case '\n':
			b = append(b, `\n`...)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
