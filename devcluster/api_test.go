package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/faults"
)

func TestRegisteringTheSameJobTwiceMakesNoNewVersion(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	first := register(t, c, scriptJob("j", "batch", "true"))
	awaitStatus(t, c, "j", "complete")
	register(t, c, scriptJob("j", "batch", "true"))
	j, _, err := c.Jobs().Info("j", nil)
	if err != nil || *j.Version != 0 || *j.JobModifyIndex != first.JobModifyIndex {
		t.Errorf("version %d at %d, %v", *j.Version, *j.JobModifyIndex, err)
	}
	register(t, c, scriptJob("j", "batch", "exit 0"))
	if j, _, err = c.Jobs().Info("j", nil); err != nil || *j.Version != 1 {
		t.Errorf("version %d after a change, %v", *j.Version, err)
	}
	_, _, err = c.Jobs().RegisterOpts(scriptJob("j", "batch", "exit 1"), &api.RegisterOptions{EnforceIndex: true, ModifyIndex: first.JobModifyIndex}, nil)
	if err == nil || !strings.Contains(err.Error(), api.RegisterEnforceIndexErrPrefix) {
		t.Errorf("an old index was accepted: %v", err)
	}
}

func TestRestartPolicy(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	mark := t.TempDir()
	j := scriptJob("j", "batch", fmt.Sprintf(`echo x >> %s/starts; exit 7`, mark))
	j.TaskGroups[0].RestartPolicy = &api.RestartPolicy{Attempts: ptr(2), Interval: ptr(time.Minute), Delay: ptr(10 * time.Millisecond), Mode: ptr("fail")}
	register(t, c, j)
	a := awaitStatus(t, c, "j", "failed")
	if got := awaitFile(t, filepath.Join(mark, "starts")); got != "x\nx\nx\n" {
		t.Errorf("starts %q", got)
	}
	ts := a.TaskStates["main"]
	last := ts.Events[len(ts.Events)-1]
	if !ts.Failed || ts.Restarts != 2 || last.Type != api.TaskNotRestarting {
		t.Errorf("failed %v after %d restarts, last event %s", ts.Failed, ts.Restarts, last.Type)
	}
}

func TestStopSignalRestartAndExec(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	mark := t.TempDir()
	register(t, c, scriptJob("j", "service", fmt.Sprintf(
		`trap 'echo usr1 > %[1]s/usr1' USR1; trap 'exit 0' TERM; echo x >> %[1]s/starts; while :; do sleep 0.02; done`, mark)))
	a := awaitStatus(t, c, "j", "running")
	alloc := &api.Allocation{ID: a.ID, NodeID: a.NodeID}
	awaitFile(t, filepath.Join(mark, "starts"))
	if err := c.Allocations().Signal(alloc, nil, "main", "SIGUSR1"); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(mark, "usr1"))
	var out bytes.Buffer
	code, err := c.Allocations().Exec(testContext(t), alloc, "main", false, []string{"/bin/sh", "-c", "cat; exit 4"},
		strings.NewReader("to the task"), &out, &out, nil, nil)
	if err != nil || code != 4 || out.String() != "to the task" {
		t.Errorf("exec: code %d, output %q, %v", code, out.String(), err)
	}
	if err := c.Allocations().Restart(alloc, "main", nil); err != nil {
		t.Fatal(err)
	}
	awaitAllocs(t, c, "j", func(as []*api.AllocationListStub) bool {
		return as[0].TaskStates["main"].Restarts == 1 && as[0].TaskStates["main"].State == "running"
	})
	if _, _, err := c.Jobs().Deregister("j", false, nil); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, "j", "complete")
}

