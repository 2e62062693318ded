package driver

import "errors"

// ErrTaskNotFound is returned for tasks that the driver does not know.
var ErrTaskNotFound = errors.New("task not found for given id")

type recoverableError struct {
	err         error
	recoverable bool
}

func (e *recoverableError) Error() string { return e.err.Error() }
func (e *recoverableError) Unwrap() error { return e.err }

// Recoverable marks a StartTask error as one that the task's restart policy
// may try again. Without the mark an error ends the task for good.
func Recoverable(err error) error {
	if err == nil {
		return nil
	}
	return &recoverableError{err: err, recoverable: true}
}

// IsRecoverable reports whether err carries the mark of Recoverable.
func IsRecoverable(err error) bool {
	var r *recoverableError
	return errors.As(err, &r) && r.recoverable
}
