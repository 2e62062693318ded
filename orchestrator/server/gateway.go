package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// GatewayConfig says what a gateway on its own is made of.
type GatewayConfig struct {
	Nomad *nomad.Config
	// Listen is the gateway's address. Default 127.0.0.1:4681.
	Listen string
	// MetricsListen is where /metrics is served; "" for nowhere. It is apart
	// because the gateway's own address belongs to the endpoints' clients.
	MetricsListen string
	Logger        *slog.Logger
}

// DefaultGatewayListen is the gateway's address unless told otherwise.
const DefaultGatewayListen = "127.0.0.1:4681"

// RunGateway serves endpoints until ctx ends. ready is called with the base
// URL once it listens.
func RunGateway(ctx context.Context, cfg GatewayConfig, ready func(url string)) error {
	if cfg.Listen == "" {
		cfg.Listen = DefaultGatewayListen
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	client, err := nomad.NewClient(cfg.Nomad)
	if err != nil {
		return fmt.Errorf("connecting to Nomad: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	metrics := prometheus.NewRegistry()
	s, err := startGateway(ctx, group, client, cfg.Listen, metrics, cfg.Logger)
	if err != nil {
		return err
	}
	if cfg.MetricsListen != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		if _, err := serveHTTP(ctx, group, cfg.MetricsListen, mux); err != nil {
			stop()
			return errors.Join(err, group.Wait())
		}
	}
	ready(s.url())
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
