package pipeline_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// digestOf is a digest that stands for name.
func digestOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// parse parses a file that must be right. Every path has a digest.
func parse(t testing.TB, body string, vars ...string) *pipeline.Pipeline {
	t.Helper()
	src := []byte("pipeline \"p\" {}\n" + body)
	opts := pipeline.Options{
		Vars:    map[string]string{},
		Sources: func(path string) (string, bool) { return digestOf(path), true },
	}
	for i := 0; i+1 < len(vars); i += 2 {
		opts.Vars[vars[i]] = vars[i+1]
	}
	p, diags := pipeline.Parse("p.hcl", src, opts)
	if diags.HasErrors() {
		var out bytes.Buffer
		if err := pipeline.WriteDiagnostics(&out, diags, map[string][]byte{"p.hcl": src}, false, 0); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("the file was refused:\n%s", out.String())
	}
	return p
}

// node is the node with an ID.
func node(t testing.TB, p *pipeline.Pipeline, id pipeline.NodeID) *pipeline.Node {
	t.Helper()
	for _, n := range p.Nodes {
		if n.ID == id {
			return n
		}
	}
	t.Fatalf("there is no node %s", id)
	return nil
}

// resolve gives the task of a node that can be resolved.
func resolve(t testing.TB, p *pipeline.Pipeline, id pipeline.NodeID, r pipeline.Results) pipeline.Task {
	t.Helper()
	task, diags := node(t, p, id).Resolve(r)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return task
}

// ids are the nodes' IDs, in order.
func ids(p *pipeline.Pipeline) []pipeline.NodeID {
	list := make([]pipeline.NodeID, len(p.Nodes))
	for i, n := range p.Nodes {
		list[i] = n.ID
	}
	return list
}
