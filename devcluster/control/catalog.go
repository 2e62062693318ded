package control

import (
	"regexp"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/state"
)

// Conflict is a variable that is not at the index that a write expected.
type Conflict struct{ Current *api.Variable }

func (c *Conflict) Error() string { return "cas error: variable has changed" }

var variablePath = regexp.MustCompile(`^[a-zA-Z0-9-_~/]{1,128}$`)

// PutVariable stores a variable. With a cas index it must be at that index,
// 0 for one that must not exist; else the error is a Conflict.
func (s *Server) PutVariable(v *api.Variable, cas *uint64) (*api.Variable, error) {
	const maxSize = 64 << 10
	size := 0
	for k, item := range v.Items {
		size += len(k) + len(item)
	}
	switch {
	case !variablePath.MatchString(v.Path):
		return nil, invalid("invalid path %q", v.Path)
	case len(v.Items) == 0:
		return nil, invalid("empty variables are invalid")
	case size > maxSize:
		return nil, invalid("variables are limited to 64KiB in total size")
	case v.Lock != nil:
		return nil, unsupported("variable locks are not supported by this development cluster")
	}
	_, err := s.store.Update(func(tx *state.Tx) error {
		tx.As("VariableUpdated")
		if tx.Namespace(v.Namespace) == nil {
			return invalid("nonexistent namespace %q", v.Namespace)
		}
		if err := checkCAS(tx, v.Namespace, v.Path, cas); err != nil {
			return err
		}
		return tx.PutVariable(v)
	})
	return v, err
}

// DeleteVariable forgets a variable; cas is as for PutVariable.
func (s *Server) DeleteVariable(namespace, path string, cas *uint64) (uint64, error) {
	return s.store.Update(func(tx *state.Tx) error {
		tx.As("VariableUpdated")
		if err := checkCAS(tx, namespace, path, cas); err != nil {
			return err
		}
		v := tx.Variable(namespace, path)
		if v == nil {
			return nil
		}
		return tx.DeleteVariable(v)
	})
}

func checkCAS(tx *state.Tx, namespace, path string, cas *uint64) error {
	if cas == nil {
		return nil
	}
	now := tx.Variable(namespace, path)
	switch {
	case now == nil && *cas != 0:
		return &Conflict{&api.Variable{Namespace: namespace, Path: path}}
	case now != nil && now.ModifyIndex != *cas:
		return &Conflict{now}
	}
	return nil
}

var nameOfNamespace = regexp.MustCompile(`^[a-zA-Z0-9-]{1,128}$`)

// PutNamespace creates or changes a namespace.
func (s *Server) PutNamespace(n *api.Namespace) (uint64, error) {
	if !nameOfNamespace.MatchString(n.Name) {
		return 0, invalid("invalid name %q. Must match regex %s", n.Name, nameOfNamespace)
	}
	return s.store.Update(func(tx *state.Tx) error { return tx.PutNamespace(n) })
}

// DeleteNamespace forgets a namespace in which nothing runs.
func (s *Server) DeleteNamespace(name string) (uint64, error) {
	return s.store.Update(func(tx *state.Tx) error {
		switch {
		case name == "default":
			return invalid("can not delete default namespace")
		case tx.Namespace(name) == nil:
			return notFound("Namespace not found")
		}
		for _, j := range tx.Jobs() {
			if *j.Namespace == name && deref(j.Status) != "dead" {
				return refuse("namespace %q has non-terminal jobs in regions: [global]", name)
			}
		}
		for _, v := range tx.Variables() {
			if v.Namespace == name {
				return refuse("namespace %q has variables", name)
			}
		}
		return tx.DeleteNamespace(name)
	})
}

// PutNodePool creates or changes a node pool.
func (s *Server) PutNodePool(p *api.NodePool) (uint64, error) {
	if !nameOfNamespace.MatchString(p.Name) && !variablePath.MatchString(p.Name) {
		return 0, invalid("invalid node pool name %q", p.Name)
	}
	if p.Name == api.NodePoolAll || p.Name == api.NodePoolDefault {
		return 0, invalid("modifying node pool %q is not allowed", p.Name)
	}
	return s.store.Update(func(tx *state.Tx) error {
		tx.As("NodePoolUpserted")
		return tx.PutNodePool(p)
	})
}

// DeleteNodePool forgets a node pool that nothing uses.
func (s *Server) DeleteNodePool(name string) (uint64, error) {
	if name == api.NodePoolAll || name == api.NodePoolDefault {
		return 0, invalid("deleting node pool %q is not allowed", name)
	}
	return s.store.Update(func(tx *state.Tx) error {
		tx.As("NodePoolDeleted")
		p := tx.NodePool(name)
		if p == nil {
			return notFound("node pool not found")
		}
		for _, n := range tx.Nodes() {
			if n.NodePool == name {
				return refuse("node pool %q has nodes", name)
			}
		}
		for _, j := range tx.Jobs() {
			if *j.NodePool == name && deref(j.Status) != "dead" {
				return refuse("node pool %q has non-terminal jobs", name)
			}
		}
		return tx.DeleteNodePool(p)
	})
}
