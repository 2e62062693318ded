package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/client/taskenv"
)

// services registers an allocation's services and runs their checks.
type services struct {
	r       *allocRunner
	mu      sync.Mutex
	groupUp bool
	tasksUp map[string]bool
	cancels map[string]context.CancelFunc
	status  map[string]api.AllocCheckStatus // by check ID
	changed chan struct{}                   // closed and replaced when a status changes
}

func newServices(r *allocRunner) *services {
	return &services{r: r, tasksUp: map[string]bool{}, cancels: map[string]context.CancelFunc{},
		status: map[string]api.AllocCheckStatus{}, changed: make(chan struct{})}
}

// owned is a service and the task that it belongs to, nil for the group's.
type owned struct {
	svc  *api.Service
	task *api.Task
}

func (s *services) all() []owned {
	var list []owned
	for _, svc := range s.group().Services {
		list = append(list, owned{svc, nil})
	}
	for _, t := range s.group().Tasks {
		for _, svc := range t.Services {
			list = append(list, owned{svc, t})
		}
	}
	return list
}

// group is the group as the newest version of the job has it.
func (s *services) group() *api.TaskGroup {
	a := s.r.current()
	for _, tg := range a.Job.TaskGroups {
		if *tg.Name == a.TaskGroup {
			return tg
		}
	}
	return s.r.tg
}

func (s *services) registerGroup() {
	s.mu.Lock()
	s.groupUp = true
	s.mu.Unlock()
	s.refresh()
}

func (s *services) taskUp(t *taskRunner) {
	s.mu.Lock()
	s.tasksUp[t.task.Name] = true
	s.mu.Unlock()
	s.refresh()
}

// taskDown withdraws a task's services; with the last main task also the
// group's.
func (s *services) taskDown(t *taskRunner) {
	s.mu.Lock()
	if !s.tasksUp[t.task.Name] {
		s.mu.Unlock()
		return
	}
	delete(s.tasksUp, t.task.Name)
	var ids []string
	for _, o := range s.all() {
		if o.task != nil && o.task.Name == t.task.Name {
			ids = append(ids, s.withdraw(o))
		}
	}
	stopping := false
	select {
	case <-s.r.stopping:
		stopping = true
	default:
	}
	if stopping && s.groupUp {
		s.groupUp = false
		for _, o := range s.all() {
			if o.task == nil {
				ids = append(ids, s.withdraw(o))
			}
		}
	}
	s.mu.Unlock()
	if len(ids) > 0 {
		s.tell(func() error { return s.r.n.link.DeregisterServices(s.r.id, ids) })
	}
}

// withdraw stops a service's checks and returns its registration's ID. s.mu is held.
func (s *services) withdraw(o owned) string {
	id := s.id(o)
	if cancel := s.cancels[id]; cancel != nil {
		cancel()
		delete(s.cancels, id)
	}
	return id
}

func (s *services) deregisterAll() {
	s.mu.Lock()
	s.groupUp = false
	s.tasksUp = map[string]bool{}
	for _, cancel := range s.cancels {
		cancel()
	}
	s.cancels = map[string]context.CancelFunc{}
	any := len(s.all()) > 0
	s.mu.Unlock()
	if any {
		s.tell(func() error { return s.r.n.link.DeregisterServices(s.r.id, nil) })
	}
}

// tell tries to tell the server. What fails is made good when the node
// registers again: the server drops the services of what has ended.
func (s *services) tell(do func() error) {
	if err := do(); err != nil {
		s.r.log.Debug("telling of services", "error", err)
	}
}

// refresh registers all services that should be there, in their newest form,
// and starts checks that do not run yet.
func (s *services) refresh() {
	s.mu.Lock()
	var regs []*api.ServiceRegistration
	for _, o := range s.all() {
		if o.task == nil && !s.groupUp || o.task != nil && !s.tasksUp[o.task.Name] {
			continue
		}
		env := s.env(o)
		reg, err := s.registration(o, env)
		if err != nil {
			s.r.log.Error("a service cannot be registered", "service", o.svc.Name, "error", err)
			continue
		}
		regs = append(regs, reg)
		if s.cancels[reg.ID] == nil {
			ctx, cancel := context.WithCancel(s.r.n.ctx)
			s.cancels[reg.ID] = cancel
			s.startChecks(ctx, o, reg, env)
		}
	}
	s.mu.Unlock()
	if len(regs) > 0 {
		s.tell(func() error { return s.r.n.link.RegisterServices(regs) })
	}
}

// env is what names, tags and checks of a service may refer to.
func (s *services) env(o owned) *taskenv.Env {
	t := o.task
	if t == nil {
		t = s.group().Tasks[0]
	}
	return taskenv.Build(taskenv.Input{Node: s.r.n.describe(), Alloc: s.r.current(), Task: t, Dirs: s.r.dirs})
}

