package httpapi

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

func (s *Server) jobRoutes() {
	s.read("GET /v1/jobs", s.listJobs, state.Jobs, state.Allocs)
	s.writes("/v1/jobs", s.registerJob)
	s.writes("/v1/validate/job", s.validateJob)
	job := "/v1/job/{id}"
	s.read("GET "+job, s.ofJob(func(st state.Reader, r *http.Request, j *api.Job) any { return j }, state.Jobs))
	s.writes(job, s.registerJob)
	s.write("DELETE "+job, s.deregisterJob)
	s.read("GET "+job+"/versions", s.jobVersions)
	s.read("GET "+job+"/submission", s.jobSubmission)
	s.read("GET "+job+"/allocations", s.jobAllocs, state.Allocs)
	s.read("GET "+job+"/evaluations", s.jobEvals, state.Evals)
	s.read("GET "+job+"/deployments", s.jobDeployments, state.Deployments)
	s.read("GET "+job+"/deployment", func(st state.Reader, r *http.Request) result {
		return result{value: st.LatestDeployment(namespace(r), r.PathValue("id")), index: st.TableIndex(state.Deployments)}
	})
	s.read("GET "+job+"/summary", s.ofJob(func(st state.Reader, r *http.Request, j *api.Job) any { return summary(st, j) },
		state.Jobs, state.Allocs, state.Evals))
	s.read("GET "+job+"/scale", s.ofJob(func(st state.Reader, r *http.Request, j *api.Job) any { return scaleStatus(st, j) },
		state.Jobs, state.Allocs, state.Histories))
	s.read("GET "+job+"/services", s.jobServices, state.Services)
	s.writes(job+"/plan", s.planJob)
	s.writes(job+"/scale", s.scaleJob)
	s.writes(job+"/dispatch", s.dispatchJob)
	s.writes(job+"/evaluate", s.evaluateJob)
	s.writes(job+"/revert", s.revertJob)
	s.writes(job+"/stable", s.stableJob)
	s.writes(job+"/periodic/force", func(r *http.Request) (any, uint64, error) {
		id, index, err := s.Control.ForcePeriodic(namespace(r), r.PathValue("id"))
		return map[string]any{"EvalID": id, "EvalCreateIndex": index, "Index": index}, index, err
	})
}

// ofJob is a read about one job. Its index is that of the tables that it
// looks at, or of the job itself if there are no others.
func (s *Server) ofJob(get func(st state.Reader, r *http.Request, j *api.Job) any, tables ...string) func(state.Reader, *http.Request) result {
	return func(st state.Reader, r *http.Request) result {
		index := st.TableIndex(tables...)
		j := st.Job(namespace(r), r.PathValue("id"))
		if j == nil {
			return result{index: index, err: missing("job")}
		}
		if len(tables) == 1 {
			index = *j.ModifyIndex
		}
		return result{value: get(st, r, j), index: index}
	}
}

func (s *Server) listJobs(st state.Reader, r *http.Request) result {
	withMeta := flag(r, "meta")
	l := list[*api.Job]{
		rows: slices.DeleteFunc(st.Jobs(), func(j *api.Job) bool { return !inNamespace(r, *j.Namespace) }),
		id:   func(j *api.Job) string { return *j.ID },
		stub: func(j *api.Job) any {
			stub := &api.JobListStub{
				ID: *j.ID, ParentID: deref(j.ParentID), Name: *j.Name, Namespace: *j.Namespace, Datacenters: j.Datacenters,
				Type: *j.Type, Priority: *j.Priority, Periodic: j.IsPeriodic(), ParameterizedJob: j.IsParameterized(),
				Stop: *j.Stop, Status: *j.Status, StatusDescription: deref(j.StatusDescription), JobSummary: summary(st, j),
				CreateIndex: *j.CreateIndex, ModifyIndex: *j.ModifyIndex, JobModifyIndex: *j.JobModifyIndex, SubmitTime: deref(j.SubmitTime),
			}
			if withMeta {
				stub.Meta = j.Meta
			}
			return stub
		},
	}
	return l.result(r, st.TableIndex(state.Jobs, state.Allocs))
}

