package admission_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/admission"
	"github.com/drover-ml/drover/orchestrator/problem"
	"github.com/drover-ml/drover/orchestrator/queue"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// To suppose nothing is the queue as it is, and to suppose something changes nothing,
// at every moment of random histories.
func TestSuppositionsOnRandomHistories(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &play{t: t, w: newWorld(t, 4, 4, 2), r: rand.New(rand.NewPCG(seed, 2)), open: map[queue.JobID]admission.Request{}}
				for range 60 {
					p.step()
					p.w.settle()
					p.suppose()
				}
				p.w.stop()
			})
		})
	}
}

func (p *play) suppose() {
	p.t.Helper()
	before, stored := p.w.queue(), p.w.stored()
	c, err := p.w.WhatIf(p.t.Context(), admission.Supposition{}, admission.Filter{})
	if err != nil {
		p.t.Fatal(err)
	}
	if c.Waiting != before.Waiting || c.Earlier+c.Later != 0 {
		p.t.Fatalf("nothing is supposed: %d of %d start earlier, %d later", c.Earlier, c.Waiting, c.Later)
	}
	outlooks := map[queue.JobID]admission.Outlook{}
	for _, e := range before.Entries {
		if e.State != "waiting" {
			continue
		}
		outlooks[e.Task] = e.Outlook
		if e.Reason == nil || e.Reason.Code == "" || e.Reason.Text == "" {
			p.t.Fatalf("%s waits without a reason: %+v", e.Task, e.Reason)
		}
	}
	for _, task := range c.Tasks {
		if diff := cmp.Diff(outlooks[task.Task], task.Then); diff != "" {
			p.t.Fatalf("%s: the queue -, nothing supposed +\n%s", task.Task, diff)
		}
		if diff := cmp.Diff(task.Now, task.Then); diff != "" {
			p.t.Fatalf("%s: now -, then +\n%s", task.Task, diff)
		}
	}
	held := workspace.Definitions{Policy: workspace.Policy{HoldUndeclared: true}}
	more := []admission.MoreNodes{{Like: "n1", Count: 2}}
	for _, s := range []admission.Supposition{{Nodes: more}, {Definitions: &held}, {Requests: []admission.Request{wants("plan/x", 2, priority(9))}}} {
		if _, err := p.w.WhatIf(p.t.Context(), s, admission.Filter{}); err != nil {
			p.t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, p.w.queue()); diff != "" {
		p.t.Fatalf("the queue before -, after +\n%s", diff)
	}
	if diff := cmp.Diff(stored, p.w.stored()); diff != "" {
		p.t.Fatalf("stored before -, after +\n%s", diff)
	}
}

func (w *world) queue() admission.View {
	w.t.Helper()
	v, err := w.Queue(w.t.Context(), admission.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) stored() map[queue.JobID]string {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return maps.Clone(w.store.rows)
}

// Two nodes of two GPUs are full for an hour; two wait.
func full(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2)
		defer w.stop()
		w.settle()
		w.Ask(wants("runs/1", 2))
		w.Ask(wants("runs/2", 2, preemptible))
		w.settle()
		w.Ask(wants("waits/1", 2))
		w.settle()
		w.Ask(wants("waits/2", 1, inOther))
		w.settle()
		f(t, w)
	})
}

