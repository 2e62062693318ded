// Package cluster is the run engine's way to Nomad: a thin adapter over
// Nomad's HTTP API. It keeps no state, decides nothing, and is safe for use
// from many goroutines.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/run"
)

// callTimeout bounds every call but those that stream.
const callTimeout = 30 * time.Second

// jobPrefix is what the IDs of all of Drover's jobs start with.
const jobPrefix = "drover-"

// Nomad is a cluster behind a Nomad HTTP API.
type Nomad struct{ client *api.Client }

var _ run.Cluster = (*Nomad)(nil)

// New returns a cluster that is reached through client, whose region must be the
// one that jobs go to.
func New(client *api.Client) *Nomad { return &Nomad{client} }

// In are the jobs of a namespace; "" is the client's.
func (n *Nomad) In(namespace string) run.Jobs { return &jobs{n.client, namespace} }

// jobs are those of a namespace.
type jobs struct {
	client    *api.Client
	namespace string
}

func (n *jobs) reads(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{Namespace: n.namespace}).WithContext(ctx)
}

func (n *jobs) writes(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{Namespace: n.namespace}).WithContext(ctx)
}

// Exist reports whether the namespace does. See run.Jobs.
func (n *jobs) Exist(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if n.namespace == "" {
		return true, nil
	}
	_, _, err := n.client.Namespaces().Info(n.namespace, (&api.QueryOptions{}).WithContext(ctx))
	if statusOf(err) == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for namespace %s: %w", n.namespace, err)
	}
	return true, nil
}

// Register submits a job. See run.Jobs.
func (n *jobs) Register(ctx context.Context, job *api.Job, base uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, _, err := n.client.Jobs().EnforceRegister(job, base, n.writes(ctx))
	if err == nil {
		return nil
	}
	// Nomad gives this one no status of its own, only this prefix.
	if strings.Contains(err.Error(), api.RegisterEnforceIndexErrPrefix) {
		return run.ErrConflict
	}
	switch status := statusOf(err); {
	case strings.Contains(err.Error(), "nonexistent namespace"): // 500, too
		return &run.RefusedError{Reason: bodyOf(err)}
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge:
		return &run.RefusedError{Reason: bodyOf(err)}
	case status >= 500:
		// Nomad answers 500 to an invalid job, too: ask it which it is.
		if reason := n.invalid(ctx, job); reason != "" {
			return &run.RefusedError{Reason: reason}
		}
	}
	return fmt.Errorf("registering job %s: %w", *job.ID, err)
}

// invalid says what is wrong with a job, "" if Nomad finds nothing or cannot
// say.
func (n *jobs) invalid(ctx context.Context, job *api.Job) string {
	r, _, err := n.client.Jobs().Validate(job, n.writes(ctx))
	if err != nil || r.Error == "" && len(r.ValidationErrors) == 0 {
		return ""
	}
	if len(r.ValidationErrors) > 0 {
		return strings.Join(r.ValidationErrors, "; ")
	}
	return r.Error
}

// Job says how a job stands. See run.Jobs.
func (n *jobs) Job(ctx context.Context, id string) (run.JobState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := n.job(ctx, id)
	if err != nil && !errors.Is(err, run.ErrNoJob) {
		return s, fmt.Errorf("asking for job %s: %w", id, err)
	}
	return s, err
}

func (n *jobs) job(ctx context.Context, id string) (run.JobState, error) {
	q := n.reads(ctx)
	job, _, err := n.client.Jobs().Info(id, q)
	if statusOf(err) == http.StatusNotFound {
		return run.JobState{}, run.ErrNoJob
	}
	if err != nil {
		return run.JobState{}, err
	}
	s := run.JobState{Meta: job.Meta}
	s.Index, s.Version, s.Stopped = *job.JobModifyIndex, *job.Version, *job.Stop
	s.Dead = *job.Status == "dead"
	stubs, _, err := n.client.Jobs().Allocations(id, false, q)
	if err != nil {
		return s, err
	}
	alive := false
	for _, stub := range stubs {
		a := fromStub(stub)
		alive = alive || !a.Ended()
		s.Allocs = append(s.Allocs, a)
	}
	service := *job.Type == api.JobTypeService
	if (!alive || service) && !s.Dead {
		if s.Waits, err = n.waits(id, q); err != nil {
			return s, err
		}
	}
	if service {
		s.Deployments, err = n.deployments(id, q)
	}
	return s, err
}

