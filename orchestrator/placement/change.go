package placement

import (
	"errors"
	"fmt"
	"maps"
)

// ErrNoNode means that there is no such node, or that it was removed.
var ErrNoNode = errors.New("there is no such node")

// Add adds an empty node and returns its index. What is expected is weighed anew.
func (c *Cluster) Add(n Node) (int, error) {
	if err := n.Check(); err != nil {
		return 0, fmt.Errorf("node %q: %w", n.Name, err)
	}
	c.models = maps.Clone(c.models) // clones may have it too
	c.nodes = append(c.nodes, c.empty(n))
	c.state++
	c.states = append(c.states, c.state)
	c.weigh()
	return len(c.nodes) - 1, nil
}

// Remove takes a node out. What is on it stays there until it is released; indexes
// of other nodes stay as they are. It returns ErrNoNode if it is out already.
func (c *Cluster) Remove(node int) error {
	if node < 0 || node >= len(c.nodes) || c.nodes[node].gone {
		return ErrNoNode
	}
	c.nodes[node].gone = true
	c.weigh()
	return nil
}

// weigh computes anew what depends on all nodes, and drops the scores that went by
// it.
func (c *Cluster) weigh() {
	c.mix = c.newMix(c.expect, c.mix.prices)
	clear(c.shapes)
}
