package httpapi

import (
	"net/http"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/state"
)

func (s *Server) nodeRoutes() {
	s.read("GET /v1/nodes", func(st state.Reader, r *http.Request) result {
		return nodeList(st.Nodes(), r).result(r, st.TableIndex(state.Nodes))
	}, state.Nodes)
	s.read("GET /v1/node/pools", func(st state.Reader, r *http.Request) result {
		l := list[*api.NodePool]{rows: st.NodePools(), id: func(p *api.NodePool) string { return p.Name },
			stub: func(p *api.NodePool) any { return p }}
		return l.result(r, st.TableIndex(state.NodePools))
	})
	s.writes("/v1/node/pools", func(r *http.Request) (any, uint64, error) {
		var p api.NodePool
		if err := body(r, &p); err != nil {
			return nil, 0, err
		}
		index, err := s.Control.PutNodePool(&p)
		return nil, index, err
	})
	s.read("GET /v1/node/{id}", func(st state.Reader, r *http.Request) result {
		n := st.Node(r.PathValue("id"))
		if n == nil {
			return result{index: st.TableIndex(state.Nodes), err: missingID("node", r.PathValue("id"))}
		}
		return result{value: n, index: n.ModifyIndex}
	})
	// /v1/node/pool/<name> and /v1/node/<id>/allocations have one shape.
	s.read("GET /v1/node/{id}/{op}", s.readOfNode)
	s.read("GET /v1/node/pool/{name}/{what}", s.readOfPool)
	s.writes("/v1/node/{id}/{op}", s.changeNode)
	s.write("DELETE /v1/node/pool/{name}", func(r *http.Request) (any, uint64, error) {
		index, err := s.Control.DeleteNodePool(r.PathValue("name"))
		return nil, index, err
	})
}

func nodeList(rows []*api.Node, r *http.Request) list[*api.Node] {
	resources, osToo := flag(r, "resources"), flag(r, "os")
	return list[*api.Node]{rows: rows, id: func(n *api.Node) string { return n.ID },
		stub: func(n *api.Node) any {
			stub := &api.NodeListStub{Address: "127.0.0.1", ID: n.ID, Datacenter: n.Datacenter, Name: n.Name, NodeClass: n.NodeClass,
				NodePool: n.NodePool, Version: n.Attributes["nomad.version"], Drain: n.Drain, SchedulingEligibility: n.SchedulingEligibility,
				Status: n.Status, StatusDescription: n.StatusDescription, Drivers: n.Drivers, LastDrain: n.LastDrain,
				CreateIndex: n.CreateIndex, ModifyIndex: n.ModifyIndex}
			if resources {
				stub.NodeResources, stub.ReservedResources = n.NodeResources, n.ReservedResources
			}
			if osToo {
				stub.Attributes = map[string]string{"os.name": n.Attributes["os.name"]}
			}
			return stub
		}}
}

func (s *Server) readOfNode(st state.Reader, r *http.Request) result {
	id, op := r.PathValue("id"), r.PathValue("op")
	switch {
	case id == "pool":
		index := st.TableIndex(state.NodePools)
		p := st.NodePool(op)
		if p == nil {
			return result{index: index, err: missing("node pool")}
		}
		return result{value: p, index: index}
	case op == "allocations":
		rows := slices.DeleteFunc(st.Allocs(), func(a *api.Allocation) bool { return a.NodeID != id })
		return result{value: rows, index: st.TableIndex(state.Allocs)}
	}
	return result{err: missing("page")}
}

func (s *Server) readOfPool(st state.Reader, r *http.Request) result {
	name := r.PathValue("name")
	if st.NodePool(name) == nil {
		return result{index: st.TableIndex(state.NodePools), err: missing("node pool")}
	}
	switch r.PathValue("what") {
	case "nodes":
		rows := slices.DeleteFunc(st.Nodes(), func(n *api.Node) bool { return name != api.NodePoolAll && n.NodePool != name })
		return nodeList(rows, r).result(r, st.TableIndex(state.Nodes))
	case "jobs":
		res := s.listJobs(st, r)
		if stubs, ok := res.value.([]any); ok {
			res.value = slices.DeleteFunc(stubs, func(v any) bool {
				stub := v.(*api.JobListStub)
				return *st.Job(stub.Namespace, stub.ID).NodePool != name
			})
		}
		return res
	}
	return result{err: missing("page")}
}

func (s *Server) changeNode(r *http.Request) (any, uint64, error) {
	id := r.PathValue("id")
	switch op := r.PathValue("op"); {
	case id == "pool":
		var p api.NodePool
		if err := body(r, &p); err != nil {
			return nil, 0, err
		}
		if p.Name != op {
			return nil, 0, badRequest("Node pool name does not match request path")
		}
		index, err := s.Control.PutNodePool(&p)
		return nil, index, err
	case op == "drain":
		var req api.NodeUpdateDrainRequest
		if err := body(r, &req); err != nil {
			return nil, 0, err
		}
		resp, err := s.Control.DrainNode(id, &req)
		return answer(resp, resp.LastIndex, err)
	case op == "eligibility":
		var req api.NodeUpdateEligibilityRequest
		if err := body(r, &req); err != nil {
			return nil, 0, err
		}
		resp, err := s.Control.SetEligibility(id, req.Eligibility)
		if err != nil {
			return nil, 0, err
		}
		return resp, resp.LastIndex, nil
	case op == "evaluate":
		ids, index, err := s.Control.EvaluateNode(id)
		return answer(map[string]any{"EvalIDs": ids, "EvalCreateIndex": index, "NodeModifyIndex": index}, index, err)
	case op == "purge":
		resp, err := s.Control.PurgeNode(id)
		return answer(resp, resp.NodeModifyIndex, err)
	}
	return nil, 0, missing("page")
}

func answer(v any, index uint64, err error) (any, uint64, error) {
	if err != nil {
		return nil, 0, err
	}
	return v, index, nil
}
