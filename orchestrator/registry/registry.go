// Package registry keeps the models that runs have produced, as numbered
// versions with movable names (aliases such as "champion"), and the endpoints
// that serve them.
//
// What it promises: a version never changes once it is registered, and its
// number is never given again; an alias points at just one version at any
// moment a reader may look; every move of an alias is kept, with who and why.
package registry

import (
	"context"
	"time"
)

// Model is a registered model: a name with versions.
type Model struct {
	Workspace string         `json:"workspace"`
	Name      string         `json:"name"`
	Latest    int            `json:"latest_version"`
	Aliases   map[string]int `json:"aliases"` // alias -> version
	Created   time.Time      `json:"created"`
	Updated   time.Time      `json:"updated"` // when the newest version was registered
}

// Version is one version of a model. It does not change.
type Version struct {
	Workspace string             `json:"workspace"`
	Model     string             `json:"model"`
	Number    int                `json:"version"` // from 1
	Digest    string             `json:"digest"`  // the artefact with its files
	Metrics   map[string]float64 `json:"metrics,omitempty"`
	Params    map[string]any     `json:"params,omitempty"`
	Inputs    map[string]string  `json:"inputs,omitempty"` // digests that its step read
	// Run and Node registered it; Source is the node that produced the files.
	Run      string    `json:"run"`
	Node     string    `json:"node"`
	Source   string    `json:"source"`
	Pipeline string    `json:"pipeline"`
	By       string    `json:"by,omitempty"`
	Created  time.Time `json:"created"`
	// Aliases that point at it now, sorted.
	Aliases []string `json:"aliases,omitempty"`
}

// AliasMove is one change of an alias.
type AliasMove struct {
	Workspace string `json:"workspace"`
	Model     string `json:"model"`
	Alias     string `json:"alias"`
	// From and To are versions: From is 0 for a new alias, To is 0 where the
	// alias was removed.
	From   int       `json:"from,omitempty"`
	To     int       `json:"to,omitempty"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// EndpointStatus is where an endpoint is in its life.
type EndpointStatus string

// The statuses of an endpoint.
const (
	Deploying EndpointStatus = "deploying" // its first revision is not ready yet
	Live      EndpointStatus = "live"      // a revision serves
	Broken    EndpointStatus = "failed"    // no revision ever became ready
)

// Endpoint is a served model.
type Endpoint struct {
	Workspace string `json:"workspace"`
	Name      string `json:"name"`
	// Model, Version and Revision are those that serve: the last ones that
	// became ready. Zero while there are none.
	Model    string `json:"model"`
	Version  int    `json:"version"`
	Revision int    `json:"revision"`
	// Pending is a revision on its way, 0 for none.
	Pending int `json:"pending_revision,omitempty"`
	// Namespace is Nomad's namespace of the job, "" for the server's own.
	Namespace string         `json:"namespace,omitempty"`
	JobID     string         `json:"job_id"`
	Service   string         `json:"service"` // the Nomad service's name
	Status    EndpointStatus `json:"status"`
	// Reason says why the newest revision did not become ready.
	Reason  string    `json:"reason,omitempty"`
	Run     string    `json:"run"` // that deployed the live revision
	Node    string    `json:"node"`
	Updated time.Time `json:"updated"`
}

// Deployment is one revision of an endpoint on its way to serve.
type Deployment struct {
	Workspace, Endpoint string
	Revision            int // given by the store
	Model               string
	Version             int
	Namespace           string // Nomad's, of the job
	JobID, Service      string
	Run, Node           string
	Attempt             int
}

// Store keeps the registry's state. Each method is one transaction.
type Store interface {
	Models(ctx context.Context, workspace string) ([]Model, error)
	// Versions are the newest first. Unknown models are problem.NotFound.
	Versions(ctx context.Context, workspace, model string) ([]Version, error)
	// VersionsOf are the versions whose files are an artefact, oldest first.
	VersionsOf(ctx context.Context, workspace, digest string) ([]Version, error)
	// AddVersion gives v the next number of its model, points the alias at it
	// ("" for none), and returns it. Called again for the same run and node it
	// changes nothing and returns what is there.
	AddVersion(ctx context.Context, v Version, alias string) (Version, error)
	// MoveAlias points an alias at another version (To 0 removes it) and
	// appends the move to the history, From filled in.
	MoveAlias(ctx context.Context, m AliasMove) (AliasMove, error)
	AliasMoves(ctx context.Context, workspace, model string) ([]AliasMove, error)
}
