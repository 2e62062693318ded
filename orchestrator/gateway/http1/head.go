package http1

import (
	"bytes"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// refusal is why a request is not served.
type refusal struct {
	code   int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func bad(reason string) error { return &refusal{http.StatusBadRequest, reason} }

// headEnd returns the length of the head that b begins with, 0 if its end is
// not in b. Bytes before from have been looked at before.
func headEnd(b []byte, from int) int {
	from = max(0, from-3) // the end may have been cut in two
	if i := bytes.Index(b[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return 0
}

// checkHead refuses a request's head that two parsers could read in two ways:
// with bare CR or LF, folded lines, other control characters, blanks around a
// name, not exactly one Host (but in HTTP/1.0), a length beside a transfer
// coding, more than one of either, or a transfer coding other than chunked.
func checkHead(head []byte) error {
	line, rest, more := strings.Cut(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	version, err := checkRequestLine(line)
	if err != nil {
		return err
	}
	hosts, lengths, codings := 0, 0, 0
	for more {
		line, rest, more = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			return bad("a header has no valid name")
		}
		value = strings.Trim(value, " \t")
		if !httpguts.ValidHeaderFieldValue(value) {
			return bad("a header has a control character in it")
		}
		switch {
		case strings.EqualFold(name, "Host"):
			hosts++
			if !httpguts.ValidHostHeader(value) {
				return bad("the Host header is malformed")
			}
		case strings.EqualFold(name, "Content-Length"):
			lengths++
			if !digits(value) {
				return bad("the Content-Length is not a number")
			}
		case strings.EqualFold(name, "Transfer-Encoding"):
			codings++
			if !strings.EqualFold(value, "chunked") {
				return &refusal{http.StatusNotImplemented, "the only transfer coding known is chunked"}
			}
		case strings.EqualFold(name, "Expect"):
			if !strings.EqualFold(value, "100-continue") {
				return &refusal{http.StatusExpectationFailed, "the only expectation known is 100-continue"}
			}
		}
	}
	switch {
	case lengths+codings > 1:
		return bad("the body's length is told more than once")
	case codings > 0 && version == "HTTP/1.0":
		return bad("HTTP/1.0 has no transfer codings")
	case hosts > 1, hosts == 0 && version == "HTTP/1.1":
		return bad("there must be one Host header")
	}
	return nil
}

func checkRequestLine(line string) (version string, err error) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	if !httpguts.ValidHeaderFieldName(method) || target == "" {
		return "", bad("the request line is malformed")
	}
	for _, c := range []byte(target) {
		if c <= ' ' || c == 0x7f {
			return "", bad("the request's target has a control character in it")
		}
	}
	switch {
	case version == "HTTP/1.1", version == "HTTP/1.0":
		return version, nil
	case strings.HasPrefix(version, "HTTP/") && !strings.Contains(version, " "):
		return "", &refusal{http.StatusHTTPVersionNotSupported, "the versions known are HTTP/1.0 and HTTP/1.1"}
	}
	return "", bad("the request line is malformed")
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
