package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Unsupported has the calls that a driver may do without. Embed it and
// override what the driver can do:
//
//   - no agent configuration is allowed
//   - no statistics and no events are sent
//   - inspecting, signals and commands in tasks are refused
type Unsupported struct{}

// ConfigSchema allows no configuration.
func (Unsupported) ConfigSchema() *schema.Spec { return nil }

// SetConfig takes no configuration.
func (Unsupported) SetConfig(context.Context, base.Config) error { return nil }

// InspectTask is refused; no released agent asks.
func (Unsupported) InspectTask(context.Context, string) (*TaskStatus, error) {
	return nil, unsupported("inspecting tasks")
}

// TaskStats sends nothing until ctx ends.
func (Unsupported) TaskStats(ctx context.Context, _ string, _ time.Duration, _ func(TaskStats) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// TaskEvents sends nothing until ctx ends.
func (Unsupported) TaskEvents(ctx context.Context, _ func(TaskEvent) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// SignalTask is refused.
func (Unsupported) SignalTask(context.Context, string, string) error {
	return unsupported("sending signals")
}

// ExecTask is refused.
func (Unsupported) ExecTask(context.Context, string, []string, time.Duration) (*ExecResult, error) {
	return nil, unsupported("running commands in tasks")
}

// ExecTaskStreaming is refused.
func (Unsupported) ExecTaskStreaming(context.Context, string, ExecStreams) (*ExitResult, error) {
	return nil, unsupported("running commands in tasks")
}

func unsupported(what string) error {
	return fmt.Errorf("%s is not supported by this driver: %w", what, errors.ErrUnsupported)
}
