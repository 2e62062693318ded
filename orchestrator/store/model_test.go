package store

import (
	"fmt"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/registry"
)

// naive is what the store must be like, kept in maps.
type naive struct {
	versions  map[string]int            // newest number by model
	nodes     map[string]int            // number by model and run
	aliases   map[string]map[string]int // by model
	moves     map[string]int            // length of the history by model
	revisions map[string]int            // newest by endpoint
	pending   map[string]registry.Deployment
	live      map[string]registry.Deployment
}

// Random operations, with the file closed and opened again between them, leave
// the store as they leave the maps.
func TestStoreIsLikeMaps(t *testing.T) {
	dir := t.TempDir()
	files := 0
	rapid.Check(t, func(t *rapid.T) {
		files++
		path := filepath.Join(dir, fmt.Sprint(files), "drover.db")
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { db.Close() }()
		m := naive{map[string]int{}, map[string]int{}, map[string]map[string]int{}, map[string]int{}, map[string]int{}, map[string]registry.Deployment{}, map[string]registry.Deployment{}}
		name := rapid.SampledFrom([]string{"a", "b"})
		t.Repeat(map[string]func(*rapid.T){
			"":                func(t *rapid.T) { m.check(t, db) },
			"add version":     func(t *rapid.T) { m.add(t, db, name.Draw(t, "model"), rapid.IntRange(0, 9).Draw(t, "run")) },
			"move alias":      func(t *rapid.T) { m.move(t, db, name.Draw(t, "model"), rapid.IntRange(0, 4).Draw(t, "to")) },
			"deploy":          func(t *rapid.T) { m.deploy(t, db, name.Draw(t, "endpoint")) },
			"deployed":        func(t *rapid.T) { m.deployed(t, db, name.Draw(t, "endpoint"), rapid.Bool().Draw(t, "ready")) },
			"delete endpoint": func(t *rapid.T) { m.remove(t, db, name.Draw(t, "endpoint")) },
			"open again": func(t *rapid.T) {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				if db, err = Open(t.Context(), path); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func (m *naive) point(model, alias string, to int) {
	if m.aliases[model] == nil {
		m.aliases[model] = map[string]int{}
	}
	m.aliases[model][alias] = to
	m.moves[model]++
}

func (m *naive) add(t *rapid.T, db *DB, model string, run int) {
	key := fmt.Sprintf("%s-%d", model, run)
	want, again := m.nodes[key]
	if !again {
		m.versions[model]++
		want = m.versions[model]
		m.nodes[key] = want
		m.point(model, "champion", want)
	}
	v, err := db.AddVersion(t.Context(), version(model, key), "champion")
	if err != nil || v.Number != want {
		t.Fatalf("AddVersion = %d, %v; want %d", v.Number, err, want)
	}
}

func (m *naive) move(t *rapid.T, db *DB, model string, to int) {
	from := m.aliases[model]["x"]
	out, err := db.MoveAlias(t.Context(), registry.AliasMove{Workspace: "default", Model: model, Alias: "x", To: to})
	if to > m.versions[model] || to == 0 && from == 0 {
		if !problem.Is(err, problem.NotFound) {
			t.Fatalf("MoveAlias to %d: %v, want a problem.NotFound", to, err)
		}
		return
	}
	if err != nil || out.From != from {
		t.Fatalf("MoveAlias = from %d, %v; want from %d", out.From, err, from)
	}
	m.point(model, "x", to)
	if to == 0 {
		delete(m.aliases[model], "x")
	}
}

func (m *naive) deploy(t *rapid.T, db *DB, endpoint string) {
	m.revisions[endpoint]++
	n := m.revisions[endpoint]
	d, err := db.Deploy(t.Context(), registry.Deployment{Workspace: "default", Endpoint: endpoint, Version: n, Run: endpoint, Node: "n", Attempt: n})
	if err != nil || d.Revision != n {
		t.Fatalf("Deploy = revision %d, %v; want %d", d.Revision, err, n)
	}
	m.pending[endpoint] = d
}

func (m *naive) deployed(t *rapid.T, db *DB, endpoint string, ready bool) {
	d, ok := m.pending[endpoint]
	if !ok {
		t.Skip("nothing is pending")
	}
	delete(m.pending, endpoint)
	reason := "not ready"
	if ready {
		reason = ""
		m.live[endpoint] = d
	}
	if err := db.Deployed(t.Context(), d, reason); err != nil {
		t.Fatal(err)
	}
}

func (m *naive) remove(t *rapid.T, db *DB, endpoint string) {
	delete(m.live, endpoint)
	delete(m.pending, endpoint)
	if err := db.DeleteEndpoint(t.Context(), "default", endpoint); err != nil {
		t.Fatal(err)
	}
}

func (m *naive) check(t *rapid.T, db *DB) {
	models, err := db.Models(t.Context(), "default")
	if err != nil || len(models) != len(m.versions) {
		t.Fatalf("%d models, %v; want %d", len(models), err, len(m.versions))
	}
	for _, got := range models {
		if got.Latest != m.versions[got.Name] || fmt.Sprint(got.Aliases) != fmt.Sprint(m.aliases[got.Name]) {
			t.Fatalf("model = %+v, want latest %d and aliases %v", got, m.versions[got.Name], m.aliases[got.Name])
		}
		moves, err := db.AliasMoves(t.Context(), "default", got.Name)
		if err != nil || len(moves) != m.moves[got.Name] {
			t.Fatalf("%d moves, %v; want %d", len(moves), err, m.moves[got.Name])
		}
	}
	endpoints, err := db.Endpoints(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		if e.Revision != m.live[e.Name].Revision || e.Pending != m.pending[e.Name].Revision {
			t.Fatalf("endpoint = %+v, want revision %d live and %d pending", e, m.live[e.Name].Revision, m.pending[e.Name].Revision)
		}
	}
}
