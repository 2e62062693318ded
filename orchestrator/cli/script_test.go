package cli_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/cli"
	state "github.com/drover-ml/drover/orchestrator/store"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"drover": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			defer stop()
			os.Exit(cli.Main(ctx, os.Args[1:], cli.IO{
				In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
				Now: func() time.Time { return apitest.Epoch.Add(time.Hour) },
			}))
		},
	})
}

// TestScripts runs the commands of testdata/script against the real API over a
// world that tests can foresee.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			w := newWorld()
			store, err := artifact.Open("file://" + filepath.Join(env.WorkDir, ".store"))
			if err != nil {
				return err
			}
			db, err := state.Open(context.Background(), filepath.Join(env.WorkDir, ".state", "drover.db"))
			if err != nil {
				return err
			}
			spaces, err := workspace.Open(context.Background(), db, func() time.Time { return apitest.Epoch.Add(time.Hour) })
			if err != nil {
				return err
			}
			gateway := httptest.NewServer(http.HandlerFunc(predict))
			srv := httptest.NewServer(api.New(api.Config{
				Runs: w, History: w, Models: w, Endpoints: w, Incidents: w, Queue: w, Workspaces: spaces, Artifacts: store,
				Gateway: "http://gateway.example", Version: "test", Logger: slog.New(slog.DiscardHandler),
			}))
			env.Defer(func() {
				srv.Close()
				gateway.Close()
				if err := errors.Join(store.Close(), db.Close()); err != nil {
					t.Error(err)
				}
			})
			if code, err := client.ScanSource(context.Background(), filepath.Join(env.WorkDir, "code")); err == nil {
				env.Setenv("DIGEST", code.Digest) // of the script's folder code
			}
			env.Setenv("DROVER_ADDR", srv.URL)
			env.Setenv("DROVER_GATEWAY", gateway.URL)
			env.Setenv("TZ", "UTC")
			env.Setenv("USER", "carol")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}

// predict stands for the gateway with one endpoint, which says what it got.
func predict(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/v2/models/digits/infer", "/endpoints/default/digits/predict":
		_, err = io.WriteString(w, `{"path":"`+r.URL.Path+`","got":`+string(body)+`}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, err = io.WriteString(w, `{"title":"No such endpoint","detail":"no endpoint of that name is registered"}`)
	}
	if err != nil && !errors.Is(err, http.ErrHandlerTimeout) {
		slog.Error("answering", "error", err)
	}
}
