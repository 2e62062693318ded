package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/catalog"
)

// agent answers as a Nomad agent does for services, blocking queries included.
type agent struct {
	mu       sync.Mutex
	index    uint64
	services []api.ServiceRegistration
	down     bool
	changed  chan struct{} // closed at the next change
	refused  chan struct{} // a query got no answer
}

// set changes what is registered. The index may go down, as in a cluster that
// has started anew.
func (a *agent) set(index uint64, down bool, services ...api.ServiceRegistration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index, a.down, a.services = index, down, services
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var after uint64
	_, _ = fmt.Sscan(r.URL.Query().Get("index"), &after)
	a.mu.Lock()
	for after > 0 && a.index <= after && !a.down {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	if a.down {
		http.Error(w, "no cluster leader", http.StatusInternalServerError)
		select {
		case a.refused <- struct{}{}:
		default: // nobody waits for that
		}
		return
	}
	w.Header().Set("X-Nomad-Index", fmt.Sprint(a.index))
	if name, ok := strings.CutPrefix(r.URL.Path, "/v1/service/"); ok {
		found := []api.ServiceRegistration{}
		for _, s := range a.services {
			if s.ServiceName == name && s.Namespace == r.URL.Query().Get("namespace") {
				found = append(found, s)
			}
		}
		_ = json.NewEncoder(w).Encode(found)
		return
	}
	lists := []api.ServiceRegistrationListStub{}
	for _, s := range a.services {
		lists = append(lists, api.ServiceRegistrationListStub{Namespace: s.Namespace,
			Services: []*api.ServiceRegistrationStub{{ServiceName: s.ServiceName, Tags: s.Tags}}})
	}
	_ = json.NewEncoder(w).Encode(lists)
}

func registration(id, service, namespace string, tags ...string) api.ServiceRegistration {
	return api.ServiceRegistration{ID: id, ServiceName: service, Namespace: namespace, AllocID: "alloc-" + id, Address: "::1", Port: 80, Tags: tags}
}

func TestWatch(t *testing.T) {
	a := &agent{index: 7, changed: make(chan struct{}), refused: make(chan struct{})}
	server := httptest.NewServer(a)
	defer server.Close()
	client, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel() // before the server waits for the last query
	updates, done := make(chan []catalog.Instance), make(chan error, 1)
	go func() {
		done <- catalog.NewNomad(client, slog.New(slog.DiscardHandler)).Watch(ctx, func(i []catalog.Instance) {
			select {
			case updates <- i:
			case <-ctx.Done():
			}
		})
	}()
	// until waits for the update that has these instances.
	until := func(what string, want ...catalog.Instance) {
		t.Helper()
		late := time.After(10 * time.Second)
		var diff string
		for {
			select {
			case got := <-updates:
				if diff = cmp.Diff(want, got); diff == "" {
					return
				}
			case <-late:
				t.Fatalf("%s: no such update; the last one (-want +got):\n%s", what, diff)
			}
		}
	}
	instance := func(id, service string, tags map[string]string) catalog.Instance {
		return catalog.Instance{ID: id, Service: service, AllocID: "alloc-" + id, Address: "[::1]:80", Tags: tags}
	}
	none := map[string]string{}

	until("none")
	a.set(8, false,
		registration("b", "drover-default-m", "prod", "drover.endpoint=m", "drover.ready=/a=b", "odd"),
		registration("x", "database", "default"),
		registration("a", "drover-default-n", "default"))
	m := instance("b", "drover-default-m", map[string]string{catalog.TagEndpoint: "m", catalog.TagReady: "/a=b"})
	until("two endpoints and another's service", instance("a", "drover-default-n", none), m)

	// What is known holds while the cluster does not answer.
	a.set(9, true)
	<-a.refused
	a.set(10, false, registration("c", "drover-default-m", "prod"))
	until("after an outage", instance("c", "drover-default-m", none))

	a.set(10, true)
	<-a.refused
	a.set(2, false, registration("d", "drover-default-m", "prod"))
	until("a cluster that started anew", instance("d", "drover-default-m", none))
	a.set(3, false)
	until("all gone")

	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch returned %v", err)
	}
}
