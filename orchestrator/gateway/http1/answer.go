package http1

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// answer is the http.ResponseWriter of one request. It can be flushed.
type answer struct {
	conn      *conn
	header    http.Header
	head      bool // the request's method is HEAD
	version10 bool
	code      int  // 0 until it is known
	close     bool // the connection ends with this answer
	chunked   bool
	// left is how many bytes of a declared length are to come; -1 if none was
	// declared.
	left int64
}

func (a *answer) begin(c *conn, r *http.Request) {
	clear(a.header)
	*a = answer{conn: c, header: a.header, head: r.Method == http.MethodHead, version10: !r.ProtoAtLeast(1, 1), close: r.Close, left: -1}
}

// Header returns the headers, to be set before the answer begins.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader begins the answer. Interim answers are left out.
func (a *answer) WriteHeader(code int) {
	if code < 100 || code > 999 {
		panic("http1: status " + strconv.Itoa(code))
	}
	if a.code != 0 || code < 200 {
		return
	}
	a.code = code
	b := &a.conn.body
	a.close = a.close || a.version10 || a.conn.server.draining.Load() ||
		httpguts.HeaderValuesContainsToken(a.header["Connection"], "close") ||
		// Nobody will read that much, nor wait for what may not come.
		!b.ended && (b.length < 0 || b.length > maxDrain || b.awaited)
	length := a.header["Content-Length"]
	switch {
	case !a.hasBody() && !a.head:
		a.left = 0
	case len(length) == 1 && digits(length[0]):
		if n, err := strconv.ParseInt(length[0], 10, 64); err == nil {
			a.left = n
		}
	}
	a.chunked = a.left < 0 && a.hasBody() && !a.version10
	a.writeHead()
}

// hasBody reports whether a body follows the head (RFC 9110, 6.4.1).
func (a *answer) hasBody() bool {
	return !a.head && a.code != http.StatusNoContent && a.code != http.StatusNotModified
}

func (a *answer) writeHead() {
	w := a.conn.w
	_, _ = w.WriteString("HTTP/1.1 ")
	_, _ = w.WriteString(strconv.Itoa(a.code))
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(http.StatusText(a.code))
	_, _ = w.WriteString("\r\n")
	for name, values := range a.header {
		switch {
		case name == "Connection", name == "Transfer-Encoding", !httpguts.ValidHeaderFieldName(name):
			continue
		case name == "Content-Length" && (a.left < 0 || a.code == http.StatusNoContent):
			continue
		}
		for _, v := range values {
			a.writeField(name, v)
		}
	}
	if a.header["Date"] == nil {
		a.writeField("Date", a.conn.server.now())
	}
	if a.chunked {
		a.writeField("Transfer-Encoding", "chunked")
	}
	if a.close {
		a.writeField("Connection", "close")
	}
	_, _ = w.WriteString("\r\n") // an error stays with w until it is flushed
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")

func (a *answer) writeField(name, value string) {
	if !httpguts.ValidHeaderFieldValue(value) {
		value = oneLine.Replace(value)
	}
	w := a.conn.w
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(": ")
	_, _ = w.WriteString(value)
	_, _ = w.WriteString("\r\n")
}

// Write adds to the body.
func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	w := a.conn.w
	switch {
	case len(p) == 0, a.head:
		return len(p), nil
	case !a.hasBody():
		return 0, http.ErrBodyNotAllowed
	case a.chunked:
		_, _ = w.WriteString(strconv.FormatInt(int64(len(p)), 16))
		_, _ = w.WriteString("\r\n")
		n, err := w.Write(p)
		if err != nil {
			return n, err
		}
		_, err = w.WriteString("\r\n")
		return n, err
	case a.left < 0: // until the connection ends
		return w.Write(p)
	case int64(len(p)) > a.left:
		return 0, http.ErrContentLength
	}
	n, err := w.Write(p)
	a.left -= int64(n)
	return n, err
}

// FlushError sends what has been written.
func (a *answer) FlushError() error {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.conn.w.Flush()
}

// Flush is FlushError for those who do not ask.
func (a *answer) Flush() { _ = a.FlushError() }

var errShort = errors.New("the answer is shorter than its declared length")

// finish ends the answer. After an error the connection is of no more use.
func (a *answer) finish() error {
	if a.code == 0 {
		a.header.Set("Content-Length", "0")
		a.WriteHeader(http.StatusOK)
	}
	if a.chunked {
		_, _ = a.conn.w.WriteString("0\r\n\r\n")
	}
	if err := a.conn.w.Flush(); err != nil {
		return err
	}
	if a.left > 0 && a.hasBody() {
		return errShort
	}
	return nil
}
