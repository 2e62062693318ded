package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/state"
)

func (s *Server) catalogRoutes() {
	s.read("GET /v1/namespaces", func(st state.Reader, r *http.Request) result {
		l := list[*api.Namespace]{rows: st.Namespaces(), id: func(n *api.Namespace) string { return n.Name },
			stub: func(n *api.Namespace) any { return n }}
		return l.result(r, st.TableIndex(state.Namespaces))
	})
	s.read("GET /v1/namespace/{name}", func(st state.Reader, r *http.Request) result {
		n := st.Namespace(r.PathValue("name"))
		if n == nil {
			return result{index: st.TableIndex(state.Namespaces), err: missing("Namespace")}
		}
		return result{value: n, index: n.ModifyIndex}
	})
	put := func(r *http.Request) (any, uint64, error) {
		var n api.Namespace
		if err := body(r, &n); err != nil {
			return nil, 0, err
		}
		if name := r.PathValue("name"); name != "" && n.Name != name {
			return nil, 0, badRequest("Namespace name does not match request path")
		}
		index, err := s.Control.PutNamespace(&n)
		return nil, index, err
	}
	s.writes("/v1/namespace", put)
	s.writes("/v1/namespace/{name}", put)
	s.write("DELETE /v1/namespace/{name}", func(r *http.Request) (any, uint64, error) {
		index, err := s.Control.DeleteNamespace(r.PathValue("name"))
		return nil, index, err
	})
	s.variableRoutes()
	s.serviceRoutes()
}

func (s *Server) variableRoutes() {
	s.read("GET /v1/vars", func(st state.Reader, r *http.Request) result {
		rows := slices.DeleteFunc(st.Variables(), func(v *api.Variable) bool { return !inNamespace(r, v.Namespace) })
		l := list[*api.Variable]{rows: rows, id: func(v *api.Variable) string { return v.Path },
			stub: func(v *api.Variable) any { return v.Metadata() }}
		return l.result(r, st.TableIndex(state.Variables))
	})
	s.read("GET /v1/var/{path...}", func(st state.Reader, r *http.Request) result {
		v := st.Variable(namespace(r), r.PathValue("path"))
		if v == nil {
			return result{index: st.TableIndex(state.Variables), err: missing("variable")}
		}
		return result{value: v, index: v.ModifyIndex}
	})
	s.mux.HandleFunc("PUT /v1/var/{path...}", s.putVariable)
	s.mux.HandleFunc("POST /v1/var/{path...}", s.putVariable)
	s.mux.HandleFunc("DELETE /v1/var/{path...}", s.deleteVariable)
}

func (s *Server) putVariable(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Has("lock-acquire") || q.Has("lock-release") || q.Has("lock-renew") {
		s.fail(w, r, &control.Error{Status: http.StatusNotImplemented, Message: "variable locks are not part of this development cluster"})
		return
	}
	var v api.Variable
	if err := body(r, &v); err != nil {
		s.fail(w, r, err)
		return
	}
	if v.Namespace == "" {
		v.Namespace = namespace(r)
	}
	if v.Path == "" {
		v.Path = r.PathValue("path")
	}
	if v.Path != r.PathValue("path") {
		s.fail(w, r, badRequest("Variable path does not match the request's"))
		return
	}
	cas, err := checkIndex(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	stored, err := s.Control.PutVariable(&v, cas)
	if s.variableFailed(w, r, err) {
		return
	}
	indexHeaders(w, stored.ModifyIndex)
	s.reply(w, r, stored)
}

func checkIndex(r *http.Request) (*uint64, error) {
	v := r.URL.Query().Get("cas")
	if v == "" {
		return nil, nil
	}
	cas, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return nil, badRequest("can not parse cas: %v", err)
	}
	return &cas, nil
}

// variableFailed writes err, a conflict with the variable that is there.
func (s *Server) variableFailed(w http.ResponseWriter, r *http.Request, err error) bool {
	var conflict *control.Conflict
	if errors.As(err, &conflict) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		if err := json.NewEncoder(w).Encode(conflict.Current); err != nil {
			s.Logger.Debug("writing a reply", "path", r.URL.Path, "error", err)
		}
		return true
	}
	if err != nil {
		s.fail(w, r, err)
	}
	return err != nil
}

