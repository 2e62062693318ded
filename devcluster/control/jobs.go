package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/scheduler"
	"github.com/drover-ml/drover/devcluster/state"
)

// keptVersions is how many versions of a job are kept.
const keptVersions = 6

// RegisterJob creates or updates a job. A job whose specification is as it
// was is only evaluated again: it gets no new version.
func (s *Server) RegisterJob(req *api.JobRegisterRequest) (*api.JobRegisterResponse, error) {
	job, err := prepare(req.Job)
	if err != nil {
		return nil, err
	}
	resp := &api.JobRegisterResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("JobRegistered")
		old := tx.Job(*job.Namespace, *job.ID)
		if err := s.admit(tx, job, old, req); err != nil {
			return err
		}
		var eval *api.Evaluation
		if !job.IsPeriodic() && !job.IsParameterized() {
			eval = newEval(job, triggerRegister)
			if req.EvalPriority > 0 {
				eval.Priority = req.EvalPriority
			}
			resp.EvalID, resp.EvalCreateIndex = eval.ID, tx.Index()
		}
		if old != nil && !specChanged(old, job) {
			tx.As("EvaluationUpdated")
			resp.JobModifyIndex = *old.ModifyIndex
			if eval == nil {
				return nil
			}
			eval.JobModifyIndex = *old.ModifyIndex
			return tx.PutEval(eval)
		}
		resp.JobModifyIndex = tx.Index()
		if err := s.putVersion(tx, job, old); err != nil {
			return err
		}
		if req.Submission != nil {
			h := *tx.History(*job.Namespace, *job.ID)
			h.Submission = req.Submission
			if err := tx.PutHistory(&h); err != nil {
				return err
			}
		}
		if eval == nil {
			return nil
		}
		eval.JobModifyIndex = tx.Index()
		return tx.PutEval(eval)
	})
	if err != nil {
		return nil, err
	}
	resp.LastIndex = index
	return resp, nil
}

// prepare validates a submitted job and fills in its defaults, on a copy.
func prepare(in *api.Job) (*api.Job, error) {
	if in == nil {
		return nil, invalid("Job must be specified")
	}
	job := &api.Job{}
	b, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(b, job)
	}
	if err != nil {
		return nil, invalid("decoding job: %v", err)
	}
	if deref(job.ID) == "" {
		return nil, invalid("Job ID hasn't been provided")
	}
	job.Canonicalize()
	if len(job.Datacenters) == 0 {
		job.Datacenters = []string{"*"}
	}
	if *job.NodePool == "" {
		job.NodePool = ptr(api.NodePoolDefault)
	}
	if err := validate(job); err != nil {
		return nil, err
	}
	job.Stop = ptr(false)
	job.Status = ptr("pending")
	job.StatusDescription = ptr("")
	job.Stable = ptr(false)
	job.SubmitTime = ptr(time.Now().UnixNano())
	return job, nil
}

// admit checks a job against what is there.
func (s *Server) admit(r *state.Tx, job, old *api.Job, req *api.JobRegisterRequest) error {
	const prefix = "Enforcing job modify index"
	if req.EnforceIndex {
		switch {
		case req.JobModifyIndex == 0 && old != nil:
			return refuse("%s 0: job already exists", prefix)
		case req.JobModifyIndex != 0 && old == nil:
			return refuse("%s %d: job does not exist", prefix, req.JobModifyIndex)
		case old != nil && *old.JobModifyIndex != req.JobModifyIndex:
			return refuse("%s %d: job exists with conflicting job modify index: %d", prefix, req.JobModifyIndex, *old.JobModifyIndex)
		}
	}
	if r.Namespace(*job.Namespace) == nil {
		return problemsError([]string{fmt.Sprintf("job %q is in nonexistent namespace %q", *job.ID, *job.Namespace)})
	}
	if r.NodePool(*job.NodePool) == nil {
		return problemsError([]string{fmt.Sprintf("job %q is in nonexistent node pool %q", *job.ID, *job.NodePool)})
	}
	if old != nil && *old.Type != *job.Type && !*old.Stop {
		return refuse("cannot update job from type %q to %q", *old.Type, *job.Type)
	}
	if old != nil && req.PreserveCounts {
		for _, tg := range job.TaskGroups {
			for _, was := range old.TaskGroups {
				if *was.Name == *tg.Name {
					tg.Count = was.Count
				}
			}
		}
	}
	return nil
}