// summary counts a job's allocations by what became of them. Those that were
// replaced count by their replacement.
func summary(st state.Reader, j *api.Job) *api.JobSummary {
	sum := &api.JobSummary{JobID: *j.ID, Namespace: *j.Namespace, Summary: map[string]api.TaskGroupSummary{},
		Children: &api.JobChildrenSummary{}, CreateIndex: *j.CreateIndex, ModifyIndex: *j.ModifyIndex}
	queued := st.History(*j.Namespace, *j.ID).Queued
	for _, tg := range j.TaskGroups {
		sum.Summary[*tg.Name] = api.TaskGroupSummary{Queued: queued[*tg.Name]}
	}
	for _, a := range st.AllocsOfJob(*j.Namespace, *j.ID) {
		if *a.Job.CreateIndex != *j.CreateIndex {
			continue
		}
		g := sum.Summary[a.TaskGroup]
		switch a.ClientStatus {
		case api.AllocClientStatusPending:
			g.Starting++
		case api.AllocClientStatusRunning:
			g.Running++
		case api.AllocClientStatusComplete:
			g.Complete++
		case api.AllocClientStatusFailed:
			g.Failed++
		case api.AllocClientStatusLost:
			g.Lost++
		case api.AllocClientStatusUnknown:
			g.Unknown++
		}
		sum.Summary[a.TaskGroup] = g
		sum.ModifyIndex = max(sum.ModifyIndex, a.ModifyIndex)
	}
	if j.IsPeriodic() || j.IsParameterized() {
		for _, child := range st.Jobs() {
			if deref(child.ParentID) != *j.ID || *child.Namespace != *j.Namespace {
				continue
			}
			switch *child.Status {
			case "pending":
				sum.Children.Pending++
			case "running":
				sum.Children.Running++
			case "dead":
				sum.Children.Dead++
			}
		}
	}
	return sum
}

func scaleStatus(st state.Reader, j *api.Job) *api.JobScaleStatusResponse {
	resp := &api.JobScaleStatusResponse{JobID: *j.ID, Namespace: *j.Namespace, JobCreateIndex: *j.CreateIndex,
		JobModifyIndex: *j.ModifyIndex, JobStopped: *j.Stop, TaskGroups: map[string]api.TaskGroupScaleStatus{}}
	h := st.History(*j.Namespace, *j.ID)
	for _, tg := range j.TaskGroups {
		resp.TaskGroups[*tg.Name] = api.TaskGroupScaleStatus{Desired: *tg.Count, Events: h.Scaling[*tg.Name]}
	}
	for _, a := range st.AllocsOfJob(*j.Namespace, *j.ID) {
		g, ok := resp.TaskGroups[a.TaskGroup]
		if !ok || scheduler.ClientTerminal(a) || scheduler.ServerTerminal(a) {
			continue
		}
		g.Placed++
		if a.ClientStatus == api.AllocClientStatusRunning {
			g.Running++
		}
		if a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil {
			if *a.DeploymentStatus.Healthy {
				g.Healthy++
			} else {
				g.Unhealthy++
			}
		}
		resp.TaskGroups[a.TaskGroup] = g
	}
	return resp
}

func (s *Server) jobVersions(st state.Reader, r *http.Request) result {
	index := st.TableIndex(state.JobVersions)
	versions := st.JobVersions(namespace(r), r.PathValue("id"), 0)
	if st.Job(namespace(r), r.PathValue("id")) == nil {
		return result{index: index, err: missing("job versions")}
	}
	if flag(r, "diffs") {
		return result{index: index, err: &control.Error{Status: http.StatusNotImplemented,
			Message: "diffs between job versions are not part of this development cluster"}}
	}
	return result{value: api.JobVersionsResponse{Versions: versions}, index: index}
}

func (s *Server) jobSubmission(st state.Reader, r *http.Request) result {
	index := st.TableIndex(state.Histories)
	sub := st.History(namespace(r), r.PathValue("id")).Submission
	if sub == nil {
		return result{index: index, err: missing("job source")}
	}
	return result{value: sub, index: index}
}

func (s *Server) jobAllocs(st state.Reader, r *http.Request) result {
	rows := st.AllocsOfJob(namespace(r), r.PathValue("id"))
	if j := st.Job(namespace(r), r.PathValue("id")); j != nil && !flag(r, "all") {
		rows = slices.DeleteFunc(rows, func(a *api.Allocation) bool { return *a.Job.CreateIndex != *j.CreateIndex })
	}
	return allocList(rows, r).result(r, st.TableIndex(state.Allocs))
}

