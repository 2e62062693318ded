// Package problem is how Drover's domain tells its callers that something they
// asked for cannot be done: an error with a kind that an adapter maps to an
// HTTP status or an exit code, and a message that says what to do next.
//
// Errors that carry no kind are internal ones: their text is for the log.
package problem

import (
	"errors"
	"fmt"
)

// Kind is what sort of problem an error is.
type Kind string

// The kinds. Internal is that of every error without a kind of its own.
const (
	Invalid     Kind = "invalid"     // the request is wrong; repeating it will not help
	NotFound    Kind = "not found"   // what it names is not there
	Conflict    Kind = "conflict"    // it does not fit the present state
	Denied      Kind = "denied"      // not allowed to this caller
	Unavailable Kind = "unavailable" // something outside does not answer; try again
	Internal    Kind = "internal"
)

// Error is a problem of a kind.
type Error struct {
	Kind    Kind
	Message string
	// Field is the path of the request's field that is wrong, such as
	// "vars.epochs"; "" if it is no single one.
	Field string
	// Err is the cause, if there is one. It is not part of Message.
	Err error
}

// New returns an error of the given kind. A %w in format sets its cause.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// At returns an Invalid error about one field of a request.
func At(field, format string, args ...any) *Error {
	e := New(Invalid, format, args...)
	e.Field = field
	return e
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Of returns the kind of the first problem in err's chain, else Internal.
func Of(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is a problem of the given kind.
func Is(err error, kind Kind) bool { return err != nil && Of(err) == kind }