// putVersion stores job as the next version.
func (s *Server) putVersion(tx *state.Tx, job, old *api.Job) error {
	job.Version = ptr(uint64(0))
	if old != nil {
		job.Version = ptr(*old.Version + 1)
		job.CreateIndex = old.CreateIndex
		if !*old.Stop && deref(old.Status) == "running" {
			job.Status = ptr("running") // what it has goes on meanwhile
		}
	}
	if job.IsPeriodic() || job.IsParameterized() || *job.Type == scheduler.System {
		job.Status = ptr("running")
	}
	if err := tx.PutJob(job, true); err != nil {
		return err
	}
	return s.trimVersions(tx, job)
}

// trimVersions forgets versions beyond the kept ones, but for those that
// allocations run or that are tagged.
func (s *Server) trimVersions(tx *state.Tx, job *api.Job) error {
	versions := tx.JobVersions(*job.Namespace, *job.ID, *job.CreateIndex)
	if len(versions) <= keptVersions {
		return nil
	}
	inUse := map[uint64]bool{}
	for _, a := range tx.AllocsOfJob(*job.Namespace, *job.ID) {
		if *a.Job.CreateIndex == *job.CreateIndex {
			inUse[*a.Job.Version] = true
		}
	}
	for _, v := range versions[keptVersions:] {
		if !inUse[*v.Version] && v.VersionTag == nil {
			if err := tx.DeleteJobVersion(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// specChanged compares what users can say about a job.
func specChanged(a, b *api.Job) bool { return *a.Stop || string(spec(a)) != string(spec(b)) }

func spec(j *api.Job) []byte {
	c := *j
	c.Stop, c.Status, c.StatusDescription, c.Stable, c.Version, c.SubmitTime = nil, nil, nil, nil, nil, nil
	c.CreateIndex, c.ModifyIndex, c.JobModifyIndex, c.VersionTag, c.NomadTokenID = nil, nil, nil, nil, nil
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("control: a stored job cannot be encoded: %v", err))
	}
	return b
}

// DeregisterJob stops a job, and with purge also forgets it. Its ID may be
// registered anew at once.
func (s *Server) DeregisterJob(namespace, id string, purge bool, evalPriority int) (*api.JobDeregisterResponse, error) {
	resp := &api.JobDeregisterResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("JobDeregistered")
		job := tx.Job(namespace, id)
		if job == nil {
			return nil // as good as deregistered
		}
		resp.JobModifyIndex = tx.Index()
		if err := s.stopJob(tx, job, purge); err != nil {
			return err
		}
		if job.IsPeriodic() || job.IsParameterized() {
			return nil
		}
		eval := newEval(job, triggerDeregister)
		eval.JobModifyIndex = tx.Index()
		if evalPriority > 0 {
			eval.Priority = evalPriority
		}
		resp.EvalID, resp.EvalCreateIndex = eval.ID, tx.Index()
		if err := tx.PutEval(eval); err != nil {
			return err
		}
		return s.cancelBlocked(tx, namespace, id, "", "evaluation cancelled due to job being stopped")
	})
	if err != nil {
		return nil, err
	}
	resp.LastIndex = index
	return resp, nil
}

func (s *Server) stopJob(tx *state.Tx, job *api.Job, purge bool) error {
	if purge {
		return tx.DeleteJob(job)
	}
	c := *job
	c.Stop = ptr(true)
	c.Version = ptr(*job.Version + 1)
	if c.IsPeriodic() || c.IsParameterized() {
		c.Status = ptr("dead")
	}
	return tx.PutJob(&c, true)
}

