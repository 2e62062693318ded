package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/artifact"
	nomad "github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/task-driver/task"
)

// dump is a command that leaves its environment in a file.
const dump = "env -0 > env"

func (n *node) environ(c *nomad.TaskConfig) map[string]string {
	n.t.Helper()
	if exit := n.run(c); exit.ExitCode != 0 {
		n.t.Fatalf("exit = %+v, stderr %q", exit, read(n.t, c.StderrPath))
	}
	return task.EnvMap(strings.Split(read(n.t, file(c, "local/env")), "\x00"))
}

func TestContract(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(with(shell(dump), map[string]any{
		"run": "run-7", "step": "train", "attempt": 2, "seed": 42,
		"params": `{"lr": 1e-4, "layers": 3, "net-work": "cnn", "deep": true, "none": null, "list": [1, 2]}`,
	}))
	c.Resources.Ports = []nomad.Port{{Label: "http", Value: 8080}, {Label: "master", Value: 23456}}
	c.Env["NOMAD_DC"] = "dc1"
	c.Env["MINE"] = "set by the job"
	c.Env["NOMAD_META_drover.workspace"] = "vision"
	c.Env["DROVER_RUN"] = "somebody else's"
	env := n.environ(c)
	for name, want := range map[string]string{
		"DROVER_INPUT_DIR":      inFolder(c, "inputs"),
		"DROVER_OUTPUT_DIR":     inFolder(c, "outputs"),
		"DROVER_CHECKPOINT_DIR": inFolder(c, "checkpoints"),
		"DROVER_METRICS_FILE":   inFolder(c, "metrics.jsonl"),
		"DROVER_PARAMS_FILE":    inFolder(c, "params.json"),
		"DROVER_RUN":            "run-7", "DROVER_STEP": "train", "DROVER_ATTEMPT": "2", "DROVER_SEED": "42",
		"DROVER_PARAM_LR": "1e-4", "DROVER_PARAM_LAYERS": "3", "DROVER_PARAM_NET_WORK": "cnn", "DROVER_PARAM_DEEP": "true",
		"DROVER_PARAM_NONE": "", "DROVER_PARAM_LIST": "[1, 2]",
		"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23456", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "NODE_RANK": "0",
		"NOMAD_DC": "dc1", "MINE": "set by the job", "DROVER_WORKSPACE": "vision", "PATH": os.Getenv("PATH"),
		"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "",
	} {
		if got, ok := env[name]; !ok || got != want {
			t.Errorf("%s = %q (set: %v), want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"AGENT_SECRET", "NOMAD_PLUGIN_MAGIC_COOKIE", "DROVER_RESUME_FROM"} {
		if got, ok := env[name]; ok {
			t.Errorf("%s = %q, want it unset", name, got)
		}
	}
}

// B19: exactly what was reserved, whatever the job says.
func TestDevices(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	wide := map[string]string{"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0,1"}
	for _, test := range []struct {
		name         string
		job, device  map[string]string
		nvidia, cuda string
	}{
		{"no device", nil, nil, "void", ""},
		{"no device, and the job wants all", wide, nil, "void", ""},
		{"one device", nil, map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-a"}, "GPU-a", "GPU-a"},
		{"one device, and the job wants all", wide, map[string]string{"NVIDIA_VISIBLE_DEVICES": "GPU-a"}, "GPU-a", "GPU-a"},
		{"a MIG slice", wide, map[string]string{"NVIDIA_VISIBLE_DEVICES": "MIG-b", "CUDA_VISIBLE_DEVICES": "MIG-b"}, "MIG-b", "MIG-b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := n.task(shell(dump))
			maps.Copy(c.Env, test.device) // the agent puts them in both
			maps.Copy(c.Env, test.job)
			c.DeviceEnv = test.device
			env := n.environ(c)
			if env["NVIDIA_VISIBLE_DEVICES"] != test.nvidia || env["CUDA_VISIBLE_DEVICES"] != test.cuda {
				t.Errorf("NVIDIA %q, CUDA %q; want %q, %q", env["NVIDIA_VISIBLE_DEVICES"], env["CUDA_VISIBLE_DEVICES"], test.nvidia, test.cuda)
			}
		})
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	n := newNode(t, nil)
	for d := n.dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := n.task(with(shell(`id -u; id -G; echo "$USER"; echo x > "$DROVER_OUTPUT_DIR/out" && mkdir "$DROVER_CHECKPOINT_DIR/mine" && echo '{}' >> "$DROVER_METRICS_FILE" && cat "$DROVER_PARAMS_FILE"`),
		map[string]any{"params": `{"a":1}`}))
	c.User = "nobody"
	if exit := n.run(c); exit.ExitCode != 0 {
		t.Fatalf("exit = %+v, stderr %q", exit, read(t, c.StderrPath))
	}
	lines := strings.Split(n.stdout(c), "\n")
	if lines[0] != nobody.Uid || strings.Contains(lines[1], " 0") || strings.HasPrefix(lines[1], "0 ") || lines[2] != "nobody" {
		t.Errorf("ran with %q", lines)
	}
	c = n.task(shell("true"))
	c.User = "no-such-user"
	if _, _, err := n.driver().StartTask(n.ctx(), c); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("error = %v", err)
	}
}

func TestInputsAndOutputs(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	data := t.TempDir()
	for name, content := range map[string]string{"a.csv": "1,2\n", "sub/b.csv": "3,4\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(data, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code := t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "train.sh"), []byte(`
		set -e
		cat "$DROVER_INPUT_DIR/data/a.csv" "$DROVER_INPUT_DIR/local" "$DROVER_INPUT_DIR/host/sub/b.csv" > "$DROVER_OUTPUT_DIR/all"
		mkdir "$DROVER_OUTPUT_DIR/model"; echo weights > "$DROVER_OUTPUT_DIR/model/w"
		echo '{"step": 1, "metrics": {"loss": 0.5, "acc": 0.1}}' >> "$DROVER_METRICS_FILE"
		echo 'not json' >> "$DROVER_METRICS_FILE"
		printf '{"step": 2, "metrics": {"loss": 0.25}}' >> "$DROVER_METRICS_FILE"
	`), 0o644); err != nil {
		t.Fatal(err)
	}
	digest, _, err := store.Put(n.ctx(), data)
	if err != nil {
		t.Fatal(err)
	}
	codeDigest, _, err := store.Put(n.ctx(), code)
	if err != nil {
		t.Fatal(err)
	}
	c := n.task(map[string]any{
		"command": "/bin/sh", "args": []any{"train.sh"}, "code": string(codeDigest), "result_key": "run/train",
		"input": []any{
			map[string]any{"name": "data", "source": string(digest)},
			map[string]any{"name": "local", "source": "local/fetched"},
			map[string]any{"name": "host", "source": "file://" + data, "sha256": string(digest)},
		},
		"output": []any{map[string]any{"name": "all"}, map[string]any{"name": "model"}, map[string]any{"name": "extra", "optional": true}},
	})
	if err := os.WriteFile(file(c, "local/fetched"), []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start(c)
	if exit := n.wait(c); exit.ExitCode != 0 {
		t.Fatalf("exit = %+v, stderr %q\n%s", exit, read(t, c.StderrPath), n.log(c))
	}
	if info, err := os.Stat(inFolder(c, "inputs/data/a.csv")); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("input: %v, %v; want it read-only", info.Mode(), err)
	}
	r := n.result(store, "run/train")
	if r.ExitCode != 0 || r.AllocID != c.AllocID || r.TaskID != c.ID || len(r.Outputs) != 2 {
		t.Errorf("result = %+v", r)
	}
	if diff := cmp.Diff(map[string]float64{"loss": 0.25, "acc": 0.1}, r.Last); diff != "" {
		t.Errorf("last metrics (-want +got):\n%s", diff)
	}
	if got := r.Outputs["model"]; got.Kind != "dir" || got.Files != 1 || got.Bytes != int64(len("weights\n")) {
		t.Errorf("output model = %+v", got)
	}
	out := filepath.Join(t.TempDir(), "all")
	if err := store.Fetch(n.ctx(), artifact.Digest(r.Outputs["all"].Digest), out); err != nil {
		t.Fatal(err)
	}
	if got := read(t, out); got != "1,2\nx\n3,4\n" {
		t.Errorf("output all = %q", got)
	}
	for _, want := range []string{"Staging code, data, local, host", "Storing outputs: all, model", "line 2"} {
		n.shown(c, want)
	}
}

func TestOutputFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, script, want string }{
		{"missing", "true", `no output "model"`},
		{"leads out of the folder", `ln -s /etc/passwd "$DROVER_OUTPUT_DIR/model"`, "link"},
		{"only of a success", `echo x > "$DROVER_OUTPUT_DIR/model"; exit 3`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, store := newStoreNode(t)
			c := n.task(with(shell(test.script), map[string]any{"output": []any{map[string]any{"name": "model"}}, "result_key": "r"}))
			n.start(c)
			exit := n.wait(c)
			r := n.result(store, "r")
			if exit.ExitCode == 0 || r.ExitCode != exit.ExitCode || len(r.Outputs) != 0 || !strings.Contains(r.Error, test.want) {
				t.Errorf("exit %+v, result %+v", exit, r)
			}
			if test.want != "" {
				n.shown(c, "Task failed: ")
			}
		})
	}
}

func TestBadInputs(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	absent := "sha256:" + strings.Repeat("0", 64)
	input := func(source string) map[string]any {
		return with(shell("true"), map[string]any{"input": []any{map[string]any{"name": "data", "source": source}}})
	}
	pinned := input("local/file")
	pinned["input"].([]any)[0].(map[string]any)["sha256"] = absent
	for _, test := range []struct {
		name   string
		config map[string]any
		want   string
	}{
		{"digest that the store has not", input(absent), absent},
		{"another content than pinned", pinned, "the job pins " + absent},
		{"file that is not there", input("local/none"), "no such file"},
		{"link out of the task's folder", input("local/link"), "local/link"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := n.task(test.config)
			if err := os.WriteFile(file(c, "local/file"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc/shadow", file(c, "local/link")); err != nil {
				t.Fatal(err)
			}
			_, _, err := n.driver().StartTask(n.ctx(), c)
			if err == nil || !strings.Contains(err.Error(), test.want) || nomad.IsRecoverable(err) {
				t.Errorf("error = %v, want %q in it, and that it is final", err, test.want)
			}
		})
	}
	t.Run("corrupt in the store", func(t *testing.T) {
		digest, _, err := store.Put(n.ctx(), "testdata/input.txt")
		if err != nil {
			t.Fatal(err)
		}
		m, err := store.Manifest(n.ctx(), digest)
		if err != nil {
			t.Fatal(err)
		}
		sum := m.Files[0].SHA256
		blob := filepath.Join(strings.TrimPrefix(store.URL(), "file://"), "blobs/sha256", sum[:2], sum)
		if err := os.Chmod(blob, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob, []byte("evil"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err = n.driver().StartTask(n.ctx(), n.task(input(string(digest))))
		if err == nil || !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("error = %v, want that the content is corrupt", err)
		}
	})
}

// What a task does to its inputs reaches no other task.
func TestInputsAreCopies(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	digest, _, err := store.Put(n.ctx(), "testdata/input.txt")
	if err != nil {
		t.Fatal(err)
	}
	config := func(script string) map[string]any {
		return with(shell(script), map[string]any{"input": []any{map[string]any{"name": "data", "source": string(digest)}}})
	}
	n.run(n.task(config(`chmod u+w "$DROVER_INPUT_DIR/data"; echo changed > "$DROVER_INPUT_DIR/data"`)))
	c := n.task(config(`cat "$DROVER_INPUT_DIR/data"`))
	n.run(c)
	if got, want := n.stdout(c), read(t, "testdata/input.txt"); got != want {
		t.Errorf("input = %q, want %q", got, want)
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	c := n.task(with(shell(`echo '{"step":1,"metrics":{"loss":1}}' >> "$DROVER_METRICS_FILE"; exec sleep 1000`),
		map[string]any{"stall_timeout": "1s", "result_key": "r"}))
	n.start(c)
	if exit := n.wait(c); exit.ExitCode != 143 || exit.Signal != 15 {
		t.Errorf("exit = %+v, want SIGTERM", exit)
	}
	if r := n.result(store, "r"); !strings.Contains(r.Error, "stalled") {
		t.Errorf("result = %+v", r)
	}
	n.shown(c, "Stalled")
}

// A task of a group with a network of its own runs in it, and so does what is
// run beside the task.
func TestNetwork(t *testing.T) {
	t.Parallel()
	holder := exec.Command("unshare", "-n", "sleep", "1000")
	if err := holder.Start(); err != nil {
		t.Skip("needs unshare: ", err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	path := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	own := readLink(t, "/proc/self/ns/net")
	var want string
	eventually(t, "a network namespace", func() bool {
		var err error
		want, err = os.Readlink(path)
		return err == nil && want != own
	})
	n := newNode(t, nil)
	c := n.task(shell("readlink /proc/self/ns/net; exec sleep 1000"))
	c.Network = &nomad.NetworkIsolation{Mode: nomad.NetworkGroup, Path: path}
	n.start(c)
	eventually(t, "the task's output", func() bool { return strings.HasSuffix(n.stdout(c), "\n") })
	if got := strings.TrimSpace(n.stdout(c)); got != want {
		t.Errorf("the task is in %s, want %s", got, want)
	}
	r, err := n.driver().ExecTask(n.ctx(), c.ID, []string{"readlink", "/proc/self/ns/net"}, 0)
	if err != nil || strings.TrimSpace(string(r.Stdout)) != want {
		t.Errorf("exec is in %v, %v; want %s", r, err, want)
	}
}

func readLink(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An attempt that succeeded is not done twice, as when its node is lost just
// afterwards and Nomad places it again; one that failed is.
func TestDoneBefore(t *testing.T) {
	t.Parallel()
	n, store := newStoreNode(t)
	marks := filepath.Join(t.TempDir(), "marks")
	config := func(script string) map[string]any {
		return with(shell("echo start >> "+marks+"; "+script), map[string]any{
			"output": []any{map[string]any{"name": "model"}}, "result_key": "run/train/1",
		})
	}
	starts := func(want int) {
		t.Helper()
		if got := strings.Count(read(t, marks), "start"); got != want {
			t.Errorf("the command was started %d times, want %d", got, want)
		}
	}

	failing := n.task(config("exit 3"))
	n.start(failing)
	if exit := n.wait(failing); exit.ExitCode != 3 {
		t.Fatalf("exit %+v, want 3", exit)
	}
	first := n.task(config(`echo weights > "$DROVER_OUTPUT_DIR/model"`))
	n.start(first)
	if exit := n.wait(first); exit.ExitCode != 0 {
		t.Fatalf("exit %+v after a failure, want 0", exit)
	}
	starts(2)
	want := n.result(store, "run/train/1")

	again := n.task(config(`echo other > "$DROVER_OUTPUT_DIR/model"`))
	n.start(again)
	if exit := n.wait(again); exit.ExitCode != 0 || exit.Err != nil {
		t.Errorf("exit %+v, want 0", exit)
	}
	starts(2)
	n.shown(again, "Done before, by allocation "+want.AllocID+": not run again")
	if got := n.result(store, "run/train/1"); asJSON(t, got) != asJSON(t, want) {
		t.Errorf("the record changed: %+v, was %+v", got, want)
	}
}