// waits says why a job's newest evaluation could not place it.
func (n *jobs) waits(id string, q *api.QueryOptions) (string, error) {
	evals, _, err := n.client.Jobs().Evaluations(id, q)
	if err != nil {
		return "", err
	}
	slices.SortFunc(evals, func(a, b *api.Evaluation) int { return int(int64(b.CreateIndex) - int64(a.CreateIndex)) })
	for _, e := range evals {
		if len(e.FailedTGAllocs) > 0 {
			return waits(e.FailedTGAllocs), nil
		}
		if e.Status == "complete" && e.BlockedEval == "" {
			return "", nil
		}
	}
	return "", nil
}

func (n *jobs) deployments(id string, q *api.QueryOptions) ([]run.DeploymentState, error) {
	all, _, err := n.client.Jobs().Deployments(id, false, q)
	if err != nil {
		return nil, err
	}
	versions, _, _, err := n.client.Jobs().Versions(id, false, q)
	if err != nil {
		return nil, err
	}
	metas := map[uint64]map[string]string{}
	for _, v := range versions {
		metas[*v.Version] = v.Meta
	}
	// A rollback is a new version with an old revision. The deployment of a
	// revision is its first.
	slices.SortFunc(all, func(a, b *api.Deployment) int { return int(int64(a.CreateIndex) - int64(b.CreateIndex)) })
	var out []run.DeploymentState
	for _, d := range all {
		meta := metas[d.JobVersion]
		out = append(out, run.DeploymentState{
			JobVersion: d.JobVersion, Revision: meta[jobspec.MetaRevision], Run: meta[jobspec.MetaRun],
			Status: d.Status, Reason: d.StatusDescription,
		})
	}
	return out, nil
}

// Stop ends a job's tasks. See run.Jobs.
func (n *jobs) Stop(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, _, err := n.client.Jobs().Deregister(id, false, n.writes(ctx))
	if err != nil && statusOf(err) != http.StatusNotFound {
		return fmt.Errorf("stopping job %s: %w", id, err)
	}
	return nil
}

// ReadFile reads a piece of an allocation's file. See run.Jobs. It asks
// through the server, which knows the way to the client.
func (n *jobs) ReadFile(ctx context.Context, allocID, path string, offset, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := n.reads(ctx)
	params := url.Values{"path": {path}}
	// To a read of a file that is not there, Nomad answers 200 with a message
	// for content. What is there is asked for first.
	var info api.AllocFileInfo
	_, err := n.client.Raw().Query("/v1/client/fs/stat/"+url.PathEscape(allocID)+"?"+params.Encode(), &info, q)
	if status := statusOf(err); status == http.StatusNotFound || status >= 500 && strings.Contains(err.Error(), "no such file") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s of allocation %s: %w", path, allocID, err)
	}
	limit = min(limit, info.Size-offset)
	if limit <= 0 {
		return nil, nil
	}
	params.Set("offset", strconv.FormatInt(offset, 10))
	params.Set("limit", strconv.FormatInt(limit, 10))
	r, err := n.client.Raw().Response("/v1/client/fs/readat/"+url.PathEscape(allocID)+"?"+params.Encode(), q)
	if err != nil {
		return nil, fmt.Errorf("reading %s of allocation %s: %w", path, allocID, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s of allocation %s: %w", path, allocID, err)
	}
	return b, nil
}

// Logs reads a task's log. See run.Jobs.
func (n *jobs) Logs(ctx context.Context, allocID, task, stream string, tail int64, follow bool) (io.ReadCloser, error) {
	q := url.Values{"task": {task}, "type": {stream}, "plain": {"true"}, "follow": {strconv.FormatBool(follow)}, "origin": {"start"}, "offset": {"0"}}
	if tail > 0 {
		q.Set("origin", "end")
		q.Set("offset", strconv.FormatInt(tail, 10))
	}
	r, err := n.client.Raw().Response("/v1/client/fs/logs/"+url.PathEscape(allocID)+"?"+q.Encode(), n.reads(ctx))
	if statusOf(err) == http.StatusNotFound {
		return nil, run.ErrNoLog
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of allocation %s: %w", stream, allocID, err)
	}
	return r, nil
}

// statusOf is the HTTP status that an error carries, 0 if there is none.
func statusOf(err error) int {
	var u api.UnexpectedResponseError
	if errors.As(err, &u) && u.HasStatusCode() {
		return u.StatusCode()
	}
	return 0
}

func bodyOf(err error) string {
	var u api.UnexpectedResponseError
	if errors.As(err, &u) && u.HasBody() {
		return strings.TrimSpace(u.Body())
	}
	return err.Error()
}
