package devcluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// process is a cluster in a process of its own, which a test can kill.
type process struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	addr  string
}

func serve(t *testing.T) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	if err := os.Mkdir(filepath.Join(p.dir, "plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, filepath.Join(p.dir, "plugins", "nomad-driver-test")); err != nil {
		t.Skipf("the test binary cannot be linked into the plugin folder: %v", err)
	}
	p.start()
	t.Cleanup(func() {
		p.stdin.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("the cluster's process: %v", err)
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	self, _ := os.Executable()
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), serveEnv+"="+p.dir, "DROVER_TEST_LISTEN="+p.addr)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		p.t.Fatalf("the cluster said %q, %v", line, err)
	}
	p.addr = strings.TrimPrefix(strings.TrimSpace(line), "http://")
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

func (p *process) client() *api.Client { return nomad(p.t, "http://"+p.addr) }

// awaitFile waits for a file that a task makes.
func awaitFile(t *testing.T, path string) string {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(path); err == nil {
			return string(b)
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s was not made", path)
		}
	}
}

func TestATaskSurvivesTheDeathOfTheCluster(t *testing.T) {
	p := serve(t)
	mark := t.TempDir()
	c := p.client()
	register(t, c, scriptJob("long", "batch", fmt.Sprintf(
		`echo begun >> %[1]s/starts; echo one; while [ ! -e %[1]s/go ]; do sleep 0.02; done; echo two; exit 0`, mark)))
	awaitFile(t, mark+"/starts")
	p.kill()
	p.start()
	c = p.client()
	awaitStatus(t, c, "long", "running")
	if err := os.WriteFile(mark+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := awaitStatus(t, c, "long", "complete")
	if got := awaitFile(t, mark+"/starts"); got != "begun\n" {
		t.Errorf("the task was started more than once: %q", got)
	}
	if got := readLog(t, c, a.ID, "stdout"); got != "one\ntwo\n" {
		t.Errorf("log %q", got)
	}
}

func TestAnExitDuringTheDeathIsDelivered(t *testing.T) {
	p := serve(t)
	mark := t.TempDir()
	register(t, p.client(), scriptJob("gone", "batch", fmt.Sprintf(
		`echo begun >> %[1]s/starts; while [ ! -e %[1]s/go ]; do sleep 0.02; done; echo end; touch %[1]s/ended; exit 3`, mark)))
	awaitFile(t, mark+"/starts")
	p.kill()
	if err := os.WriteFile(mark+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, mark+"/ended")
	p.start()
	c := p.client()
	a := awaitStatus(t, c, "gone", "failed")
	if got := awaitFile(t, mark+"/starts"); got != "begun\n" {
		t.Errorf("the task was started more than once: %q", got)
	}
	found := false
	for _, e := range a.TaskStates["main"].Events {
		found = found || e.Type == api.TaskTerminated && e.Details["exit_code"] == "3"
	}
	if !found {
		t.Errorf("no event tells of exit code 3: %+v", a.TaskStates["main"].Events)
	}
	if got := readLog(t, c, a.ID, "stdout"); got != "end\n" {
		t.Errorf("log %q", got)
	}
}

// TestKillsAtAnyMoment registers jobs and kills the cluster after a growing
// pause, over and over: what was accepted is run, exactly once.
func TestKillsAtAnyMoment(t *testing.T) {
	p := serve(t)
	mark := t.TempDir()
	var accepted []string
	for i := range 12 {
		id := fmt.Sprintf("job-%d", i)
		done := make(chan error, 1)
		go func() {
			_, _, err := p.client().Jobs().Register(scriptJob(id, "batch",
				fmt.Sprintf("echo x >> %s/%s; sleep 0.05", mark, id)), nil)
			done <- err
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*i)*500*time.Microsecond)
		<-ctx.Done()
		cancel()
		p.kill()
		if err := <-done; err == nil {
			accepted = append(accepted, id)
		}
		p.start()
	}
	c := p.client()
	t.Logf("accepted: %v", accepted)
	for _, id := range accepted {
		awaitStatus(t, c, id, "complete")
		if got := awaitFile(t, filepath.Join(mark, id)); got != "x\n" {
			t.Errorf("%s ran %d times", id, strings.Count(got, "x"))
		}
	}
}

func TestIndexesGoOnAfterTheDeath(t *testing.T) {
	p := serve(t)
	register(t, p.client(), scriptJob("a", "batch", "true"))
	awaitStatus(t, p.client(), "a", "complete")
	_, before, err := p.client().Jobs().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.kill()
	p.start()
	c := p.client()
	list, after, err := c.Jobs().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Status != "dead" || after.LastIndex < before.LastIndex {
		t.Errorf("jobs %+v at index %d, before it was %d", list, after.LastIndex, before.LastIndex)
	}
	events, err := c.EventStream().Stream(testContext(t), map[api.Topic][]string{api.TopicJob: {"b"}}, after.LastIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	register(t, c, scriptJob("b", "batch", "true"))
	for ev := range events {
		if ev.Err != nil {
			t.Fatal(ev.Err)
		}
		if ev.IsHeartbeat() {
			continue
		}
		if ev.Index <= after.LastIndex || ev.Events[0].Key != "b" || ev.Events[0].Type != "JobRegistered" {
			t.Errorf("event %+v", ev.Events[0])
		}
		return
	}
}
