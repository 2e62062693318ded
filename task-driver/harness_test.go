package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/nomadplugin/base"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
	"github.com/drover-ml/drover/task-driver/cgroup"
	"github.com/drover-ml/drover/task-driver/process"
	"github.com/drover-ml/drover/task-driver/task"
)

// binary is the real plugin, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ml-driver-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "nomad-driver-ml")
	args := append([]string{"build", "-o", binary}, raceFlags...)
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the plugin: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const patience = 30 * time.Second

// node is a machine with the plugin, as an agent sees it.
type node struct {
	t      testing.TB
	path   string // of the plugin
	dir    string
	config map[string]any
	spec   *schema.Spec
	plugin *host.Process
	tasks  int
	// crashed says that a test has killed the plugin, and not launched it again.
	crashed bool

	mu     sync.Mutex
	events []nomad.TaskEvent
}

// newNode launches the plugin. Config is added to the plugin's config block.
func newNode(t testing.TB, config map[string]any) *node {
	t.Helper()
	n := &node{t: t, path: binary, dir: t.TempDir(), config: map[string]any{}}
	n.config["state_dir"] = filepath.Join(n.dir, "state")
	for k, v := range config {
		n.config[k] = v
	}
	n.launch()
	t.Cleanup(func() { n.plugin.Kill() })
	return n
}

// newStoreNode is a node with an artifact store.
func newStoreNode(t *testing.T) (*node, *artifact.Store) {
	t.Helper()
	dir := t.TempDir()
	store, err := artifact.Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return newNode(t, map[string]any{"store": "file://" + dir}), store
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	return ctx
}

// launch starts the plugin as an agent does for the third time.
func (n *node) launch() {
	n.t.Helper()
	p, err := host.Launch(n.ctx(), host.Config{Path: n.path, Env: []string{"AGENT_SECRET=hush", "GORACE=halt_on_error=1"}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.plugin, n.crashed = p, false
	spec, err := p.ConfigSchema(n.ctx())
	if err != nil {
		n.t.Fatal(err)
	}
	packed, err := schema.Encode(spec, n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := p.SetConfig(n.ctx(), base.Config{MsgPack: packed, APIVersion: base.APIVersion, Agent: &base.AgentConfig{}}); err != nil {
		n.t.Fatal(err)
	}
	if n.spec, err = p.Driver().TaskSchema(n.ctx()); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		_ = p.Driver().TaskEvents(context.Background(), func(e nomad.TaskEvent) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, e)
			return nil
		})
	}()
}

// crash kills the plugin with SIGKILL.
func (n *node) crash() {
	n.crashed = true
	n.plugin.Kill()
}

func (n *node) driver() *nomad.Client { return n.plugin.Driver() }

