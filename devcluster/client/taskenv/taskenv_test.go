package taskenv

import (
	"archive/tar"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func ptr[T any](v T) *T { return &v }

func testInput(t *testing.T) Input {
	task := api.NewTask("main", "ml")
	task.Resources = &api.Resources{CPU: ptr(100), MemoryMB: ptr(64)}
	task.Env = map[string]string{"WHO": "${NOMAD_JOB_ID} on ${node.unique.name}, ${attr.kernel.name}, ${meta.rack}, ${nothing}"}
	task.Meta = map[string]string{"level": "task"}
	tg := api.NewTaskGroup("g", 1).AddTask(task)
	tg.Meta = map[string]string{"level": "group", "a-b": "x"}
	job := &api.Job{ID: ptr("j"), Name: ptr("j"), TaskGroups: []*api.TaskGroup{tg}, Meta: map[string]string{"level": "job"}}
	in := Input{Node: &api.Node{Name: "n1", Datacenter: "dc1", Attributes: map[string]string{"kernel.name": "linux"}, Meta: map[string]string{"rack": "r1"}},
		Alloc: &api.Allocation{ID: "0123456789", Name: "j.g[3]", JobID: "j", Job: job, TaskGroup: "g", Namespace: "default",
			AllocatedResources: &api.AllocatedResources{Shared: api.AllocatedSharedResources{Ports: []api.PortMapping{{Label: "http", Value: 20001, To: 80, HostIP: "127.0.0.1"}}}}},
		Task: task, Dirs: Dirs{Alloc: t.TempDir()}, Host: []string{"PATH=/bin", "WHO=host"}, Device: map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-1"}}
	if err := in.Dirs.Make(tg.Tasks); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestEnvironment(t *testing.T) {
	in := testInput(t)
	env := Build(in)
	for name, want := range map[string]string{
		"NOMAD_ALLOC_ID": "0123456789", "NOMAD_SHORT_ALLOC_ID": "01234567", "NOMAD_ALLOC_INDEX": "3", "NOMAD_JOB_ID": "j",
		"NOMAD_PORT_http": "80", "NOMAD_HOST_PORT_http": "20001", "NOMAD_ADDR_http": "127.0.0.1:20001", "NOMAD_META_level": "task",
		"NOMAD_META_LEVEL": "task", "NOMAD_META_a_b": "x", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "GPU-1",
		"WHO": "j on n1, linux, r1, ${nothing}", "NOMAD_TASK_DIR": in.Dirs.Local("main"),
	} {
		if got := env.Vars[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := env.Variables()["env.NOMAD_JOB_ID"]; got != "j" {
		t.Errorf("env.NOMAD_JOB_ID is %q", got)
	}
}

func TestTemplates(t *testing.T) {
	vars := func(path string) *api.Variable {
		if path == "p" {
			return &api.Variable{Items: map[string]string{"k": "v"}}
		}
		return nil
	}
	tests := []struct {
		name, text, dest, want, err string
	}{
		{name: "environment", text: `{{ env "NOMAD_JOB_ID" }}`, dest: "local/a", want: "j"},
		{name: "variable", text: `{{ with nomadVar "p" }}{{ .k }}{{ end }}`, dest: "local/a", want: "v"},
		{name: "no such variable", text: `{{ nomadVar "q" }}`, dest: "local/a", err: "does not exist"},
		{name: "unknown function", text: `{{ key "q" }}`, dest: "local/a", err: `function "key" not defined`},
		{name: "escape", text: "x", dest: "../../x", err: "leaves the allocation"},
		{name: "no destination", text: "x", err: "no destination"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := testInput(t)
			_, err := Render([]*api.Template{{EmbeddedTmpl: &tt.text, DestPath: &tt.dest}}, Build(in), in.Dirs, "main", vars)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(in.Dirs.Task("main"), tt.dest)); err != nil || string(b) != tt.want {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

func TestEnvTemplates(t *testing.T) {
	in := testInput(t)
	got, err := Render([]*api.Template{{EmbeddedTmpl: ptr("# note\nA=1\nB=\"two words\"\n"), DestPath: ptr("secrets/env"), Envvars: ptr(true)}},
		Build(in), in.Dirs, "main", nil)
	if err != nil || got["A"] != "1" || got["B"] != "two words" || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestPathsMayNotGoThroughLinks(t *testing.T) {
	in := testInput(t)
	if err := os.Symlink(t.TempDir(), filepath.Join(in.Dirs.Local("main"), "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Inside(in.Dirs, "main", "local/link/file"); err == nil {
		t.Error("a path through a link was accepted")
	}
	if got, err := Inside(in.Dirs, "main", "../alloc/data/x"); err != nil || got != filepath.Join(in.Dirs.Shared(), "data", "x") {
		t.Errorf("got %s, %v", got, err)
	}
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "content"
			h.Size, h.Mode = int64(len(body)), 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestArtifacts(t *testing.T) {
	tests := []struct {
		name, path string
		body       []byte
		options    map[string]string
		want, err  string
	}{
		{name: "file", path: "/a.txt", body: []byte("x"), want: "local/in/a.txt"},
		{name: "archive", path: "/a.tar", body: tarOf(t, tar.Header{Name: "d/f", Typeflag: tar.TypeReg}), want: "local/in/d/f"},
		{name: "archive that escapes", path: "/a.tar", body: tarOf(t, tar.Header{Name: "../../f", Typeflag: tar.TypeReg}), err: "leaves the folder"},
		{name: "archive with a link", path: "/a.tar", body: tarOf(t, tar.Header{Name: "l", Linkname: "/etc", Typeflag: tar.TypeSymlink}), err: "only files and folders"},
		{name: "wrong checksum", path: "/a.txt", body: []byte("x"), options: map[string]string{"checksum": "sha256:00"}, err: "checksum"},
		{name: "missing", path: "/missing", err: "404"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/missing" {
					http.NotFound(w, r)
					return
				}
				_, _ = w.Write(tt.body)
			}))
			defer srv.Close()
			in := testInput(t)
			err := Fetch(context.Background(), []*api.TaskArtifact{{GetterSource: ptr(srv.URL + tt.path + "?token=secret"), RelativeDest: ptr("local/in"),
				GetterOptions: tt.options}}, Build(in), in.Dirs, "main")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(in.Dirs.Task("main"), tt.want)); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte("A=1\nB=\"x\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		vars, err := parseEnv(b)
		if err != nil && vars != nil {
			for k := range vars {
				if k == "" {
					t.Error("a variable without a name")
				}
			}
		}
	})
}
