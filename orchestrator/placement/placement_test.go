package placement

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var models = []string{"T4", "G2", "V100"}

// someNodes and someTasks draw small ones, so that they are often full.
func someNodes(t *rapid.T) []Node {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Node {
		n := Node{
			CPUMilli: rapid.Int64Range(0, 12).Draw(t, "cpu") * 1000, MemoryMiB: rapid.Int64Range(0, 8).Draw(t, "memory") * 1024,
			GPUs: rapid.IntRange(0, 4).Draw(t, "gpus"),
		}
		if n.GPUs > 0 {
			n.Model = rapid.SampledFrom(models).Draw(t, "model")
		}
		return n
	}), 1, 6).Draw(t, "nodes")
}

func someTask(t *rapid.T) Task {
	a := Task{CPUMilli: rapid.Int64Range(0, 4).Draw(t, "cpu") * 1000, MemoryMiB: rapid.Int64Range(0, 2).Draw(t, "memory") * 1024}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 1:
		a.GPUs, a.ShareMilli = 1, rapid.SampledFrom([]int{160, 320, 470, 810}).Draw(t, "share")
	case 2:
		a.GPUs, a.ShareMilli = rapid.IntRange(1, 4).Draw(t, "gpus"), WholeGPU
	}
	if rapid.Bool().Draw(t, "choosy") {
		a.Models = []string{rapid.SampledFrom(models).Draw(t, "model")}
	}
	return a
}

func mustNew(t rapid.TB, nodes []Node, c Config) *Cluster {
	t.Helper()
	cl, err := New(nodes, c)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func mustPlace(t rapid.TB, c *Cluster, task Task) (Place, bool) {
	t.Helper()
	p, ok, err := c.Place(task)
	if err != nil {
		t.Fatal(err)
	}
	return p, ok
}

// held is a task and where it is.
type held struct {
	task  Task
	place Place
}

// checkHeld fails if what is held is more than there is, is not where it may
// be, or is not what the cluster thinks.
func checkHeld(t rapid.TB, nodes []Node, c *Cluster, all []held) {
	t.Helper()
	for i, n := range nodes {
		cpu, memory, free := n.CPUMilli, n.MemoryMiB, make([]int, n.GPUs)
		for _, h := range all {
			if h.place.Node != i {
				continue
			}
			cpu, memory = cpu-h.task.CPUMilli, memory-h.task.MemoryMiB
			if len(h.place.GPUs) != h.task.GPUs {
				t.Fatalf("%d GPUs for %+v", len(h.place.GPUs), h.task)
			}
			if h.task.GPUs > 0 && len(h.task.Models) > 0 && !slices.Contains(h.task.Models, n.Model) {
				t.Fatalf("a GPU of model %q for %+v", n.Model, h.task)
			}
			for _, g := range h.place.GPUs {
				free[g] += h.task.ShareMilli
			}
		}
		if cpu < 0 || memory < 0 || cpu != c.nodes[i].cpu || memory != c.nodes[i].memory {
			t.Fatalf("node %d: %d CPU and %d MiB are left, the cluster has %d and %d", i, cpu, memory, c.nodes[i].cpu, c.nodes[i].memory)
		}
		for g, used := range free {
			if used > WholeGPU || WholeGPU-used != int(c.nodes[i].free[g]) {
				t.Fatalf("node %d, GPU %d: %d thousandths are held, the cluster has %d free", i, g, used, c.nodes[i].free[g])
			}
		}
	}
}

func TestPlaceAndRelease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := someNodes(t)
		mix := rapid.SliceOfN(rapid.Custom(someTask), 1, 10).Draw(t, "mix")
		config := Config{Policy: rapid.SampledFrom(Policies()).Draw(t, "policy"), Mix: mix, Seed: rapid.Uint64().Draw(t, "seed")}
		c, again, scratch := mustNew(t, nodes, config), mustNew(t, nodes, config), mustNew(t, nodes, config)
		var all []held
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(all) > 0 && rapid.IntRange(0, 3).Draw(t, "release") == 0 {
				i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				for _, each := range []*Cluster{c, again, scratch} {
					if err := each.Release(all[i].task, all[i].place); err != nil {
						t.Fatal(err)
					}
				}
				all = slices.Delete(all, i, i+1)
				continue
			}
			task := someTask(t)
			p, ok := mustPlace(t, c, task)
			if same, sameOK := mustPlace(t, again, task); ok != sameOK || !reflect.DeepEqual(p, same) {
				t.Fatalf("the same calls gave %v and %v", p, same)
			}
			clear(scratch.shapes)
			if same, sameOK := mustPlace(t, scratch, task); ok != sameOK || !reflect.DeepEqual(p, same) {
				t.Fatalf("kept scores gave %v, fresh ones %v", p, same)
			}
			if ok {
				all = append(all, held{task, p})
			} else if i := slices.IndexFunc(c.nodes, func(n node) bool { return roomFor(n, task) }); i >= 0 {
				t.Fatalf("%+v was refused, but node %d has room", task, i)
			}
			checkHeld(t, nodes, c, all)
		}
		for _, h := range all {
			if err := c.Release(h.task, h.place); err != nil {
				t.Fatal(err)
			}
		}
		checkHeld(t, nodes, c, nil)
		for i := range c.nodes {
			if c.nodes[i].held != [MaxGPUs + 2]int32{} {
				t.Fatalf("node %d still holds tasks", i)
			}
		}
	})
}

