// Package wire holds what both sides of every plugin protocol share: the
// handshake, schemas in messages, and errors.
package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/hclspecpb"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Handshake is what a Nomad agent and a plugin must agree on.
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  2,
	MagicCookieKey:   "NOMAD_PLUGIN_MAGIC_COOKIE",
	MagicCookieValue: "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
}

// SpecMessage encodes a schema; nil stays nil.
func SpecMessage(s *schema.Spec) (*hclspecpb.Spec, error) {
	if s == nil {
		return nil, nil
	}
	b, err := s.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encoding schema: %w", err)
	}
	m := &hclspecpb.Spec{}
	return m, proto.Unmarshal(b, m)
}

// Spec decodes a schema; nil stays nil.
func Spec(m *hclspecpb.Spec) (*schema.Spec, error) {
	if m == nil {
		return nil, nil
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	s := &schema.Spec{}
	return s, s.UnmarshalBinary(b)
}

// RemoteError makes a readable error of a gRPC status: its text is the
// plugin's own. It matches the context errors, and status.FromError still
// finds the status. Other errors are returned as they are.
func RemoteError(err error) error {
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return &remoteError{s.GRPCStatus()}
	}
	return err
}

type remoteError struct{ status *status.Status }

func (e *remoteError) Error() string {
	switch e.status.Code() {
	case codes.Unknown, codes.FailedPrecondition, codes.Internal, codes.NotFound:
		return e.status.Message()
	default:
		return fmt.Sprintf("%s (%s)", e.status.Message(), e.status.Code())
	}
}

func (e *remoteError) GRPCStatus() *status.Status { return e.status }

func (e *remoteError) Is(target error) bool {
	switch e.status.Code() {
	case codes.Canceled:
		return target == context.Canceled
	case codes.DeadlineExceeded:
		return target == context.DeadlineExceeded
	case codes.Unimplemented:
		return target == errors.ErrUnsupported
	}
	return false
}

// ErrStreamEnded says that the other side ended a stream in good order.
var ErrStreamEnded = errors.New("plugin ended the stream")

// Receive calls each with every message of a stream that was opened with err,
// until the stream ends or each returns an error, which is returned as it is.
// Why the stream ended is made readable by remote and wrapped with act. It
// never returns nil.
func Receive[M any](act string, remote func(error) error, stream grpc.ServerStreamingClient[M], err error, each func(*M) error) error {
	for err == nil {
		var m *M
		if m, err = stream.Recv(); err == nil {
			if err := each(m); err != nil {
				return err
			}
		}
	}
	if err == io.EOF {
		return fmt.Errorf("%s: %w", act, ErrStreamEnded)
	}
	return fmt.Errorf("%s: %w", act, remote(err))
}

// Timestamp encodes t; the zero time becomes year 1, which agents take for
// unset.
func Timestamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// Time decodes a timestamp; nil and year 1 become the zero time.
func Time(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	at := t.AsTime()
	if at.IsZero() {
		return time.Time{}
	}
	return at
}
