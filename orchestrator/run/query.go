package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/drover-ml/drover/orchestrator/failover"
	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// Lineage is where an artefact comes from and what was made of it.
type Lineage struct {
	Digest string `json:"digest"`
	// Produced and Consumed are the nodes that have it as an output or input.
	Produced []Use `json:"produced"`
	Consumed []Use `json:"consumed"`
	// Ancestors are the nodes that its producers' inputs come from, nearest
	// first, each once.
	Ancestors []Use              `json:"ancestors,omitempty"`
	Versions  []registry.Version `json:"versions,omitempty"`
}

// maxAncestors bounds a Lineage.
const maxAncestors = 500

// LogSelector names a task's log.
type LogSelector struct {
	Node    pipeline.NodeID
	Trial   *int   // of a sweep
	Rank    *int   // of a gang; nil: 0, or that of the member that has failed
	Attempt int    // 0: the newest
	Stream  string // "stdout" (default) or "stderr"
	Tail    int64  // only the last bytes; 0: all
	Follow  bool   // wait for the task to start, and go on until it ends
}

// Get returns a run as it stands.
func (e *Engine) Get(ctx context.Context, id ID) (Run, error) {
	r, err := e.config.Store.Run(ctx, id)
	if err != nil {
		return Run{}, err
	}
	explainWaits(&r)
	return r, nil
}

// explainWaits says of waiting nodes which others they wait for.
func explainWaits(r *Run) {
	ended := make(map[pipeline.NodeID]bool, len(r.Nodes))
	for _, n := range r.Nodes {
		ended[n.ID] = n.Phase.Ended()
	}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Phase != Waiting || n.Reason != "" {
			continue
		}
		var open []string
		for _, d := range n.Depends {
			if !ended[d] {
				open = append(open, string(d))
			}
		}
		switch {
		case len(open) == 0:
			n.Reason = "waits for the other nodes to end"
		case len(open) <= 3:
			n.Reason = "waits for " + strings.Join(open, ", ")
		default:
			n.Reason = fmt.Sprintf("waits for %s and %d more", strings.Join(open[:3], ", "), len(open)-3)
		}
	}
}

// List returns runs without their nodes, the newest first.
func (e *Engine) List(ctx context.Context, f Filter) ([]Run, error) {
	return e.config.Store.Runs(ctx, f)
}

// Events returns a run's events after a number, at most limit (0: 1,000).
func (e *Engine) Events(ctx context.Context, id ID, afterSeq int64, limit int) ([]Event, error) {
	return e.config.Store.Events(ctx, id, afterSeq, limit)
}

