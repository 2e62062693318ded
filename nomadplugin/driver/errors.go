package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// ErrTaskNotFound is returned for tasks that the driver does not know.
var ErrTaskNotFound = errors.New("task not found for given id")

// ErrStreamEnded is returned by the client's streams when the plugin ended
// one, which a healthy plugin does not do.
var ErrStreamEnded = wire.ErrStreamEnded

type recoverableError struct{ err error }

func (e *recoverableError) Error() string { return e.err.Error() }
func (e *recoverableError) Unwrap() error { return e.err }

// Recoverable marks a StartTask error as one that the task's restart policy
// may try again. Without the mark an error ends the task for good.
func Recoverable(err error) error {
	if err == nil {
		return nil
	}
	return &recoverableError{err}
}

// IsRecoverable reports whether err carries the mark of Recoverable, on either
// side of the wire.
func IsRecoverable(err error) bool {
	var r *recoverableError
	return errors.As(err, &r)
}

// statusOfError makes the status that agents understand: they look for a
// RecoverableError in its first detail and take an error without for final.
func statusOfError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	code := codes.Unknown
	switch {
	case IsRecoverable(err):
		code = codes.FailedPrecondition
	case errors.Is(err, ErrTaskNotFound):
		code = codes.NotFound
	case errors.Is(err, errors.ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	s, derr := status.New(code, err.Error()).WithDetails(&structspb.RecoverableError{Recoverable: IsRecoverable(err)})
	if derr != nil {
		return derr
	}
	return s.Err()
}

// errorOfStatus is the other side of statusOfError.
func errorOfStatus(err error) error {
	remote := wire.RemoteError(err)
	s, ok := err.(interface{ GRPCStatus() *status.Status })
	if !ok {
		return remote
	}
	if s.GRPCStatus().Code() == codes.NotFound {
		remote = &notFoundError{remote}
	}
	if details := s.GRPCStatus().Details(); len(details) > 0 {
		if d, ok := details[0].(*structspb.RecoverableError); ok && d.GetRecoverable() {
			remote = Recoverable(remote)
		}
	}
	return remote
}

// notFoundError is a plugin's error that matches ErrTaskNotFound.
type notFoundError struct{ error }

func (e *notFoundError) Is(target error) bool { return target == ErrTaskNotFound }
func (e *notFoundError) Unwrap() error        { return e.error }
