// Package servetest serves a plugin's protocol inside a test.
package servetest

import (
	"context"
	"net"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/drover-ml/drover/nomadplugin/internal/serve"
)

// Connect serves what register registers, with the guards of a plugin process,
// and returns a connection to it. Both end with the test.
func Connect(t *testing.T, register func(grpc.ServiceRegistrar, hclog.Logger)) *grpc.ClientConn {
	t.Helper()
	log := hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Trace})
	s := grpc.NewServer(serve.Guards(log)...)
	register(s, log)
	l := bufconn.Listen(1 << 20)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:plugin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-served
	})
	return conn
}