func TestServicesComeAndGoWithTheirTask(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	j := scriptJob("web", "service", `exec python3 -c "
import http.server,os
http.server.HTTPServer(('127.0.0.1',int(os.environ['NOMAD_PORT_http'])),http.server.SimpleHTTPRequestHandler).serve_forever()"`)
	tg := j.TaskGroups[0]
	tg.Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "http"}}}}
	tg.Services = []*api.Service{{Name: "web-${NOMAD_JOB_ID}", Provider: "nomad", PortLabel: "http", Tags: []string{"x"}, Checks: []api.ServiceCheck{
		{Name: "up", Type: "http", Path: "/", Interval: 50 * time.Millisecond, Timeout: time.Second}}}}
	tg.Update = &api.UpdateStrategy{MaxParallel: ptr(1), MinHealthyTime: ptr(50 * time.Millisecond), HealthyDeadline: ptr(time.Minute), ProgressDeadline: ptr(2 * time.Minute)}
	register(t, c, j)
	a := awaitAllocs(t, c, "web", func(as []*api.AllocationListStub) bool {
		return len(as) == 1 && as[0].DeploymentStatus != nil && as[0].DeploymentStatus.Healthy != nil && *as[0].DeploymentStatus.Healthy
	})[0]
	regs, _, err := c.Services().Get("web-web", nil)
	if err != nil || len(regs) != 1 || regs[0].AllocID != a.ID || regs[0].Tags[0] != "x" {
		t.Fatalf("registrations %+v, %v", regs, err)
	}
	resp, err := http.Get(fmt.Sprintf("http://%s:%d/", regs[0].Address, regs[0].Port))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	checks, err := c.Allocations().Checks(a.ID, nil)
	if err != nil || len(checks) != 1 {
		t.Errorf("checks %+v, %v", checks, err)
	}
	d, _, err := c.Jobs().LatestDeployment("web", nil)
	if err != nil || d.Status != api.DeploymentStatusSuccessful {
		t.Errorf("deployment %+v, %v", d, err)
	}
	if _, _, err := c.Jobs().Deregister("web", true, nil); err != nil {
		t.Fatal(err)
	}
	awaitAllocs(t, c, "web", func(as []*api.AllocationListStub) bool { return as[0].ClientStatus == "complete" })
	if regs, _, err = c.Services().Get("web-web", nil); err != nil || len(regs) != 0 {
		t.Errorf("registrations %+v after the end, %v", regs, err)
	}
}

