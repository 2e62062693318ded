package workspace

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Stored is definitions as they are kept.
type Stored struct {
	// Version counts up with each change; 0: nothing was ever declared.
	Version     int64       `json:"version"`
	Definitions Definitions `json:"definitions"`
	By          string      `json:"by,omitempty" doc:"Who applied them"`
	At          *time.Time  `json:"at,omitempty" doc:"When they were applied"`
}

// Charge is that a task has held an amount of a flavor. Charges of one attempt at
// a task may come again and again, each with a later end: nothing is counted
// twice that was counted before.
type Charge struct {
	Job       queue.JobID
	Attempt   int
	Workspace string
	Flavor    queue.Flavor
	Amount    queue.Amount
	From, To  time.Time
}

// Store keeps definitions and use.
type Store interface {
	Workspaces(ctx context.Context) (Stored, error)
	// PutWorkspaces replaces the version before s.Version, and fails with
	// problem.Conflict if another one is there.
	PutWorkspaces(ctx context.Context, s Stored) error
	// AddUsage counts, in one transaction, what charges add to what was counted.
	AddUsage(ctx context.Context, charges []Charge) error
	// Usage is what was used on each day from that of since on.
	Usage(ctx context.Context, since time.Time) ([]Use, error)
}

// InvalidError is returned for definitions with problems.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	var texts []string
	for _, p := range e.Problems {
		if !p.Warning {
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, "; ")
}

// Service keeps what is declared, and tells when it changes. It is safe for many
// goroutines.
type Service struct {
	store Store
	now   func() time.Time

	applying sync.Mutex // held while a change is on its way
	mu       sync.Mutex
	current  Stored
	changed  chan struct{}
	using    Using
}

// Using tells what is in use now, by queue.
type Using func(ctx context.Context) (map[queue.QueueID]queue.Resources, error)

// Open makes a service of what a store has. now is the clock; nil: time.Now.
func Open(ctx context.Context, store Store, now func() time.Time) (*Service, error) {
	if now == nil {
		now = time.Now
	}
	current, err := store.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	return &Service{store: store, now: now, current: current, changed: make(chan struct{})}, nil
}

// Current is what is declared.
func (s *Service) Current() Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Definitions are those that are declared.
func (s *Service) Definitions() Definitions { return s.Current().Definitions }

// Changed is closed once what is declared is no longer what it was when Changed
// was called: call it first, and then Definitions.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// SetUsing says who knows what is in use.
func (s *Service) SetUsing(using Using) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.using = using
}

// Plan is what Apply would change.
func (s *Service) Plan(ctx context.Context, d Definitions) (Plan, error) {
	problems := d.Check()
	if wrong(problems) {
		return Plan{}, &InvalidError{problems}
	}
	current := s.Current()
	use, err := s.inUse(ctx)
	if err != nil {
		return Plan{}, err
	}
	return Plan{
		Version: current.Version, Changes: Diff(current.Definitions, d), Cuts: cuts(current.Definitions, d, s.now(), use),
	}, nil
}

// inUse is what is in use, by queue; nil if nobody knows, as while the cluster
// does not answer.
func (s *Service) inUse(ctx context.Context) (map[queue.QueueID]queue.Resources, error) {
	s.mu.Lock()
	using := s.using
	s.mu.Unlock()
	if using == nil {
		return nil, nil
	}
	use, err := using(ctx)
	if problem.Is(err, problem.Unavailable) {
		return nil, nil
	}
	return use, err
}

// Apply declares d instead of what was declared in version, and nothing if that
// is no longer the current one: problem.Conflict. Definitions that are declared
// already change nothing.
func (s *Service) Apply(ctx context.Context, d Definitions, version int64, by string) (Plan, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	plan, err := s.Plan(ctx, d)
	if err != nil {
		return Plan{}, err
	}
	if plan.Version != version {
		return Plan{}, conflict(version, plan.Version)
	}
	if len(plan.Changes) == 0 {
		return plan, nil
	}
	d.sort()
	at := s.now().UTC()
	next := Stored{Version: version + 1, Definitions: d, By: by, At: &at}
	if err := s.store.PutWorkspaces(ctx, next); err != nil {
		return Plan{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = next
	close(s.changed)
	s.changed = make(chan struct{})
	plan.Version = next.Version
	return plan, nil
}

func conflict(version, current int64) error {
	return problem.New(problem.Conflict, "the plan was made for version %d, and version %d is there now: somebody else applied definitions; plan anew", version, current)
}

// AddUsage counts what tasks have used.
func (s *Service) AddUsage(ctx context.Context, charges []Charge) error {
	return s.store.AddUsage(ctx, charges)
}

// Used is what was used on each day, from that of since on.
func (s *Service) Used(ctx context.Context, since time.Time) ([]Use, error) {
	return s.store.Usage(ctx, since)
}

// Delete removes a workspace's definition. What runs in it goes on, as work of a
// workspace that nobody declares.
func (s *Service) Delete(ctx context.Context, name, by string) (Plan, error) {
	current := s.Current()
	d, err := current.Definitions.Without(name)
	if err != nil {
		return Plan{}, err
	}
	plan, err := s.Apply(ctx, d, current.Version, by)
	if err != nil {
		return Plan{}, fmt.Errorf("deleting workspace %q: %w", name, err)
	}
	return plan, nil
}
