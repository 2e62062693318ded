package base

import (
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
)

// ServeOption changes how device.Serve and driver.Serve behave.
type ServeOption func(*ServeOptions)

// ServeOptions is what the options set.
type ServeOptions struct {
	// Logger defaults to NewLogger with the plugin's name.
	Logger hclog.Logger
}

// WithLogger makes Serve log to l, which should come from NewLogger.
func WithLogger(l hclog.Logger) ServeOption {
	return func(o *ServeOptions) { o.Logger = l }
}

// NewLogger returns a logger whose lines a Nomad agent takes into its own log,
// at their level. Create it before Serve, which replaces os.Stderr.
//
// A driver may outlive its agent. From then on nobody reads its stderr, not
// even an agent that takes it up again, so pass a file in also to keep its log.
// Errors of stderr are dropped.
func NewLogger(name string, also ...io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:       name,
		Level:      hclog.Trace, // the agent filters by its own level
		JSONFormat: true,
		Output:     logWriter(append([]io.Writer{os.Stderr}, also...)),
	})
}

// logWriter writes to all of its writers, whatever becomes of each.
type logWriter []io.Writer

func (ws logWriter) Write(p []byte) (int, error) {
	for _, w := range ws {
		_, _ = w.Write(p)
	}
	return len(p), nil
}