func (s *Server) jobEvals(st state.Reader, r *http.Request) result {
	return evalList(st.EvalsOfJob(namespace(r), r.PathValue("id"))).result(r, st.TableIndex(state.Evals))
}

func (s *Server) jobDeployments(st state.Reader, r *http.Request) result {
	rows := st.DeploymentsOfJob(namespace(r), r.PathValue("id"))
	slices.Reverse(rows)
	return deploymentList(rows).result(r, st.TableIndex(state.Deployments))
}

func (s *Server) jobServices(st state.Reader, r *http.Request) result {
	rows := slices.DeleteFunc(st.Services(), func(svc *api.ServiceRegistration) bool {
		return svc.JobID != r.PathValue("id") || svc.Namespace != namespace(r)
	})
	return serviceList(rows).result(r, st.TableIndex(state.Services))
}

func (s *Server) registerJob(r *http.Request) (any, uint64, error) {
	var req api.JobRegisterRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	if req.Job == nil {
		return nil, 0, badRequest("Job must be specified")
	}
	if id := r.PathValue("id"); id != "" && deref(req.Job.ID) != id {
		return nil, 0, badRequest("Job ID does not match name in request")
	}
	if err := setNamespace(r, req.Job); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.RegisterJob(&req)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

// setNamespace gives a job the request's namespace if it names none.
func setNamespace(r *http.Request, j *api.Job) error {
	asked := r.URL.Query().Get("namespace")
	if deref(j.Namespace) == "" {
		ns := namespace(r)
		j.Namespace = &ns
	} else if asked != "" && asked != *j.Namespace {
		return badRequest("mismatched request namespace in request: %q, %q", asked, *j.Namespace)
	}
	return nil
}

func (s *Server) validateJob(r *http.Request) (any, uint64, error) {
	var req api.JobValidateRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	resp := &api.JobValidateResponse{}
	if req.Job != nil {
		if err := setNamespace(r, req.Job); err != nil {
			return nil, 0, err
		}
	}
	if err := control.Validate(req.Job); err != nil {
		resp.Error = err.Error()
		resp.ValidationErrors = []string{err.Error()}
	}
	return resp, 0, nil
}

func (s *Server) deregisterJob(r *http.Request) (any, uint64, error) {
	priority, _ := strconv.Atoi(r.URL.Query().Get("eval_priority"))
	resp, err := s.Control.DeregisterJob(namespace(r), r.PathValue("id"), flag(r, "purge"), priority)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

func (s *Server) planJob(r *http.Request) (any, uint64, error) {
	var req api.JobPlanRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	if req.Job == nil {
		return nil, 0, badRequest("Job must be specified")
	}
	if err := setNamespace(r, req.Job); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.PlanJob(&req)
	return resp, 0, err
}

func (s *Server) scaleJob(r *http.Request) (any, uint64, error) {
	var req api.ScalingRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.ScaleJob(namespace(r), r.PathValue("id"), &req)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

func (s *Server) dispatchJob(r *http.Request) (any, uint64, error) {
	var req api.JobDispatchRequest
	if err := optionalBody(r, &req); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.DispatchJob(namespace(r), r.PathValue("id"), r.URL.Query().Get("idempotency_token"), &req)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

func (s *Server) evaluateJob(r *http.Request) (any, uint64, error) {
	var req api.JobEvaluateRequest
	if err := optionalBody(r, &req); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.EvaluateJob(namespace(r), r.PathValue("id"), req.EvalOptions.ForceReschedule)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

func (s *Server) revertJob(r *http.Request) (any, uint64, error) {
	var req api.JobRevertRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	resp, err := s.Control.RevertJob(namespace(r), r.PathValue("id"), req.JobVersion, req.EnforcePriorVersion)
	if err != nil {
		return nil, 0, err
	}
	return resp, resp.LastIndex, nil
}

func (s *Server) stableJob(r *http.Request) (any, uint64, error) {
	var req api.JobStabilityRequest
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	index, err := s.Control.SetStable(namespace(r), r.PathValue("id"), req.JobVersion, req.Stable)
	return &api.JobStabilityResponse{JobModifyIndex: index}, index, err
}
