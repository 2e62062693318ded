package httpapi

import (
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/state"
)

func (s *Server) allocRoutes() {
	s.read("GET /v1/allocations", func(st state.Reader, r *http.Request) result {
		rows := slices.DeleteFunc(st.Allocs(), func(a *api.Allocation) bool { return !inNamespace(r, a.Namespace) })
		return allocList(rows, r).result(r, st.TableIndex(state.Allocs))
	}, state.Allocs)
	s.read("GET /v1/allocation/{id}", func(st state.Reader, r *http.Request) result {
		a := st.Alloc(r.PathValue("id"))
		if a == nil {
			return result{index: st.TableIndex(state.Allocs), err: missingID("alloc", r.PathValue("id"))}
		}
		return result{value: a, index: a.ModifyIndex}
	})
	s.read("GET /v1/allocation/{id}/services", func(st state.Reader, r *http.Request) result {
		return serviceList(st.ServicesOfAlloc(r.PathValue("id"))).result(r, st.TableIndex(state.Services))
	})
	s.writes("/v1/allocation/{id}/stop", func(r *http.Request) (any, uint64, error) {
		id, index, err := s.Control.StopAlloc(r.PathValue("id"), flag(r, "no_shutdown_delay"))
		return &api.AllocStopResponse{EvalID: id, WriteMeta: api.WriteMeta{LastIndex: index}}, index, err
	})
	s.evalRoutes()
	s.deploymentRoutes()
}

func allocList(rows []*api.Allocation, r *http.Request) list[*api.Allocation] {
	resources := flag(r, "resources")
	return list[*api.Allocation]{rows: rows, id: func(a *api.Allocation) string { return a.ID },
		stub: func(a *api.Allocation) any {
			stub := &api.AllocationListStub{
				ID: a.ID, EvalID: a.EvalID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, NodeName: a.NodeName,
				JobID: a.JobID, JobType: *a.Job.Type, JobVersion: *a.Job.Version, TaskGroup: a.TaskGroup,
				DesiredStatus: a.DesiredStatus, DesiredDescription: a.DesiredDescription,
				ClientStatus: a.ClientStatus, ClientDescription: a.ClientDescription, TaskStates: a.TaskStates,
				DeploymentStatus: a.DeploymentStatus, FollowupEvalID: a.FollowupEvalID, NextAllocation: a.NextAllocation,
				RescheduleTracker: a.RescheduleTracker, PreemptedAllocations: a.PreemptedAllocations,
				PreemptedByAllocation: a.PreemptedByAllocation, CreateIndex: a.CreateIndex, ModifyIndex: a.ModifyIndex,
				CreateTime: a.CreateTime, ModifyTime: a.ModifyTime,
			}
			if resources {
				stub.AllocatedResources = a.AllocatedResources
			}
			return stub
		}}
}

func (s *Server) evalRoutes() {
	s.read("GET /v1/evaluations", func(st state.Reader, r *http.Request) result {
		q := r.URL.Query()
		rows := slices.DeleteFunc(st.Evals(), func(e *api.Evaluation) bool {
			return !inNamespace(r, e.Namespace) || q.Get("job") != "" && e.JobID != q.Get("job") ||
				q.Get("status") != "" && e.Status != q.Get("status")
		})
		return evalList(rows).result(r, st.TableIndex(state.Evals))
	}, state.Evals)
	s.read("GET /v1/evaluations/count", func(st state.Reader, r *http.Request) result {
		rows := slices.DeleteFunc(st.Evals(), func(e *api.Evaluation) bool { return !inNamespace(r, e.Namespace) })
		return result{value: map[string]int{"Count": len(rows)}, index: st.TableIndex(state.Evals)}
	})
	s.read("GET /v1/evaluation/{id}", func(st state.Reader, r *http.Request) result {
		e := st.Eval(r.PathValue("id"))
		if e == nil {
			return result{index: st.TableIndex(state.Evals), err: missingID("eval", r.PathValue("id"))}
		}
		if !r.URL.Query().Has("related") {
			return result{value: e, index: e.ModifyIndex}
		}
		c := *e
		for _, other := range st.EvalsOfJob(e.Namespace, e.JobID) {
			if other.ID == e.PreviousEval || other.ID == e.NextEval || other.ID == e.BlockedEval || other.PreviousEval == e.ID {
				c.RelatedEvals = append(c.RelatedEvals, evalStub(other))
			}
		}
		return result{value: &c, index: e.ModifyIndex}
	})
	s.read("GET /v1/evaluation/{id}/allocations", func(st state.Reader, r *http.Request) result {
		id := r.PathValue("id")
		rows := slices.DeleteFunc(st.Allocs(), func(a *api.Allocation) bool { return a.EvalID != id })
		return allocList(rows, r).result(r, st.TableIndex(state.Allocs))
	})
}