// Watch sends a run's events after a number, those to come too. The channel is
// closed when the run has ended and all has been sent, or when ctx ends.
func (e *Engine) Watch(ctx context.Context, id ID, afterSeq int64) (<-chan Event, error) {
	r, err := e.config.Store.Run(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make(chan Event, 64)
	go func() {
		defer close(out)
		ended := r.Phase.Ended()
		for failures := 0; ; {
			bell := e.bells.wait(id)
			events, err := e.config.Store.Events(ctx, id, afterSeq, 0)
			if err != nil {
				if ctx.Err() != nil || !pause(ctx, e.config.Backoff, failures) {
					return
				}
				failures++
				continue
			}
			failures = 0
			for _, ev := range events {
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
				afterSeq = ev.Seq
				if ev.Type == "run" {
					ended = ev.Phase.Ended()
				}
			}
			switch {
			case len(events) > 0:
			case ended:
				return
			default:
				select {
				case <-bell:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

// Metrics returns points of a run's metrics, by node, trial, metric and step.
func (e *Engine) Metrics(ctx context.Context, id ID, f MetricFilter) ([]MetricPoint, error) {
	return e.config.Store.Metrics(ctx, id, f)
}

// Logs copies a task's log to w. A log that the cluster does not have any more
// is a problem.NotFound.
func (e *Engine) Logs(ctx context.Context, id ID, s LogSelector, w io.Writer) error {
	if s.Stream == "" {
		s.Stream = "stdout"
	}
	if s.Stream != "stdout" && s.Stream != "stderr" {
		return problem.At("stream", "stream: %q is neither stdout nor stderr", s.Stream)
	}
	at, err := e.logged(ctx, id, s)
	if err != nil {
		return err
	}
	alloc := at.allocOf(s.Rank)
	r, err := e.config.Cluster.In(at.Namespace).Logs(ctx, alloc, jobspec.TaskName, s.Stream, s.Tail, s.Follow)
	if errors.Is(err, ErrNoLog) {
		return problem.New(problem.NotFound, "the cluster has no log of allocation %s any more", alloc)
	}
	if err != nil {
		return problem.New(problem.Unavailable, "reading the log of allocation %s: %w", alloc, err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil && ctx.Err() == nil {
		return problem.New(problem.Unavailable, "reading the log of allocation %s: %w", alloc, err)
	}
	return nil
}

// logged finds the attempt whose log is meant, and with Follow waits for it.
func (e *Engine) logged(ctx context.Context, id ID, s LogSelector) (Attempt, error) {
	for {
		bell := e.bells.wait(id)
		r, err := e.config.Store.Run(ctx, id)
		if err != nil {
			return Attempt{}, err
		}
		at, n, err := r.attempt(s)
		if err != nil {
			return Attempt{}, err
		}
		if err := at.checkRank(s); err != nil {
			return Attempt{}, err
		}
		switch {
		case at.allocOf(s.Rank) != "":
			return at, nil
		case n.Cached != "":
			return Attempt{}, problem.New(problem.NotFound, "%s did not run: its result was taken over from run %s, which has the log", s.Node, n.Cached)
		case n.Phase.Ended() || r.Phase.Ended():
			return Attempt{}, problem.New(problem.NotFound, "%s never started, so it has no log", s.Node)
		case !s.Follow:
			return Attempt{}, problem.New(problem.NotFound, "%s has not started yet", s.Node)
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return Attempt{}, ctx.Err()
		}
	}
}

// allocOf is the allocation of a member, "" if it has none yet.
func (at *Attempt) allocOf(rank *int) string {
	if rank == nil || len(at.Members) == 0 {
		return at.AllocID
	}
	return at.Members[*rank].AllocID
}

// checkRank checks that an attempt has the member that s selects, if it has been
// placed.
func (at *Attempt) checkRank(s LogSelector) error {
	switch {
	case s.Rank == nil || at.AllocID == "":
		return nil
	case len(at.Members) == 0 && *s.Rank != 0:
		return problem.At("rank", "attempt %d of %s is no gang: it has rank 0 only", at.Number, s.Node)
	case *s.Rank < 0 || len(at.Members) > 0 && *s.Rank >= len(at.Members):
		return problem.At("rank", "attempt %d of %s has the ranks 0 to %d, and no rank %d", at.Number, s.Node, len(at.Members)-1, *s.Rank)
	}
	return nil
}

// attempt finds the attempt that s selects; a zero one if there is none yet.
func (r *Run) attempt(s LogSelector) (Attempt, Node, error) {
	i := slices.IndexFunc(r.Nodes, func(n Node) bool { return n.ID == s.Node })
	if i < 0 {
		return Attempt{}, Node{}, problem.New(problem.NotFound, "run %s has no node %q", r.ID, s.Node)
	}
	n := r.Nodes[i]
	if n.Kind == pipeline.KindSweep && s.Trial == nil {
		return Attempt{}, n, problem.At("trial", "%s is a sweep: say which trial", s.Node)
	}
	var found Attempt
	for _, at := range n.Attempts {
		same := at.Trial == nil && s.Trial == nil || at.Trial != nil && s.Trial != nil && *at.Trial == *s.Trial
		if same && (s.Attempt == at.Number || s.Attempt == 0 && at.Number > found.Number) {
			found = at
		}
	}
	if s.Attempt != 0 && found.Number == 0 {
		return found, n, problem.New(problem.NotFound, "%s has no attempt %d", s.Node, s.Attempt)
	}
	return found, n, nil
}

// Lineage tells where an artefact comes from and what was made of it.
func (e *Engine) Lineage(ctx context.Context, workspace, digest string) (Lineage, error) {
	l := Lineage{Digest: digest}
	var err error
	if l.Produced, l.Consumed, err = e.config.Store.Origins(ctx, workspace, digest); err != nil {
		return Lineage{}, err
	}
	if l.Versions, err = e.config.Store.VersionsOf(ctx, workspace, digest); err != nil {
		return Lineage{}, err
	}
	if len(l.Produced)+len(l.Consumed)+len(l.Versions) == 0 {
		return Lineage{}, problem.New(problem.NotFound, "no run of workspace %q has artefact %s as an input or output", workspace, digest)
	}
	seen := map[string]bool{digest: true}
	for next := inputsOf(l.Produced, seen); len(next) > 0 && len(l.Ancestors) < maxAncestors; {
		var uses []Use
		for _, d := range next {
			produced, _, err := e.config.Store.Origins(ctx, workspace, d)
			if err != nil {
				return Lineage{}, err
			}
			uses = append(uses, originals(produced)...)
		}
		l.Ancestors = append(l.Ancestors, uses...)
		next = inputsOf(uses, seen)
	}
	return l, nil
}

// originals drops the nodes that have taken a result over, but keeps one.
func originals(uses []Use) []Use {
	ran := slices.DeleteFunc(slices.Clone(uses), func(u Use) bool { return u.Cached != "" })
	if len(ran) == 0 {
		ran = uses
	}
	return ran[:min(1, len(ran))]
}

// inputsOf are the digests that were read, but those seen before.
func inputsOf(uses []Use, seen map[string]bool) []string {
	var digests []string
	for _, u := range uses {
		for _, d := range u.Inputs {
			if !seen[d] {
				seen[d] = true
				digests = append(digests, d)
			}
		}
	}
	slices.Sort(digests)
	return digests
}

// Endpoints lists a workspace's endpoints by name.
func (e *Engine) Endpoints(ctx context.Context, workspace string) ([]registry.Endpoint, error) {
	return e.config.Store.Endpoints(ctx, workspace)
}

// Endpoint returns one endpoint.
func (e *Engine) Endpoint(ctx context.Context, workspace, name string) (registry.Endpoint, error) {
	return e.config.Store.Endpoint(ctx, workspace, name)
}

// DeleteEndpoint stops an endpoint's instances and forgets it. One that is
// being deployed is a problem.Conflict.
func (e *Engine) DeleteEndpoint(ctx context.Context, workspace, name, by string) error {
	ep, err := e.config.Store.Endpoint(ctx, workspace, name)
	if err != nil {
		return err
	}
	if ep.Pending != 0 {
		return problem.New(problem.Conflict, "revision %d of endpoint %q is being deployed by run %s: wait for it, or cancel the run", ep.Pending, name, ep.Run)
	}
	if err := e.config.Cluster.In(ep.Namespace).Stop(ctx, ep.JobID); err != nil {
		return problem.New(problem.Unavailable, "stopping endpoint %q: %w", name, err)
	}
	e.config.Logger.Info("endpoint deleted", "workspace", workspace, "endpoint", name, "by", by)
	return e.config.Store.DeleteEndpoint(ctx, workspace, name)
}

// Incidents lists what happened to devices, the newest first.
func (e *Engine) Incidents(ctx context.Context, f failover.Filter) ([]failover.Incident, error) {
	return e.config.Store.Incidents(ctx, f)
}

// Incident returns one incident.
func (e *Engine) Incident(ctx context.Context, id string) (failover.Incident, error) {
	return e.config.Store.Incident(ctx, id)
}
