package cluster

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/run"
)

// A stream has the namespaces that there are when it is opened: one that is new is
// heard of all the same, and nothing is missed or told twice.
func TestWatchHearsOfNewNamespaces(t *testing.T) {
	created := make(chan struct{})
	var mu sync.Mutex
	var opened []string // the index of each stream
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/jobs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Nomad-Index", "5")
		fmt.Fprint(w, "[]")
	})
	mux.HandleFunc("GET /v1/namespaces", func(w http.ResponseWriter, r *http.Request) {
		index := "3"
		select {
		case <-created:
			index = "8"
		default:
		}
		if waits := r.URL.Query().Get("index"); waits == index {
			if waits == "3" {
				select {
				case <-created:
					index = "8"
				case <-r.Context().Done():
				}
			} else {
				<-r.Context().Done()
			}
		}
		w.Header().Set("X-Nomad-Index", index)
		fmt.Fprint(w, "[]")
	})
	mux.HandleFunc("GET /v1/event/stream", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("namespace") != "*" {
			t.Errorf("a stream of namespace %q", q.Get("namespace"))
		}
		mu.Lock()
		opened = append(opened, q.Get("index"))
		n := len(opened)
		mu.Unlock()
		namespace, index := "default", 7
		if n > 1 {
			namespace, index = "vision", 9
		}
		fmt.Fprintf(w, `{"Index": %d, "Events": [{"Topic": "Job", "Type": "JobDeregistered", "Index": %d, "Payload": {"Job": {"ID": "drover-a", "Namespace": %q}}}]}`+"\n", index, index, namespace)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	client, err := api.NewClient(&api.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var heard []string
	reached, err := New(client).Watch(ctx, 0, func() {}, func(u run.Update) {
		heard = append(heard, u.Namespace+"/"+u.JobID)
		switch len(heard) {
		case 1:
			close(created)
		case 2:
			cancel()
		}
	})
	if ctx.Err() == nil || reached < 7 {
		t.Errorf("the watch ended at %d: %v", reached, err)
	}
	if diff := cmp.Diff([]string{"default/drover-a", "vision/drover-a"}, heard); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{"5", "7"}, opened); diff != "" {
		t.Errorf("streams after (-want +got):\n%s", diff)
	}
}