func evalList(rows []*api.Evaluation) list[*api.Evaluation] {
	return list[*api.Evaluation]{rows: rows, id: func(e *api.Evaluation) string { return e.ID },
		stub: func(e *api.Evaluation) any { return e }}
}

func evalStub(e *api.Evaluation) *api.EvaluationStub {
	return &api.EvaluationStub{ID: e.ID, Priority: e.Priority, Type: e.Type, TriggeredBy: e.TriggeredBy, Namespace: e.Namespace,
		JobID: e.JobID, NodeID: e.NodeID, DeploymentID: e.DeploymentID, Status: e.Status, StatusDescription: e.StatusDescription,
		WaitUntil: e.WaitUntil, NextEval: e.NextEval, PreviousEval: e.PreviousEval, BlockedEval: e.BlockedEval,
		CreateIndex: e.CreateIndex, ModifyIndex: e.ModifyIndex, CreateTime: e.CreateTime, ModifyTime: e.ModifyTime}
}

func deploymentList(rows []*api.Deployment) list[*api.Deployment] {
	return list[*api.Deployment]{rows: rows, id: func(d *api.Deployment) string { return d.ID },
		stub: func(d *api.Deployment) any { return d }}
}

func (s *Server) deploymentRoutes() {
	s.read("GET /v1/deployments", func(st state.Reader, r *http.Request) result {
		rows := slices.DeleteFunc(st.Deployments(), func(d *api.Deployment) bool { return !inNamespace(r, d.Namespace) })
		return deploymentList(rows).result(r, st.TableIndex(state.Deployments))
	}, state.Deployments)
	s.read("GET /v1/deployment/{id}", func(st state.Reader, r *http.Request) result {
		d := st.Deployment(r.PathValue("id"))
		if d == nil {
			return result{index: st.TableIndex(state.Deployments), err: missingID("deployment", r.PathValue("id"))}
		}
		return result{value: d, index: d.ModifyIndex}
	})
	s.read("GET /v1/deployment/allocations/{id}", func(st state.Reader, r *http.Request) result {
		id := r.PathValue("id")
		rows := slices.DeleteFunc(st.Allocs(), func(a *api.Allocation) bool { return a.DeploymentID != id })
		return allocList(rows, r).result(r, st.TableIndex(state.Allocs))
	})
	change := func(op string, do func(id string, r *http.Request) (*api.DeploymentUpdateResponse, error)) {
		s.writes("/v1/deployment/"+op+"/{id}", func(r *http.Request) (any, uint64, error) {
			resp, err := do(r.PathValue("id"), r)
			if err != nil {
				return nil, 0, err
			}
			return resp, resp.LastIndex, nil
		})
	}
	change("promote", func(id string, r *http.Request) (*api.DeploymentUpdateResponse, error) {
		var req api.DeploymentPromoteRequest
		if err := body(r, &req); err != nil {
			return nil, err
		}
		return s.Control.PromoteDeployment(id, &req)
	})
	change("fail", func(id string, r *http.Request) (*api.DeploymentUpdateResponse, error) {
		return s.Control.FailDeployment(id)
	})
	change("pause", func(id string, r *http.Request) (*api.DeploymentUpdateResponse, error) {
		var req api.DeploymentPauseRequest
		if err := body(r, &req); err != nil {
			return nil, err
		}
		return s.Control.PauseDeployment(id, req.Pause)
	})
	change("allocation-health", func(id string, r *http.Request) (*api.DeploymentUpdateResponse, error) {
		var req api.DeploymentAllocHealthRequest
		if err := body(r, &req); err != nil {
			return nil, err
		}
		return s.Control.SetAllocHealth(id, &req)
	})
	change("unblock", func(string, *http.Request) (*api.DeploymentUpdateResponse, error) {
		return nil, &control.Error{Status: http.StatusNotImplemented, Message: "multiregion deployments are not part of this development cluster"}
	})
}

// streamEvents is Nomad's event stream: a line of JSON for each transaction,
// and {} when there is nothing to tell for a while.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	const heartbeat = 10 * time.Second
	sel, after, err := parseSelection(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	out := http.NewResponseController(w)
	send := func(line []byte) bool {
		if _, err := w.Write(append(line, '\n')); err != nil {
			return false
		}
		return out.Flush() == nil
	}
	if !send([]byte("{}")) {
		return
	}
	for {
		batches, alive := s.nextBatches(r, after, heartbeat)
		if !alive {
			return
		}
		sent := false
		for _, b := range batches {
			after = b.Index
			line, err := sel.encode(b)
			if err != nil {
				s.Logger.Error("encoding events", "index", b.Index, "error", err)
				return
			}
			if line == nil {
				continue
			}
			if !s.holdBack(r, b) || !send(line) {
				return
			}
			sent = true
		}
		if !sent && len(batches) == 0 && !send([]byte("{}")) {
			return
		}
	}
}
