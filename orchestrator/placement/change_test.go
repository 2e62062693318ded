package placement

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestChangedNodes adds and removes nodes. The cluster then decides as one that
// had those nodes from the start; the random policy apart, whose choices depend on
// what was drawn before.
func TestChangedNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := someNodes(t)
		mix := rapid.SliceOfN(rapid.Custom(someTask), 1, 10).Draw(t, "mix")
		config := Config{Policy: rapid.SampledFrom([]string{"best-fit", "gpu-clustering", "fgd", "drover"}).Draw(t, "policy"), Mix: mix}
		c := mustNew(t, nodes, config)
		gone := make([]bool, len(nodes))
		var all []held
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := someNodes(t)[0]
				if at, err := c.Add(n); err != nil || at != len(nodes) {
					t.Fatalf("node %d: %v", at, err)
				}
				nodes, gone = append(nodes, n), append(gone, false)
			},
			"remove": func(t *rapid.T) {
				i := rapid.IntRange(0, len(nodes)-1).Draw(t, "which")
				if err := c.Remove(i); gone[i] != errors.Is(err, ErrNoNode) {
					t.Fatalf("gone before: %v, error %v", gone[i], err)
				}
				gone[i] = true
			},
			"release": func(t *rapid.T) {
				if len(all) == 0 {
					return
				}
				h := all[len(all)-1]
				all = all[:len(all)-1]
				if err := c.Release(h.task, h.place); err != nil {
					t.Fatal(err)
				}
			},
			"place": func(t *rapid.T) {
				var left []Node
				var at []int // their indexes
				for i, n := range nodes {
					if !gone[i] {
						left, at = append(left, n), append(at, i)
					}
				}
				fresh := mustNew(t, left, Config{Policy: config.Policy})
				fresh.expect = mix // whose prices are known
				fresh.mix = fresh.newMix(mix, c.mix.prices)
				for _, h := range all {
					for i, node := range at {
						if node == h.place.Node {
							fresh.apply(h.task, Place{Node: i, GPUs: h.place.GPUs}, -1)
						}
					}
				}
				task := someTask(t)
				want, wantOK := mustPlace(t, fresh, task)
				got, ok := mustPlace(t, c, task)
				if wantOK {
					want.Node = at[want.Node]
				}
				if ok != wantOK || !reflect.DeepEqual(got, want) {
					t.Fatalf("place %v, %v; a fresh cluster gives %v, %v", got, ok, want, wantOK)
				}
				if ok {
					all = append(all, held{task, got})
				}
			},
		})
	})
}

// TestManyModels has more models than a word has bits.
func TestManyModels(t *testing.T) {
	var nodes []Node
	for i := range 200 {
		nodes = append(nodes, Node{Name: fmt.Sprint(i), CPUMilli: 1000, MemoryMiB: 1024, GPUs: 1, Model: fmt.Sprintf("M%d", i)})
	}
	mix := []Task{{GPUs: 1, ShareMilli: WholeGPU, Models: []string{"M199", "M3"}}, {GPUs: 1, ShareMilli: WholeGPU}}
	for _, policy := range Policies() {
		t.Run(policy, func(t *testing.T) {
			c := mustNew(t, nodes, Config{Policy: policy, Mix: mix})
			for _, want := range []int{3, 70, 199} {
				p, ok := mustPlace(t, c, Task{GPUs: 1, ShareMilli: WholeGPU, Models: []string{"of no node", fmt.Sprintf("M%d", want)}})
				if !ok || p.Node != want {
					t.Errorf("placed %v on node %d, want %d", ok, p.Node, want)
				}
			}
			if _, ok := mustPlace(t, c, Task{GPUs: 1, ShareMilli: WholeGPU, Models: []string{"of no node"}}); ok {
				t.Error("a model that no node has was found")
			}
		})
	}
}