// EvaluateJob has a job scheduled again. With force, failed allocations are
// replaced whatever their reschedule policy says.
func (s *Server) EvaluateJob(namespace, id string, force bool) (*api.JobRegisterResponse, error) {
	resp := &api.JobRegisterResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("EvaluationUpdated")
		job := tx.Job(namespace, id)
		switch {
		case job == nil:
			return refuse("job not found")
		case job.IsPeriodic():
			return refuse("can't evaluate periodic job")
		case job.IsParameterized():
			return refuse("can't evaluate parameterized job")
		}
		for _, a := range tx.AllocsOfJob(namespace, id) {
			if !force || a.ClientStatus != api.AllocClientStatusFailed || a.NextAllocation != "" || scheduler.ServerTerminal(a) {
				continue
			}
			c := *a
			c.DesiredTransition.ForceReschedule = ptr(true)
			if err := tx.PutAlloc(&c, false); err != nil {
				return err
			}
		}
		eval := newEval(job, triggerRegister)
		resp.EvalID, resp.EvalCreateIndex, resp.JobModifyIndex = eval.ID, tx.Index(), *job.ModifyIndex
		return tx.PutEval(eval)
	})
	if err != nil {
		return nil, err
	}
	resp.LastIndex = index
	return resp, nil
}