func (s *Server) deleteVariable(w http.ResponseWriter, r *http.Request) {
	cas, err := checkIndex(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	index, err := s.Control.DeleteVariable(namespace(r), r.PathValue("path"), cas)
	if s.variableFailed(w, r, err) {
		return
	}
	indexHeaders(w, index)
	w.WriteHeader(http.StatusNoContent)
}

func serviceList(rows []*api.ServiceRegistration) list[*api.ServiceRegistration] {
	return list[*api.ServiceRegistration]{rows: rows, id: func(v *api.ServiceRegistration) string { return v.ID },
		stub: func(v *api.ServiceRegistration) any { return v }}
}

func (s *Server) serviceRoutes() {
	s.read("GET /v1/services", func(st state.Reader, r *http.Request) result {
		return result{value: serviceStubs(st, r), index: st.TableIndex(state.Services)}
	})
	s.read("GET /v1/service/{name}", func(st state.Reader, r *http.Request) result {
		rows := slices.DeleteFunc(st.Services(), func(v *api.ServiceRegistration) bool {
			return v.ServiceName != r.PathValue("name") || v.Namespace != namespace(r)
		})
		return serviceList(rows).result(r, st.TableIndex(state.Services))
	}, state.Services)
	s.write("DELETE /v1/service/{name}/{id}", func(r *http.Request) (any, uint64, error) {
		index, err := s.Control.DeregisterService(namespace(r), r.PathValue("name"), r.PathValue("id"))
		return nil, index, err
	})
}

func serviceStubs(st state.Reader, r *http.Request) []*api.ServiceRegistrationListStub {
	stubs := []*api.ServiceRegistrationListStub{}
	for _, v := range st.Services() {
		if !inNamespace(r, v.Namespace) {
			continue
		}
		i := slices.IndexFunc(stubs, func(s *api.ServiceRegistrationListStub) bool { return s.Namespace == v.Namespace })
		if i < 0 {
			i = len(stubs)
			stubs = append(stubs, &api.ServiceRegistrationListStub{Namespace: v.Namespace})
		}
		ns := stubs[i]
		j := slices.IndexFunc(ns.Services, func(s *api.ServiceRegistrationStub) bool { return s.ServiceName == v.ServiceName })
		if j < 0 {
			j = len(ns.Services)
			ns.Services = append(ns.Services, &api.ServiceRegistrationStub{ServiceName: v.ServiceName})
		}
		for _, tag := range v.Tags {
			if svc := ns.Services[j]; !slices.Contains(svc.Tags, tag) {
				svc.Tags = append(svc.Tags, tag)
			}
		}
	}
	return stubs
}

// agentRoutes is what the API tells about the agents themselves: one, which
// is server and every client at once.
func (s *Server) agentRoutes() {
	s.read("GET /v1/status/leader", func(state.Reader, *http.Request) result { return result{value: s.Addr} })
	s.read("GET /v1/status/peers", func(state.Reader, *http.Request) result { return result{value: []string{s.Addr}} })
	s.read("GET /v1/regions", func(state.Reader, *http.Request) result { return result{value: []string{"global"}} })
	s.read("GET /v1/agent/self", func(state.Reader, *http.Request) result {
		return result{value: &api.AgentSelf{
			Config: map[string]any{"Region": "global", "Datacenter": "dc1", "DevCluster": true,
				"Version": map[string]any{"Version": Version, "VersionMetadata": "drover-devcluster"}},
			Member: s.member(), Stats: map[string]map[string]string{"nomad": {"server": "true", "leader": "true"}},
		}}
	})
	s.read("GET /v1/agent/members", func(state.Reader, *http.Request) result {
		m := s.member()
		return result{value: &api.ServerMembers{ServerName: m.Name, ServerRegion: "global", ServerDC: "dc1", Members: []*api.AgentMember{&m}}}
	})
	s.read("GET /v1/agent/health", func(state.Reader, *http.Request) result {
		ok := map[string]any{"ok": true, "message": "ok"}
		return result{value: map[string]any{"server": ok, "client": ok}}
	})
	s.writes("/v1/system/gc", func(r *http.Request) (any, uint64, error) { return nil, 0, s.Control.CollectNow() })
	s.writes("/v1/search", s.search)
	s.read("GET /v1/operator/scheduler/configuration", func(st state.Reader, _ *http.Request) result {
		return result{value: map[string]any{"SchedulerConfig": &api.SchedulerConfiguration{SchedulerAlgorithm: "binpack"}}, index: st.Index()}
	})
}

func (s *Server) member() api.AgentMember {
	host, port, _ := strings.Cut(s.Addr, ":")
	p, _ := strconv.ParseUint(port, 10, 16)
	return api.AgentMember{Name: "devcluster.global", Addr: host, Port: uint16(p), Status: "alive",
		Tags: map[string]string{"role": "nomad", "region": "global", "dc": "dc1", "build": Version, "port": port, "drover-devcluster": "true"}}
}

// search finds IDs by prefix, at most twenty of a kind.
func (s *Server) search(r *http.Request) (any, uint64, error) {
	const most = 20
	var req struct {
		Prefix  string
		Context string
	}
	if err := body(r, &req); err != nil {
		return nil, 0, err
	}
	resp := struct {
		Matches     map[string][]string
		Truncations map[string]bool
	}{map[string][]string{}, map[string]bool{}}
	add := func(context, id string) {
		if req.Context != "" && req.Context != "all" && req.Context != context || !strings.HasPrefix(id, req.Prefix) {
			return
		}
		if len(resp.Matches[context]) == most {
			resp.Truncations[context] = true
			return
		}
		resp.Matches[context] = append(resp.Matches[context], id)
	}
	var index uint64
	s.store.View(func(st state.Reader) {
		index = st.Index()
		for _, j := range st.Jobs() {
			if inNamespace(r, *j.Namespace) {
				add("jobs", *j.ID)
			}
		}
		for _, a := range st.Allocs() {
			if inNamespace(r, a.Namespace) {
				add("allocs", a.ID)
			}
		}
		for _, e := range st.Evals() {
			if inNamespace(r, e.Namespace) {
				add("evals", e.ID)
			}
		}
		for _, d := range st.Deployments() {
			if inNamespace(r, d.Namespace) {
				add("deployment", d.ID)
			}
		}
		for _, n := range st.Nodes() {
			add("nodes", n.ID)
		}
		for _, n := range st.Namespaces() {
			add("namespaces", n.Name)
		}
		for _, p := range st.NodePools() {
			add("node_pools", p.Name)
		}
		for _, v := range st.Variables() {
			if inNamespace(r, v.Namespace) {
				add("vars", v.Path)
			}
		}
	})
	return resp, index, nil
}