func TestWhatIfThereWereMoreNodes(t *testing.T) {
	full(t, func(t *testing.T, w *world) {
		c, err := w.WhatIf(t.Context(), admission.Supposition{Nodes: []admission.MoreNodes{{Like: "n1", Count: 1}}}, admission.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Earlier != 1 || c.Later != 0 || len(c.Tasks) != 2 {
			t.Fatalf("%d earlier, %d later of %d", c.Earlier, c.Later, len(c.Tasks))
		}
		first := c.Tasks[0]
		if first.Task != "waits/1" || first.Change != admission.Earlier || first.Then.Reason != nil || !first.Then.Expected.Equal(c.At) {
			t.Errorf("first is %+v", first)
		}
		if got := strings.Join(first.Then.OnNodes, ","); got != "n1+1.1" {
			t.Errorf("it starts on %s", got)
		}
		if first.Now.Reason == nil || first.Now.Reason.Code != "no_place" || first.Now.Expected.Sub(c.At) < 50*time.Minute {
			t.Errorf("it starts at %v now, for %+v", first.Now.Expected, first.Now.Reason)
		}
		only, err := w.WhatIf(t.Context(), admission.Supposition{Nodes: []admission.MoreNodes{{Like: "n1", Count: 1}}}, admission.Filter{Workspace: "other", Limit: 1})
		if err != nil || only.Waiting != 1 || only.Tasks[0].Task != "waits/2" {
			t.Errorf("of the other workspace: %+v, %v", only, err)
		}
	})
}

func TestWhatIfDefinitionsWereOthers(t *testing.T) {
	full(t, func(t *testing.T, w *world) {
		held := workspace.Definitions{Policy: workspace.Policy{HoldUndeclared: true}}
		c, err := w.WhatIf(t.Context(), admission.Supposition{Definitions: &held}, admission.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Later != 2 {
			t.Fatalf("%d of 2 start later", c.Later)
		}
		for _, task := range c.Tasks {
			if task.Then.Expected != nil || task.Then.Reason == nil || task.Then.Reason.Code != "held" {
				t.Errorf("%s: %+v", task.Task, task.Then)
			}
		}
	})
}

func TestOutlookOfRequests(t *testing.T) {
	full(t, func(t *testing.T, w *world) {
		got, err := w.Outlook(t.Context(), []admission.Request{wants("plan/low", 1), wants("plan/high", 2, priority(10)), wants("plan/never", 5)})
		if err != nil {
			t.Fatal(err)
		}
		if low := got[0]; low.Task != "plan/low" || low.Expected == nil || low.Reason == nil {
			t.Errorf("low: %+v", low)
		}
		high := got[1]
		if high.Expected == nil || len(high.Evicts) != 1 || high.Evicts[0].Task != "runs/2" || high.Reason.Code != "evicting" || high.Position != 1 {
			t.Errorf("high: %+v, %+v", high, high.Reason)
		}
		if never := got[2]; never.Expected != nil || never.Reason == nil || never.Reason.Code != admission.NoNode {
			t.Errorf("never: %+v", never)
		}
	})
}

func TestWrongSuppositions(t *testing.T) {
	tests := map[string]struct {
		nodes []admission.MoreNodes
		kind  problem.Kind
		text  string
	}{
		"a node that is not there": {[]admission.MoreNodes{{Like: "n9", Count: 1}}, problem.NotFound, `no node "n9"`},
		"none":                     {[]admission.MoreNodes{{Like: "n1"}}, problem.Invalid, `0 nodes like "n1"`},
		"too many together":        {[]admission.MoreNodes{{Like: "n1", Count: 9999}, {Like: "n2", Count: 2}}, problem.Invalid, "10000 in all"},
	}
	full(t, func(t *testing.T, w *world) {
		for name, test := range tests {
			_, err := w.WhatIf(t.Context(), admission.Supposition{Nodes: test.nodes}, admission.Filter{})
			if problem.Of(err) != test.kind || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestQueueIsLimited(t *testing.T) {
	full(t, func(t *testing.T, w *world) {
		tests := map[string]struct {
			filter           admission.Filter
			want             string
			running, waiting int
		}{
			"all":           {admission.Filter{}, "runs/1 runs/2 waits/1 waits/2", 2, 2},
			"one of each":   {admission.Filter{Limit: 1}, "runs/2 waits/1", 2, 2},
			"what waits":    {admission.Filter{Waiting: true}, "waits/1 waits/2", 0, 2},
			"a workspace's": {admission.Filter{Workspace: "other"}, "waits/2", 0, 1},
			"a task":        {admission.Filter{Task: "runs/2"}, "runs/2", 1, 0},
			"no such task":  {admission.Filter{Task: "x"}, "", 0, 0},
		}
		for name, test := range tests {
			v, err := w.Queue(t.Context(), test.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range v.Entries {
				got = append(got, string(e.Task))
			}
			if strings.Join(got, " ") != test.want || v.Running != test.running || v.Waiting != test.waiting {
				t.Errorf("%s: got %v, of %d that run and %d that wait", name, got, v.Running, v.Waiting)
			}
			if e := v.Entries; test.filter.Workspace == "other" && e[0].Position != 2 {
				t.Errorf("%s: position %d, want that among all", name, e[0].Position)
			}
		}
	})
}

func inOther(r *admission.Request) { r.Workspace = "other" }