// PlanJob says what registering a job would do, and does nothing.
func (s *Server) PlanJob(req *api.JobPlanRequest) (*api.JobPlanResponse, error) {
	job, err := prepare(req.Job)
	if err != nil {
		return nil, err
	}
	resp := &api.JobPlanResponse{}
	s.store.View(func(r state.Reader) {
		old := r.Job(*job.Namespace, *job.ID)
		index := r.Index() + 1
		job.CreateIndex, job.ModifyIndex, job.JobModifyIndex, job.Version = &index, &index, &index, ptr(uint64(0))
		if old != nil {
			resp.JobModifyIndex = *old.JobModifyIndex
			job.CreateIndex, job.Version = old.CreateIndex, ptr(*old.Version+1)
			if !specChanged(old, job) {
				job.Version = old.Version
			}
		}
		if req.Diff {
			resp.Diff = diffJobs(old, job)
		}
		if job.IsPeriodic() {
			resp.NextPeriodicLaunch, err = nextLaunch(job, time.Now())
			return
		}
		if job.IsParameterized() {
			resp.Annotations = &api.PlanAnnotations{DesiredTGUpdates: map[string]*api.DesiredUpdates{}}
			return
		}
		eval := newEval(job, triggerRegister)
		in := input(r, eval, time.Now())
		in.Job = job
		var plan *scheduler.Plan
		if plan, err = scheduler.Evaluate(in); err != nil {
			return
		}
		resp.Annotations = &api.PlanAnnotations{DesiredTGUpdates: plan.Desired}
		resp.FailedTGAllocs = plan.Failed
		eval.Status, eval.AnnotatePlan = evalComplete, true
		resp.CreatedEvals = []*api.Evaluation{}
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ScaleJob changes a group's count, or only records a scaling event if count
// is nil.
func (s *Server) ScaleJob(namespace, id string, req *api.ScalingRequest) (*api.JobRegisterResponse, error) {
	group := req.Target["Group"]
	resp := &api.JobRegisterResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("JobRegistered")
		job := tx.Job(namespace, id)
		if job == nil {
			return notFound("job %q not found", id)
		}
		tg := groupNamed(job, group)
		if tg == nil {
			return invalid("task group %q specified for scaling does not exist in job", group)
		}
		previous := int64(*tg.Count)
		event := api.ScalingEvent{Time: uint64(time.Now().UnixNano()), Count: req.Count, PreviousCount: previous,
			Message: req.Message, Error: req.Error, Meta: req.Meta, CreateIndex: tx.Index()}
		resp.JobModifyIndex = *job.ModifyIndex
		if req.Count != nil {
			if *req.Count < 0 {
				return invalid("scaling action count can't be negative")
			}
			if err := withinPolicy(tg, *req.Count); err != nil {
				return err
			}
			c := *job
			c.TaskGroups = slices.Clone(job.TaskGroups)
			for i, g := range c.TaskGroups {
				if g == tg {
					scaled := *g
					scaled.Count = ptr(int(*req.Count))
					c.TaskGroups[i] = &scaled
				}
			}
			if err := s.putVersion(tx, &c, job); err != nil {
				return err
			}
			resp.JobModifyIndex = tx.Index()
			eval := newEval(&c, triggerScaling)
			event.EvalID = &eval.ID
			resp.EvalID, resp.EvalCreateIndex = eval.ID, tx.Index()
			if err := tx.PutEval(eval); err != nil {
				return err
			}
		}
		const keptEvents = 20
		h := *tx.History(namespace, id)
		h.Scaling = maps.Clone(h.Scaling)
		if h.Scaling == nil {
			h.Scaling = map[string][]api.ScalingEvent{}
		}
		events := append([]api.ScalingEvent{event}, h.Scaling[group]...)
		h.Scaling[group] = events[:min(len(events), keptEvents)]
		return tx.PutHistory(&h)
	})
	if err != nil {
		return nil, err
	}
	resp.LastIndex = index
	return resp, nil
}

func withinPolicy(tg *api.TaskGroup, count int64) error {
	p := tg.Scaling
	if p == nil {
		return nil
	}
	if p.Max != nil && count > *p.Max {
		return invalid("group count was greater than scaling policy maximum: %d > %d", count, *p.Max)
	}
	if p.Min != nil && count < *p.Min {
		return invalid("group count was less than scaling policy minimum: %d < %d", count, *p.Min)
	}
	return nil
}

// RevertJob registers an earlier version again.
func (s *Server) RevertJob(namespace, id string, version uint64, enforcePrior *uint64) (*api.JobRegisterResponse, error) {
	var job *api.Job
	var err error
	var current uint64
	s.store.View(func(r state.Reader) {
		now := r.Job(namespace, id)
		switch {
		case now == nil:
			err = notFound("job %q not found", id)
			return
		case enforcePrior != nil && *now.Version != *enforcePrior:
			err = refuse("Current job has version %d; enforcing version %d", *now.Version, *enforcePrior)
			return
		case version == *now.Version:
			err = refuse("can't revert to current version")
			return
		}
		current = *now.JobModifyIndex
		for _, v := range r.JobVersions(namespace, id, 0) {
			if *v.Version == version {
				job = v
			}
		}
		if job == nil {
			err = refuse("job %q in namespace %q at version %d not found", id, namespace, version)
		}
	})
	if err != nil {
		return nil, err
	}
	return s.RegisterJob(&api.JobRegisterRequest{Job: bare(job), EnforceIndex: enforcePrior != nil, JobModifyIndex: current})
}

// bare is a job without what the server filled in.
func bare(j *api.Job) *api.Job {
	c := *j
	c.Stop, c.Status, c.StatusDescription, c.Stable, c.Version, c.SubmitTime = nil, nil, nil, nil, nil, nil
	c.CreateIndex, c.ModifyIndex, c.JobModifyIndex, c.VersionTag = nil, nil, nil, nil
	return &c
}

// SetStable marks a version of a job as good, or not.
func (s *Server) SetStable(namespace, id string, version uint64, stable bool) (uint64, error) {
	return s.store.Update(func(tx *state.Tx) error { return s.setStable(tx, namespace, id, version, stable) })
}

func (s *Server) setStable(tx *state.Tx, namespace, id string, version uint64, stable bool) error {
	for _, v := range tx.JobVersions(namespace, id, 0) {
		if *v.Version != version || deref(v.Stable) == stable {
			continue
		}
		c := *v
		c.Stable = &stable
		if job := tx.Job(namespace, id); *job.Version == version {
			return tx.PutJob(&c, false)
		}
		return tx.PutJobVersion(&c)
	}
	if tx.Job(namespace, id) == nil {
		return notFound("job not found")
	}
	return nil
}

// DispatchJob launches a child of a parameterized job. A token that was used
// before returns the child that it made.
func (s *Server) DispatchJob(namespace, id, token string, req *api.JobDispatchRequest) (*api.JobDispatchResponse, error) {
	resp := &api.JobDispatchResponse{}
	index, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("JobRegistered")
		parent := tx.Job(namespace, id)
		if err := dispatchable(parent, id, req); err != nil {
			return err
		}
		if token != "" {
			for _, j := range tx.Jobs() {
				if deref(j.ParentID) == id && *j.Namespace == namespace && deref(j.DispatchIdempotencyToken) == token {
					resp.DispatchedJobID, resp.JobCreateIndex = *j.ID, *j.CreateIndex
					return nil
				}
			}
		}
		child := bare(parent)
		prefix := req.IdPrefixTemplate
		if prefix != "" {
			prefix += "-"
		}
		child.ID = ptr(fmt.Sprintf("%s/dispatch-%s%d-%s", id, prefix, time.Now().Unix(), newID()[:8]))
		child.Name, child.ParentID, child.Dispatched = child.ID, &id, true
		child.DispatchIdempotencyToken = &token
		child.Payload = req.Payload
		if req.Priority > 0 {
			child.Priority = &req.Priority
		}
		child.Meta = maps.Clone(parent.Meta)
		if child.Meta == nil {
			child.Meta = map[string]string{}
		}
		maps.Copy(child.Meta, req.Meta)
		eval, err := s.putChild(tx, child, triggerRegister)
		if err != nil {
			return err
		}
		resp.DispatchedJobID, resp.JobCreateIndex = *child.ID, tx.Index()
		resp.EvalID, resp.EvalCreateIndex = eval.ID, tx.Index()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.LastIndex = index
	return resp, nil
}

// putChild registers a job that the server made itself.
func (s *Server) putChild(tx *state.Tx, child *api.Job, trigger string) (*api.Evaluation, error) {
	child.Stop, child.Stable, child.StatusDescription = ptr(false), ptr(false), ptr("")
	child.Status, child.Version = ptr("pending"), ptr(uint64(0))
	child.SubmitTime = ptr(time.Now().UnixNano())
	if err := tx.PutJob(child, true); err != nil {
		return nil, err
	}
	eval := newEval(child, trigger)
	return eval, tx.PutEval(eval)
}

func dispatchable(parent *api.Job, id string, req *api.JobDispatchRequest) error {
	const maxPayload = 16 << 10
	switch {
	case parent == nil:
		return refuse("parameterized job not found")
	case parent.ParameterizedJob == nil || parent.Dispatched:
		return refuse("Specified job %q is not a parameterized job", id)
	case *parent.Stop:
		return refuse("Specified job %q is stopped", id)
	}
	p := parent.ParameterizedJob
	switch {
	case p.Payload == "required" && len(req.Payload) == 0:
		return refuse("Payload is not provided but required by parameterized job")
	case p.Payload == "forbidden" && len(req.Payload) > 0:
		return refuse("Payload provided but forbidden by parameterized job")
	case len(req.Payload) > maxPayload:
		return refuse("Payload exceeds maximum size; %d > %d", len(req.Payload), maxPayload)
	}
	var unpermitted, missing []string
	for k := range req.Meta {
		if !slices.Contains(p.MetaRequired, k) && !slices.Contains(p.MetaOptional, k) {
			unpermitted = append(unpermitted, k)
		}
	}
	for _, k := range p.MetaRequired {
		if _, ok := req.Meta[k]; !ok {
			missing = append(missing, k)
		}
	}
	slices.Sort(unpermitted)
	if len(unpermitted) > 0 {
		return refuse("Dispatch request included unpermitted metadata keys: [%s]", strings.Join(unpermitted, " "))
	}
	if len(missing) > 0 {
		return refuse("Dispatch did not provide required meta keys: [%s]", strings.Join(missing, " "))
	}
	return nil
}

func groupNamed(j *api.Job, name string) *api.TaskGroup {
	for _, tg := range j.TaskGroups {
		if *tg.Name == name {
			return tg
		}
	}
	return nil
}