func (s *services) id(o owned) string {
	owner := "group-" + s.r.current().TaskGroup
	if o.task != nil {
		owner = o.task.Name
	}
	return fmt.Sprintf("_nomad-task-%s-%s-%s-%s", s.r.id, owner, s.env(o).Replace(o.svc.Name), o.svc.PortLabel)
}

func (s *services) registration(o owned, env *taskenv.Env) (*api.ServiceRegistration, error) {
	a := s.r.current()
	addr, port, err := s.address(o.svc.PortLabel)
	if err != nil {
		return nil, err
	}
	if o.svc.Address != "" {
		addr = env.Replace(o.svc.Address)
	}
	tags := o.svc.Tags
	if isCanary(a) && len(o.svc.CanaryTags) > 0 {
		tags = o.svc.CanaryTags
	}
	tags = slices.Clone(tags)
	for i := range tags {
		tags[i] = env.Replace(tags[i])
	}
	return &api.ServiceRegistration{ID: s.id(o), ServiceName: env.Replace(o.svc.Name), Namespace: a.Namespace, NodeID: a.NodeID,
		Datacenter: s.r.n.cfg.Datacenter, JobID: a.JobID, AllocID: a.ID, Tags: tags, Address: addr, Port: port}, nil
}

// address resolves a port label, or a literal port number.
func (s *services) address(label string) (string, int, error) {
	const host = "127.0.0.1"
	if label == "" {
		return host, 0, nil
	}
	if r := s.r.current().AllocatedResources; r != nil {
		for _, p := range r.Shared.Ports {
			if p.Label == label {
				return p.HostIP, p.Value, nil
			}
		}
	}
	port, err := strconv.Atoi(label)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("port label %q is not one of the group's ports", label)
	}
	return host, port, nil
}

// startChecks runs a service's checks until ctx ends. s.mu is held.
func (s *services) startChecks(ctx context.Context, o owned, reg *api.ServiceRegistration, env *taskenv.Env) {
	for i := range o.svc.Checks {
		c := o.svc.Checks[i]
		if c.Name == "" {
			c.Name = fmt.Sprintf("service: %q check", reg.ServiceName)
		}
		p := &probe{check: c, address: reg.Address, port: reg.Port, replace: env.Replace}
		if c.PortLabel != "" && c.PortLabel != o.svc.PortLabel {
			addr, port, err := s.address(c.PortLabel)
			if err != nil {
				s.r.log.Error("a check cannot run", "check", c.Name, "error", err)
				continue
			}
			p.address, p.port = addr, port
		}
		st := api.AllocCheckStatus{ID: checkID(reg.ID, i), Check: c.Name, Group: s.r.current().Name, Mode: "healthiness", Service: reg.ServiceName,
			Status: "pending", Timestamp: time.Now().Unix()}
		if o.task != nil {
			st.Task = o.task.Name
		}
		if c.OnUpdate == "ignore" {
			st.Mode = "readiness"
		}
		s.status[st.ID] = st
		s.r.n.wg.Go(func() { s.runCheck(ctx, p, st, o) })
	}
}

func checkID(reg string, i int) string {
	return fmt.Sprintf("%s-%d", strings.TrimPrefix(reg, "_nomad-task-"), i)
}

func (s *services) runCheck(ctx context.Context, p *probe, st api.AllocCheckStatus, o owned) {
	interval := max(p.check.Interval, 100*time.Millisecond)
	failures, began := 0, time.Now()
	for {
		st.StatusCode, st.Output, st.Status = p.run(ctx)
		if ctx.Err() != nil {
			break
		}
		st.Timestamp = time.Now().Unix()
		s.setStatus(st)
		if st.Status == "success" {
			failures = 0
		} else {
			failures++
			s.restartUnhealthy(p, o, failures, began)
		}
		s.r.n.pauseUntil(ctx, interval)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancels[regOfCheck(st.ID)] == nil {
		delete(s.status, st.ID)
	}
}

func regOfCheck(id string) string { return "_nomad-task-" + id[:strings.LastIndexByte(id, '-')] }

// restartUnhealthy applies check_restart.
func (s *services) restartUnhealthy(p *probe, o owned, failures int, began time.Time) {
	cr := p.check.CheckRestart
	if cr == nil || cr.Limit == 0 || failures < cr.Limit || cr.Grace != nil && time.Since(began) < *cr.Grace {
		return
	}
	name := p.check.TaskName
	if o.task != nil {
		name = o.task.Name
	}
	for _, t := range s.r.tasks {
		if name == "" || t.task.Name == name {
			t.askRestart(fmt.Sprintf("healthcheck: check %q unhealthy", p.check.Name))
		}
	}
}

func (s *services) setStatus(st api.AllocCheckStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.status[st.ID]
	s.status[st.ID] = st
	if old.Status != st.Status {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// checks returns the status of all checks, and a channel that is closed when
// one changes.
func (s *services) checks() (map[string]api.AllocCheckStatus, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.status), s.changed
}