// roomFor is node.fits, told otherwise.
func roomFor(n node, task Task) bool {
	room := 0
	for _, f := range n.free {
		if int(f) >= task.ShareMilli {
			room++
		}
	}
	model := task.GPUs == 0 || len(task.Models) == 0 || slices.Contains(task.Models, n.Model)
	return n.cpu >= task.CPUMilli && n.memory >= task.MemoryMiB && room >= task.GPUs && model
}

// TestFGDOracle compares fragmentation gradient descent with its definition:
// try every place, measure the whole cluster, take the first that is best.
func TestFGDOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := someNodes(t)
		mix := rapid.SliceOfN(rapid.Custom(someTask), 1, 10).Draw(t, "mix")
		c := mustNew(t, nodes, Config{Policy: "fgd", Mix: mix})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			task := someTask(t)
			before := c.FragmentedMilli()
			var want float64 = math.Inf(-1)
			for i := range c.nodes {
				if !roomFor(c.nodes[i], task) {
					continue
				}
				for g := range max(1, len(c.nodes[i].free)) {
					p := Place{Node: i, GPUs: []int{g}}
					if task.GPUs != 1 || task.ShareMilli == WholeGPU {
						p.GPUs = indexes(tightest(&c.nodes[i], task.GPUs, task.ShareMilli))
					} else if int(c.nodes[i].free[g]) < task.ShareMilli {
						continue
					}
					c.apply(task, p, -1)
					want = max(want, (before-c.FragmentedMilli())/WholeGPU)
					c.apply(task, p, 1)
				}
			}
			_, ok := mustPlace(t, c, task)
			if ok != !math.IsInf(want, -1) {
				t.Fatalf("placed is %v, the best descent %v", ok, want)
			}
			got := (before - c.FragmentedMilli()) / WholeGPU
			score := func(v float64) float64 { return math.Trunc(topScore / (1 + math.Exp(-v))) }
			if ok && math.Abs(score(got)-score(want)) > 0 && math.Abs(got-want) > 1e-6 {
				t.Fatalf("descends by %v, best is %v", got, want)
			}
		}
	})
}