// task makes an allocation with one task of the given config block.
func (n *node) task(config map[string]any) *nomad.TaskConfig {
	n.t.Helper()
	n.tasks++
	alloc := "test-" + strings.ToLower(rand.Text()) // unique on the machine, as control groups are
	c := &nomad.TaskConfig{
		Name: "main", AllocID: alloc, JobID: "job", JobName: "job", Group: "task", Namespace: "default",
		NodeID: "node-1", NodeName: "test", AllocDir: filepath.Join(n.dir, "alloc", alloc),
		Env: map[string]string{"PATH": os.Getenv("PATH"), "AGENT_SECRET": "hush", "NOMAD_ALLOC_INDEX": "0"},
	}
	for _, d := range []string{"main/local", "alloc/logs"} {
		if err := os.MkdirAll(filepath.Join(c.AllocDir, d), 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	c.StdoutPath = filepath.Join(c.AllocDir, "alloc/logs/stdout")
	c.StderrPath = filepath.Join(c.AllocDir, "alloc/logs/stderr")
	for _, f := range []string{c.StdoutPath, c.StderrPath} {
		if err := os.WriteFile(f, nil, 0o666); err != nil {
			n.t.Fatal(err)
		}
	}
	n.configure(c, config)
	n.next(c)
	return c
}

// shell is the config block of a task that runs a script.
func shell(script string) map[string]any {
	return map[string]any{"command": "/bin/sh", "args": []any{"-c", script}}
}

// with adds to a config block.
func with(config map[string]any, more map[string]any) map[string]any {
	for k, v := range more {
		config[k] = v
	}
	return config
}

func (n *node) configure(c *nomad.TaskConfig, config map[string]any) {
	n.t.Helper()
	packed, err := schema.Encode(n.spec, config)
	if err != nil {
		n.t.Fatal(err)
	}
	c.DriverConfig = packed
}

// next gives the task the ID of a new start, as the agent does for a restart.
func (n *node) next(c *nomad.TaskConfig) {
	n.tasks++
	c.ID = fmt.Sprintf("%s/%s/%08x", c.AllocID, c.Name, n.tasks)
}

// start starts a task, which is destroyed when the test ends.
func (n *node) start(c *nomad.TaskConfig) *nomad.Handle {
	n.t.Helper()
	h, _, err := n.driver().StartTask(n.ctx(), c)
	if err != nil {
		n.t.Fatalf("StartTask: %v", err)
	}
	id := c.ID
	n.t.Cleanup(func() {
		if err := n.driver().DestroyTask(context.Background(), id, true); err != nil && !n.crashed {
			n.t.Errorf("DestroyTask: %v", err)
		}
	})
	return h
}

func (n *node) wait(c *nomad.TaskConfig) *nomad.ExitResult {
	n.t.Helper()
	exit, err := n.driver().WaitTask(n.ctx(), c.ID)
	if err != nil {
		n.t.Fatalf("WaitTask: %v\n%s", err, n.log(c))
	}
	return exit
}

// runs starts a task, waits for it, and destroys it.
func (n *node) run(c *nomad.TaskConfig) *nomad.ExitResult {
	n.t.Helper()
	n.start(c)
	exit := n.wait(c)
	if err := n.driver().DestroyTask(n.ctx(), c.ID, true); err != nil {
		n.t.Fatalf("DestroyTask: %v", err)
	}
	return exit
}

// recover takes a task up as after a restart of the agent, which has not kept
// the driver's config.
func (n *node) recover(h *nomad.Handle) error {
	config := *h.Config
	config.DriverConfig = nil
	again := nomad.Handle{Version: h.Version, Config: &config, State: h.State, DriverState: h.DriverState}
	return n.driver().RecoverTask(n.ctx(), &again)
}

// file is a path in the task's folder.
func file(c *nomad.TaskConfig, elem ...string) string {
	return filepath.Join(append([]string{c.AllocDir, c.Name}, elem...)...)
}

// inFolder is a path among the task's files.
func inFolder(c *nomad.TaskConfig, elem ...string) string {
	return file(c, append([]string{mltask.Folder}, elem...)...)
}

// stateFile is a file of the task's state.
func (n *node) stateFile(c *nomad.TaskConfig, name string) string {
	return filepath.Join(string(task.DirOf(n.config["state_dir"].(string), c.ID)), name)
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (n *node) stdout(c *nomad.TaskConfig) string { return read(n.t, c.StdoutPath) }

// log is what the task's supervisor logged, for failing tests.
func (n *node) log(c *nomad.TaskConfig) string {
	files, _ := filepath.Glob(filepath.Join(n.dir, "state/tasks/*/supervisor.log"))
	var all strings.Builder
	for _, f := range files {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(&all, "%s:\n%s", f, b)
	}
	return all.String()
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// alive says no of a process that only waits for its parent to notice its end.
func alive(pid int) bool {
	id, err := process.Of(pid)
	return err == nil && id.Alive()
}

// messages lists what was shown of a start.
func (n *node) messages(c *nomad.TaskConfig) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, e := range n.events {
		if e.TaskID == c.ID && e.AllocID == c.AllocID && e.Task == c.Name {
			list = append(list, e.Message)
		}
	}
	return list
}

// shown waits until an event was shown that holds a text.
func (n *node) shown(c *nomad.TaskConfig, text string) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); n.count(c, text) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("no event %q among %q\n%s", text, n.messages(c), n.log(c))
		}
	}
}

func (n *node) count(c *nomad.TaskConfig, text string) int {
	var found int
	for _, m := range n.messages(c) {
		if strings.Contains(m, text) {
			found++
		}
	}
	return found
}

// pids are the task's command and supervisor.
func (n *node) pids(c *nomad.TaskConfig) (command, supervisor int) {
	n.t.Helper()
	st, err := n.driver().InspectTask(n.ctx(), c.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	for name, pid := range map[string]*int{"pid": &command, "supervisor": &supervisor} {
		if _, err := fmt.Sscan(st.Attributes[name], pid); err != nil {
			n.t.Fatalf("attribute %q: %v", name, err)
		}
	}
	return command, supervisor
}

func (n *node) result(s *artifact.Store, key string) mltask.Result {
	n.t.Helper()
	var r mltask.Result
	if err := s.GetRecord(n.ctx(), "results/"+key, &r); err != nil {
		n.t.Fatal(err)
	}
	return r
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// needGroups skips a test on a machine without control groups.
func needGroups(t *testing.T) {
	t.Helper()
	if h := cgroup.Detect(); h.Version == 0 {
		t.Skip("needs control groups: " + h.Reason)
	}
}