func TestDispatch(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	j := scriptJob("p", "batch", `echo "$NOMAD_META_who: $(cat input)"`)
	j.ParameterizedJob = &api.ParameterizedJobConfig{Payload: "required", MetaRequired: []string{"who"}}
	j.TaskGroups[0].Tasks[0].DispatchPayload = &api.DispatchPayloadConfig{File: "input"}
	register(t, c, j)
	if _, _, err := c.Jobs().Dispatch("p", nil, []byte("x"), "", nil); err == nil {
		t.Error("a dispatch without its required meta was accepted")
	}
	var ids []string
	for range 2 {
		resp, _, err := c.Jobs().DispatchOpts(&api.DispatchOptions{JobID: "p", Meta: map[string]string{"who": "me"}, Payload: []byte("hello")},
			&api.WriteOptions{IdempotencyToken: "once"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, resp.DispatchedJobID)
	}
	if ids[0] != ids[1] {
		t.Errorf("one token made %s and %s", ids[0], ids[1])
	}
	a := awaitStatus(t, c, ids[0], "complete")
	if got := readLog(t, c, a.ID, "stdout"); got != "me: hello\n" {
		t.Errorf("log %q", got)
	}
}

func TestVariablesAndTemplates(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	v := api.NewVariable("app/config")
	v.Items["key"] = "from a variable"
	v, _, err := c.Variables().CheckedCreate(v, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Variables().CheckedCreate(v, nil); !errors.As(err, new(api.ErrCASConflict)) {
		t.Errorf("creating it twice: %v", err)
	}
	j := scriptJob("j", "batch", `cat out.txt; echo "$FROM_TEMPLATE"`)
	j.TaskGroups[0].Tasks[0].Templates = []*api.Template{
		{EmbeddedTmpl: ptr(`{{ with nomadVar "app/config" }}{{ .key }}{{ end }} for {{ env "NOMAD_JOB_ID" }}` + "\n"), DestPath: ptr("local/out.txt")},
		{EmbeddedTmpl: ptr("FROM_TEMPLATE=yes\n"), DestPath: ptr("secrets/env"), Envvars: ptr(true)},
	}
	register(t, c, j)
	a := awaitStatus(t, c, "j", "complete")
	if got := readLog(t, c, a.ID, "stdout"); got != "from a variable for j\nyes\n" {
		t.Errorf("log %q", got)
	}
	if rc, err := c.AllocFS().Cat(&api.Allocation{ID: a.ID}, "/main/secrets/env", nil); err == nil {
		rc.Close()
		t.Error("a secret file can be read")
	}
	bad := scriptJob("bad", "batch", "true")
	bad.TaskGroups[0].Tasks[0].Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ key "x" }}`), DestPath: ptr("local/x")}}
	register(t, c, bad)
	a = awaitStatus(t, c, "bad", "failed")
	if !slices.ContainsFunc(a.TaskStates["main"].Events, func(e *api.TaskEvent) bool { return strings.Contains(e.DisplayMessage, `"key"`) }) {
		t.Errorf("no event names the function: %+v", a.TaskStates["main"].Events)
	}
}

func TestArtifacts(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data.txt"), []byte("data\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := scriptJob("j", "batch", "cat in/data.txt")
	j.TaskGroups[0].Tasks[0].Artifacts = []*api.TaskArtifact{{GetterSource: ptr("file://" + dir + "/data.txt"), RelativeDest: ptr("local/in/"),
		GetterOptions: map[string]string{"checksum": "sha256:6667b2d1aab6a00caa5aee5af8ad9f1465e567abf1c209d15727d57b3e8f6e5f"}}}
	register(t, c, j)
	a := awaitStatus(t, c, "j", "complete")
	if got := readLog(t, c, a.ID, "stdout"); got != "data\n" {
		t.Errorf("log %q", got)
	}
	j = scriptJob("bad", "batch", "true")
	j.TaskGroups[0].Tasks[0].Artifacts = []*api.TaskArtifact{{GetterSource: ptr("file://" + dir + "/data.txt"), RelativeDest: ptr("../../../escape")}}
	register(t, c, j)
	awaitStatus(t, c, "bad", "failed")
}

func TestTheEventStreamResumesAtAnIndex(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	register(t, c, scriptJob("one", "batch", "true"))
	awaitStatus(t, c, "one", "complete")
	types := func(index uint64) (list []string, last uint64) {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		ch, err := c.EventStream().Stream(ctx, map[api.Topic][]string{api.TopicAllocation: {"*"}, api.TopicJob: {"*"}}, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		for batch := range ch {
			if batch.Err != nil {
				t.Fatal(batch.Err)
			}
			for _, e := range batch.Events {
				list = append(list, fmt.Sprintf("%d/%s/%s", e.Index, e.Topic, e.Type))
				if j, err := e.Job(); err == nil && j != nil && *j.Status == "dead" {
					return list, batch.Index
				}
			}
		}
		return list, 0
	}
	all, last := types(0)
	if len(all) < 4 {
		t.Fatalf("events %v", all)
	}
	for i, e := range all {
		var index uint64
		if _, err := fmt.Sscanf(e, "%d/", &index); err != nil {
			t.Fatal(err)
		}
		again, end := types(index)
		if end != last || again[len(again)-1] != all[len(all)-1] || len(again) < len(all)-i {
			t.Errorf("resumed at %d: %v, the whole was %v", index, again, all)
		}
	}
}

func TestInjectedErrors(t *testing.T) {
	cluster := startCluster(t)
	c := nomad(t, cluster.Addr())
	for _, kind := range []faults.Kind{faults.Status, faults.Reset, faults.Lost} {
		id := "job-" + string(kind)
		cluster.ErrorNext(faults.Rule{Method: "PUT", Path: "/v1/jobs", Kind: kind})
		if _, _, err := c.Jobs().Register(scriptJob(id, "batch", "true"), nil); err == nil {
			t.Errorf("%s: no error", kind)
		}
		_, _, err := c.Jobs().Info(id, nil)
		if done := err == nil; done != (kind == faults.Lost) {
			t.Errorf("%s: registered %v", kind, done)
		}
		register(t, c, scriptJob(id, "batch", "true"))
		awaitStatus(t, c, id, "complete")
	}
}

func TestFaultsOverHTTP(t *testing.T) {
	cluster := startCluster(t, nodes("a"))
	post := func(path, body string) int {
		resp, err := http.Post(cluster.Addr()+"/v1/devcluster/"+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, tt := range []struct {
		path, body string
		want       int
	}{
		{"partition-node", `{"node":"a"}`, 204},
		{"heal-node", `{"node":"a"}`, 204},
		{"kill-node", `{"node":"nope"}`, 404},
		{"fail-gpu", `{"node":"a","id":"GPU-0"}`, 400},
		{"delay-events", `{"delay":"1ms"}`, 204},
		{"delay-events", `{"delay":"x"}`, 400},
		{"error-next", `{"method":"GET","path":"/v1/regions","count":1}`, 204},
		{"clear", ``, 204},
		{"nothing", ``, 404},
	} {
		if got := post(tt.path, tt.body); got != tt.want {
			t.Errorf("%s %s: status %d, want %d", tt.path, tt.body, got, tt.want)
		}
	}
}

func TestGarbageIsCollectedOnRequest(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	register(t, c, scriptJob("done", "batch", "true"))
	a := awaitStatus(t, c, "done", "complete")
	register(t, c, scriptJob("goes-on", "batch", "sleep 30"))
	awaitStatus(t, c, "goes-on", "running")
	if err := c.System().GarbageCollect(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Jobs().Info("done", nil); err == nil {
		t.Error("the job that has ended is still there")
	}
	if _, _, err := c.Allocations().Info(a.ID, nil); err == nil {
		t.Error("its allocation is still there")
	}
	awaitStatus(t, c, "goes-on", "running")
}

func TestPeriodicJobsLaunchChildren(t *testing.T) {
	c := nomad(t, startCluster(t).Addr())
	j := scriptJob("p", "batch", "true")
	j.Periodic = &api.PeriodicConfig{Enabled: ptr(true), Spec: ptr("* * * * * * *"), SpecType: ptr("cron")}
	register(t, c, j)
	q := &api.QueryOptions{Prefix: "p/periodic-", WaitTime: time.Second}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		children, meta, err := c.Jobs().List(q)
		if err != nil {
			t.Fatal(err)
		}
		if len(children) > 0 && children[0].ParentID == "p" && children[0].Status == "dead" {
			return
		}
		q.WaitIndex = meta.LastIndex
	}
	t.Fatal("no child was launched and ended")
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	cluster := startCluster(t)
	for _, tt := range []struct {
		name, host, origin string
		want               int
	}{
		{"a client", "", "", 200},
		{"localhost", "localhost:4646", "", 200},
		{"another name for this machine", "evil.example", "", 403},
		{"a page of another site", "", "https://evil.example", 403},
		{"a page of this machine", "", "http://127.0.0.1:4680", 200},
	} {
		req, err := http.NewRequest(http.MethodGet, cluster.Addr()+"/v1/regions", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		if tt.origin != "" {
			req.Header.Set("Origin", tt.origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, resp.StatusCode, tt.want)
		}
	}
}

func TestUnsupportedPartsSaySo(t *testing.T) {
	cluster := startCluster(t)
	for _, path := range []string{"/v1/acl/tokens", "/v1/jobs/parse", "/v1/volumes"} {
		resp, err := http.Get(cluster.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
	j := scriptJob("j", "batch", "true")
	j.TaskGroups[0].Tasks[0].Vault = &api.Vault{Role: "x"}
	if _, _, err := nomad(t, cluster.Addr()).Jobs().Register(j, nil); err == nil || !strings.Contains(err.Error(), "vault") {
		t.Errorf("a job with a vault block: %v", err)
	}
}
