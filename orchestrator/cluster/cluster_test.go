package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/run"
)

func TestWaits(t *testing.T) {
	tests := map[string]struct {
		metric api.AllocationMetric
		want   string
	}{
		"filtered and exhausted": {
			api.AllocationMetric{NodesEvaluated: 3, ConstraintFiltered: map[string]int{"missing drivers": 1}, DimensionExhausted: map[string]int{"devices": 2}},
			"1 node filtered by missing drivers, 2 nodes exhausted on devices"},
		"no nodes":          {api.AllocationMetric{}, "the job's datacenters have no node"},
		"none ready":        {api.AllocationMetric{NodesAvailable: map[string]int{"dc1": 0}}, "datacenter dc1 has no ready node"},
		"ready, but passed": {api.AllocationMetric{NodesAvailable: map[string]int{"dc1": 2}}, "none of its nodes was considered"},
		"quota":             {api.AllocationMetric{NodesEvaluated: 1, QuotaExhausted: []string{"memory"}}, "quota exhausted on memory"},
		"no details":        {api.AllocationMetric{NodesEvaluated: 2, NodesFiltered: 1, NodesExhausted: 1}, "1 node filtered, 1 node exhausted"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := waits(map[string]*api.AllocationMetric{"task": &tt.metric}); got != tt.want {
				t.Errorf("waits = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTaskEvents(t *testing.T) {
	event := func(kind string, details map[string]string) *api.TaskEvent {
		return &api.TaskEvent{Type: kind, Time: 5, Details: details, DisplayMessage: "said " + kind}
	}
	tests := map[string]struct {
		events []*api.TaskEvent
		want   run.Alloc
	}{
		"exit code": {[]*api.TaskEvent{event(api.TaskTerminated, map[string]string{"exit_code": "3", "signal": "0"})}, run.Alloc{ExitCode: new(3)}},
		"memory": {[]*api.TaskEvent{event(api.TaskTerminated, map[string]string{"exit_code": "137", "signal": "9", "oom_killed": "true"})},
			run.Alloc{ExitCode: new(137), Signal: 9, OOM: true}},
		"old fields": {[]*api.TaskEvent{{Type: api.TaskTerminated, ExitCode: 4}}, run.Alloc{ExitCode: new(4)}},
		"driver": {[]*api.TaskEvent{event(api.TaskDriverFailure, map[string]string{"driver_error": "staging: checksum differs"})},
			run.Alloc{Problem: "staging: checksum differs"}},
		"setup": {[]*api.TaskEvent{event(api.TaskSetupFailure, nil)}, run.Alloc{Problem: "said Setup Failure"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := fromAlloc(&api.Allocation{DesiredStatus: "run", TaskStates: map[string]*api.TaskState{"main": {Events: tt.events}}})
			tt.want.Desired = "run"
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A server's errors are told apart: what will never work from what may.
func TestRegisterErrors(t *testing.T) {
	tests := map[string]struct {
		status  int
		body    string
		invalid string // what the validation says
		refused string // "": to be tried again
	}{
		"bad request":          {400, "Job ID is not set", "", "Job ID is not set"},
		"invalid, told by 500": {500, "1 error occurred", `{"ValidationErrors": ["Missing job datacenters"]}`, "Missing job datacenters"},
		"no namespace":         {500, `job "drover-x" is in nonexistent namespace "vision"`, `{}`, `job "drover-x" is in nonexistent namespace "vision"`},
		"no leader":            {500, "No cluster leader", `{}`, ""},
		"forbidden for now":    {403, "Permission denied", "", ""},
		"too many requests":    {429, "slow down", "", ""},
		"gateway":              {502, "bad gateway", "<html>", ""},
		"conflict is no error": {500, api.RegisterEnforceIndexErrPrefix + " 0: job already exists", "", "conflict"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/validate/job" {
					w.Write([]byte(tt.invalid))
					return
				}
				w.WriteHeader(tt.status)
				w.Write([]byte(tt.body))
			}))
			defer srv.Close()
			client, err := api.NewClient(&api.Config{Address: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			id := "drover-x"
			err = New(client).In("").Register(context.Background(), &api.Job{ID: &id}, 0)
			var refused *run.RefusedError
			switch {
			case tt.refused == "conflict":
				if !errors.Is(err, run.ErrConflict) {
					t.Errorf("Register = %v, want ErrConflict", err)
				}
			case errors.As(err, &refused):
				if refused.Reason != tt.refused {
					t.Errorf("refused: %q, want %q", refused.Reason, tt.refused)
				}
			case tt.refused != "" || err == nil:
				t.Errorf("Register = %v, want it refused: %q", err, tt.refused)
			}
		})
	}
}

// A node's devices come with the event stream, and with a listing.
func TestNodesWithDevices(t *testing.T) {
	const node = `"ID": "n", "Name": "gpu-01", "ModifyIndex": 7, "NodeResources": {"Devices": [
		{"Vendor": "nvidia", "Type": "gpu", "Name": "A100", "Instances": [
			{"ID": "GPU-a", "Healthy": true}, {"ID": "GPU-b", "Healthy": false, "HealthDescription": "Xid 79"}]}]}`
	want := failover.Node{ID: "n", Name: "gpu-01", Index: 7, Devices: []failover.Device{
		{ID: "GPU-a", Board: "A100", Healthy: true}, {ID: "GPU-b", Board: "A100", Description: "Xid 79"},
	}}
	var e api.Event
	if err := json.Unmarshal([]byte(`{"Topic": "Node", "Type": "NodeRegistration", "Payload": {"Node": {`+node+`}}}`), &e); err != nil {
		t.Fatal(err)
	}
	u, ok, err := update(&e)
	if err != nil || !ok || u.Node == nil {
		t.Fatalf("update = %+v, %v, %v", u, ok, err)
	}
	if diff := cmp.Diff(want, *u.Node); diff != "" {
		t.Errorf("the event's node (-want +got):\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`{"Topic": "Node", "Type": "NodeEvent", "Payload": {"Node": {"ID": "m"}}}`), &e); err != nil {
		t.Fatal(err)
	}
	if u, ok, err := update(&e); ok || err != nil {
		t.Errorf("a node without devices: %+v, %v, %v", u, ok, err)
	}

	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/nodes" || r.URL.Query().Get("resources") != "true" {
			t.Errorf("asked for %s", r.URL)
		}
		fmt.Fprint(w, `[{`+node+`}, {"ID": "m"}]`)
	}))
	defer srv.Close()
	client, err := api.NewClient(&api.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := New(client).Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]failover.Node{want}, nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestResumedFrom(t *testing.T) {
	event := func(message string) *api.TaskEvent {
		return &api.TaskEvent{Type: api.TaskDriverMessage, DisplayMessage: message, Details: map[string]string{"step": "120"}}
	}
	for message, want := range map[string]*int64{"Resumed from step 120": new(int64(120)), "Checkpoint 120 sealed": nil} {
		got := fromAlloc(&api.Allocation{TaskStates: map[string]*api.TaskState{"main": {Events: []*api.TaskEvent{event(message)}}}})
		if diff := cmp.Diff(want, got.ResumedFrom); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", message, diff)
		}
	}
}