func TestFragmented(t *testing.T) {
	whole := Task{CPUMilli: 1000, GPUs: 1, ShareMilli: WholeGPU}
	two := Task{CPUMilli: 1000, GPUs: 2, ShareMilli: WholeGPU}
	half := Task{CPUMilli: 1000, GPUs: 1, ShareMilli: 500}
	tests := []struct {
		name string
		mix  []Task
		put  []Task
		want float64
	}{
		{"empty node, everything fits", []Task{whole, half}, nil, 0},
		{"a GPU with too little for a whole one", []Task{whole}, []Task{half}, 500},
		{"for half of the tasks", []Task{whole, half}, []Task{half}, 250},
		{"two GPUs are not there", []Task{two}, []Task{half}, 1500},
		{"no CPU is left", []Task{whole}, []Task{{CPUMilli: 4000}}, 2000},
		{"a task without GPUs can use none", []Task{{CPUMilli: 1}}, nil, 2000},
		{"another model", []Task{{GPUs: 1, ShareMilli: 100, Models: []string{"T4"}}}, nil, 2000},
		{"full", []Task{whole}, []Task{two}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustNew(t, []Node{{CPUMilli: 4000, GPUs: 2, Model: "G2"}}, Config{Mix: tt.mix})
			for _, task := range tt.put {
				if _, ok := mustPlace(t, c, task); !ok {
					t.Fatalf("%+v does not fit", task)
				}
			}
			if got := c.FragmentedMilli(); math.Abs(got-tt.want) > 1e-9 {
				t.Errorf("fragmented %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name string
		task Task
		want string
	}{
		{"negative CPU", Task{CPUMilli: -1}, "CPU of -1"},
		{"too much memory", Task{MemoryMiB: math.MaxInt64}, "memory of"},
		{"no share", Task{GPUs: 1}, "share is 1 to 1000"},
		{"over a whole", Task{GPUs: 1, ShareMilli: 1001}, "share is 1 to 1000"},
		{"share without GPU", Task{ShareMilli: 5}, "but no GPU"},
		{"several parts", Task{GPUs: 2, ShareMilli: 500}, "whole ones"},
		{"too many", Task{GPUs: 65, ShareMilli: WholeGPU}, "65 GPUs"},
	}
	c := mustNew(t, []Node{{CPUMilli: 1000, GPUs: 1}}, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := c.Place(tt.task); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Place: %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := New(nil, Config{Policy: "none"}); err == nil || !strings.Contains(err.Error(), "best-fit") {
		t.Errorf("an unknown policy: %v", err)
	}
	if _, err := New([]Node{{GPUs: 65}}, Config{}); err == nil {
		t.Error("a node of 65 GPUs was taken")
	}
	for _, p := range []Place{{Node: 1}, {Node: 0}, {Node: 0, GPUs: []int{1}}, {Node: -1}} {
		if err := c.Release(Task{GPUs: 1, ShareMilli: WholeGPU}, p); !errors.Is(err, ErrNotHeld) {
			t.Errorf("Release at %v: %v, want ErrNotHeld", p, err)
		}
	}
}

// TestAllGPUsOfTheLargestNode is where a set of GPUs is all ones.
func TestAllGPUsOfTheLargestNode(t *testing.T) {
	for _, policy := range Policies() {
		c := mustNew(t, []Node{{GPUs: MaxGPUs}}, Config{Policy: policy})
		if p, ok := mustPlace(t, c, Task{GPUs: MaxGPUs, ShareMilli: WholeGPU}); !ok || len(p.GPUs) != MaxGPUs {
			t.Errorf("%s: %v %v", policy, p, ok)
		}
	}
}

func TestExperiment(t *testing.T) {
	e := Experiment{
		Nodes: []Node{{CPUMilli: 64_000, GPUs: 8}, {CPUMilli: 64_000, GPUs: 2}}, Load: 1.3, Seed: 3,
		Clock: func() time.Duration { return 0 },
	}
	for i := range 20 {
		e.Tasks = append(e.Tasks, Task{Name: fmt.Sprint(i), CPUMilli: 1000, GPUs: 1, ShareMilli: []int{500, WholeGPU}[i%2]})
	}
	for _, e.Policy = range Policies() {
		first, err := e.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if second, err := e.Run(context.Background()); err != nil || !reflect.DeepEqual(first, second) {
			t.Errorf("%s: a second run gave %+v, %v, the first %+v", e.Policy, second, err, first)
		}
		at100, ok := first.AllocatedPct(100, e.Load)
		if at130, ok130 := first.AllocatedPct(130, e.Load); !ok || !ok130 || at100 > at130 || at130 > 100 {
			t.Errorf("%s: allocated %v, then %v", e.Policy, at100, at130)
		}
		if _, ok := first.AllocatedPct(140, e.Load); ok {
			t.Errorf("%s: 140 %% never arrived", e.Policy)
		}
	}
	for _, load := range []float64{0, -1, MaxLoad + 1, math.NaN()} {
		e.Load = load
		if _, err := e.Run(context.Background()); err == nil {
			t.Errorf("a load of %v was taken", load)
		}
	}
}
