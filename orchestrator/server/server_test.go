package server_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/run"
	"github.com/drover-ml/drover/orchestrator/server"
)

// start starts a server whose Nomad does not answer.
func start(t *testing.T, dir string) *server.Server {
	t.Helper()
	s, err := server.Start(context.Background(), server.Config{
		DataDir: dir, Nomad: &nomad.Config{Address: "http://127.0.0.1:1"},
		Listen: "127.0.0.1:0", GatewayListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestRunsOutliveTheServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	ctx := context.Background()
	s := start(t, dir)
	c, err := client.New(client.Config{Address: s.Addr(), User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	r, created, err := c.Submit(ctx, run.Submission{Filename: "p.hcl", Key: "k", Source: "pipeline \"p\" {}\nstep \"a\" { command = [\"true\"] }\n"})
	if err != nil || !created || r.By != "alice" {
		t.Fatalf("%+v, %v, %v", r, created, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("stopping twice: %v", err)
	}

	s = start(t, dir)
	if c, err = client.New(client.Config{Address: s.Addr()}); err != nil {
		t.Fatal(err)
	}
	again, err := c.Run(ctx, r.ID)
	if err != nil || again.Phase.Ended() || len(again.Nodes) != 1 {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	if cancelled, err := c.Cancel(ctx, r.ID); err != nil {
		t.Errorf("%+v, %v", cancelled, err)
	}
}

func TestMetricsTellOfRuns(t *testing.T) {
	s := start(t, t.TempDir())
	c, err := client.New(client.Config{Address: s.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Submit(context.Background(), run.Submission{Filename: "p.hcl", Source: "pipeline \"p\" {}\nstep \"a\" { command = [\"true\"] }\n"}); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(s.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"drover_runs_submitted_total 1", "drover_runs_active 1", "go_goroutines"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}

func TestHealthTellsWhereTheGatewayIs(t *testing.T) {
	s := start(t, t.TempDir())
	resp, err := http.Get(s.Addr() + "/v1/health")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var h api.Health
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil || h.Gateway != s.GatewayAddr() || h.Status != "ok" {
		t.Errorf("%+v, %v", h, err)
	}
	live, err := http.Get(s.GatewayAddr() + "/v2/health/live")
	if err != nil {
		t.Fatal(err)
	}
	live.Body.Close()
	if live.StatusCode != http.StatusOK {
		t.Errorf("gateway: %s", live.Status)
	}
}

func TestAddressesThatOthersReachNeedTokens(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		_, err := server.Start(context.Background(), server.Config{DataDir: t.TempDir(), Nomad: &nomad.Config{}, Listen: listen})
		if err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s: error %v", listen, err)
		}
	}
}

func TestOneServerPerFolder(t *testing.T) {
	dir := t.TempDir()
	lock, err := server.LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.LockDir(dir); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second one: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	lock, err = server.LockDir(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestStateIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	start(t, dir)
	for _, name := range []string{".", "drover.db"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestGatewayAlone(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cluster := httptest.NewServer(http.NotFoundHandler())
	defer cluster.Close()
	ended := make(chan error, 1)
	up := make(chan string, 1)
	go func() {
		ended <- server.RunGateway(ctx, server.GatewayConfig{
			Nomad: &nomad.Config{Address: cluster.URL}, Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
		}, func(url string) { up <- url })
	}()
	url := <-up
	resp, err := http.Get(url + "/v2/health/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", resp.Status, err)
	}
}
