package attribution

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const (
	allocA = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	allocB = "7ba7b810-9dad-11d1-80b4-00c04fd430c8"
)

// fake is a process of a made-up /proc.
type fake struct {
	pid, parent int
	start       uint64
	command     string
	env         []string
	cgroup      string
}

func write(t testing.TB, proc string, p fake) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(p.pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"stat":    fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194304 0 0 0 0 1 1 0 0 20 0 1 0 %d 1000 10 18446744073709551615\n", p.pid, p.command, p.parent, p.start),
		"environ": strings.Join(p.env, "\x00") + "\x00",
		"cgroup":  p.cgroup,
		"comm":    p.command + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// environ is what Nomad gives a task.
func environ(alloc, task string) []string {
	return []string{
		"PATH=/bin", "NOMAD_ALLOC_ID=" + alloc, "NOMAD_TASK_NAME=" + task, "NOMAD_JOB_ID=drover-r1-train-1", "NOMAD_JOB_NAME=train",
		"NOMAD_NAMESPACE=ml", "NOMAD_META_drover.workspace=vision", "NOMAD_META_DROVER.WORKSPACE=VISION", "AWS_SECRET_ACCESS_KEY=hunter2",
	}
}

func TestTasks(t *testing.T) {
	whole := Task{Alloc: allocA, Task: "main", Job: "drover-r1-train-1", Namespace: "ml", Workspace: "vision"}
	v2 := "0::/nomad.slice/share.slice/" + allocA + ".main.scope\n"
	cases := []struct {
		name      string
		processes []fake // asked for the first
		want      Task
	}{
		{"its own environment", []fake{{pid: 10, parent: 1, env: environ(allocA, "main"), cgroup: "0::/docker/abc\n"}}, whole},
		{"that of its grandparent", []fake{
			{pid: 10, parent: 9, env: []string{"PATH=/bin"}}, {pid: 9, parent: 8}, {pid: 8, parent: 1, env: environ(allocA, "main")},
		}, whole},
		{"control group only", []fake{{pid: 10, parent: 1, cgroup: v2}}, Task{Alloc: allocA, Task: "main"}},
		{"control group, and the parent's environment", []fake{
			{pid: 10, parent: 9, cgroup: v2}, {pid: 9, parent: 1, env: environ(allocA, "main"), cgroup: v2},
		}, whole},
		{"an environment that lies", []fake{{pid: 10, parent: 1, env: environ(allocB, "main"), cgroup: v2}}, Task{Alloc: allocA, Task: "main"}},
		{"an environment that lies about the task", []fake{{pid: 10, parent: 1, env: environ(allocA, "other"), cgroup: v2}}, Task{Alloc: allocA, Task: "main"}},
		{"one that lies, below one that does not", []fake{
			{pid: 10, parent: 9, env: environ(allocB, "main"), cgroup: v2}, {pid: 9, parent: 1, env: environ(allocA, "main"), cgroup: v2},
		}, whole},
		{"a shell that drops the workspace", []fake{
			{pid: 10, parent: 9, env: environ(allocA, "main")[:6]}, {pid: 9, parent: 1, env: environ(allocA, "main")},
		}, whole},
		{"a workspace of another task", []fake{
			{pid: 10, parent: 9, env: environ(allocA, "main")[:3]}, {pid: 9, parent: 1, env: environ(allocB, "main")},
		}, Task{Alloc: allocA, Task: "main"}},
		{"a parent outside of the task", []fake{
			{pid: 10, parent: 9, cgroup: v2}, {pid: 9, parent: 1, env: environ(allocA, "main"), cgroup: "0::/system.slice\n"},
		}, Task{Alloc: allocA, Task: "main"}},
		{"no task", []fake{{pid: 10, parent: 9, env: []string{"HOME=/root"}, cgroup: "0::/user.slice\n"}, {pid: 9, parent: 1}}, Task{}},
		{"ancestors in a circle", []fake{{pid: 10, parent: 9}, {pid: 9, parent: 10}}, Task{}},
		{"a parent that is gone", []fake{{pid: 10, parent: 9}}, Task{}},
		{"a command that looks like a stat file", []fake{{pid: 10, parent: 1, command: "a) S 1 (b", env: environ(allocA, "main")}}, whole},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			for _, p := range c.processes {
				write(t, proc, p)
			}
			got := New(Config{Proc: proc}).Tasks([]int{10, 10, 11, -1})
			want := map[int]Task{10: c.want}
			if c.want == (Task{}) {
				delete(want, 10)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHelper: the server of MPS is of no task, but no stranger, unless a task
// started it.
func TestHelper(t *testing.T) {
	proc := t.TempDir()
	write(t, proc, fake{pid: 10, parent: 1, command: "nvidia-cuda-mps"})
	write(t, proc, fake{pid: 11, parent: 1, command: "nvidia-cuda-mps", env: environ(allocA, "main")[:3]})
	write(t, proc, fake{pid: 12, parent: 1, command: "nvidia-cuda"})
	want := map[int]Task{10: {}, 11: {Alloc: allocA, Task: "main"}}
	if diff := cmp.Diff(want, New(Config{Proc: proc}).Tasks([]int{10, 11, 12})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReuse: a PID that changes hands is another process.
func TestReuse(t *testing.T) {
	proc := t.TempDir()
	f := New(Config{Proc: proc})
	find := func() string { return f.Tasks([]int{10})[10].Alloc }
	write(t, proc, fake{pid: 10, parent: 1, start: 5, env: environ(allocA, "main")})
	if got := find(); got != allocA {
		t.Fatalf("found %q", got)
	}
	write(t, proc, fake{pid: 10, parent: 1, start: 5, env: environ(allocB, "main")})
	if got := find(); got != allocA {
		t.Errorf("the same process is looked at again: %q", got)
	}
	write(t, proc, fake{pid: 10, parent: 1, start: 6, env: environ(allocB, "main")})
	if got := find(); got != allocB {
		t.Errorf("another process with its PID is %q", got)
	}
	f.Tasks(nil)
	if len(f.known) != 0 {
		t.Errorf("processes that nobody asks for are kept: %v", f.known)
	}
}

func TestBounds(t *testing.T) {
	proc := t.TempDir()
	write(t, proc, fake{pid: 10, parent: 1, env: environ(allocA, strings.Repeat("ü", 300))})
	f := New(Config{Proc: proc})
	name := f.Tasks([]int{10})[10].Task
	if len(name) > maxValue || !utf8.ValidString(name) || strings.Trim(name, "ü") != "" {
		t.Errorf("the name is %d bytes: %q", len(name), name)
	}
	pids := make([]int, maxProcesses+1)
	pids[maxProcesses] = 10
	if got := f.Tasks(pids); len(got) != 0 {
		t.Errorf("a process beyond the bound was looked at: %v", got)
	}
}

// TestRealProcess looks at a process of this machine.
func TestRealProcess(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.Env = environ(allocA, "main")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, err := io.WriteString(in, "it is cat now\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	got := New(Config{}).Tasks([]int{cmd.Process.Pid, os.Getpid()})
	if len(got) != 1 || got[cmd.Process.Pid].Job != "drover-r1-train-1" || got[cmd.Process.Pid].Workspace != "vision" {
		t.Errorf("tasks are %v", got)
	}
}

func TestParseCgroup(t *testing.T) {
	main := Task{Alloc: allocA, Task: "main"}
	for name, c := range map[string]struct {
		cgroup string
		want   Task
	}{
		"version 2":        {"0::/nomad.slice/share.slice/" + allocA + ".main.scope\n", main},
		"reserved cores":   {"0::/nomad.slice/reserve.slice/" + allocA + ".main.scope\n", main},
		"version 1":        {"5:memory:/\n4:cpuset:/nomad/share/" + allocA + ".main\n0::/\n", main},
		"a task with dots": {"0::/nomad.slice/share.slice/" + allocA + ".v1.2.scope\n", Task{Alloc: allocA, Task: "v1.2"}},
		"below its own":    {"0::/nomad.slice/share.slice/" + allocA + ".main.scope/" + allocB + ".x.scope\n", main},
		"Drover's":         {"4:memory:/drover/" + allocA + "%2Fmain%2F1a2b3c4d\n", main},
		"named alike":      {"4:memory:/other/" + allocA + "%2Fmain%2F1a2b3c4d\n", Task{}},
		"a user's":         {"0::/user.slice/user-1000.slice/" + allocA + ".main.scope\n", Task{}},
		"a container's":    {"0::/system.slice/docker-0123456789abcdef.scope\n", Task{}},
		"no task":          {"0::/nomad.slice/share.slice/" + allocA + "..scope\n", Task{}},
		"none":             {"", Task{}},
		"nonsense":         {"a:b\n::::\n", Task{}},
	} {
		if got := parseCgroup([]byte(c.cgroup)); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestParseEnviron(t *testing.T) {
	join := func(env ...string) string { return strings.Join(env, "\x00") }
	for name, c := range map[string]struct {
		env  string
		want Task
	}{
		"all":                 {join(environ(allocA, "main")...), Task{allocA, "main", "drover-r1-train-1", "ml", "vision"}},
		"older names":         {join("NOMAD_ALLOC_ID=a", "NOMAD_JOB_NAME=j", "DROVER_WORKSPACE=w"), Task{Alloc: "a", Job: "j", Workspace: "w"}},
		"no allocation":       {join("NOMAD_TASK_NAME=main", "NOMAD_JOB_ID=j"), Task{}},
		"the last one counts": {join("NOMAD_ALLOC_ID=a", "NOMAD_ALLOC_ID=b"), Task{Alloc: "b"}},
		"not a variable":      {join("NOMAD_ALLOC_ID", "XNOMAD_ALLOC_ID=x", "NOMAD_ALLOC_ID=a", ""), Task{Alloc: "a"}},
		"in a value":          {join("X="+strings.Repeat("x", 20000)+"NOMAD_ALLOC_ID=b", "NOMAD_ALLOC_ID=a"), Task{Alloc: "a"}},
		"not text":            {join("NOMAD_ALLOC_ID=a\xff"), Task{Alloc: "a\uFFFD"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []interface{ Read([]byte) (int, error) }{
				strings.NewReader(c.env), iotest.OneByteReader(strings.NewReader(c.env)), iotest.DataErrReader(strings.NewReader(c.env)),
			} {
				got, err := parseEnviron(r)
				if err != nil || got != c.want {
					t.Errorf("%+v (%v), want %+v", got, err, c.want)
				}
			}
		})
	}
	if _, err := parseEnviron(iotest.ErrReader(os.ErrPermission)); err == nil {
		t.Error("an environment that cannot be read is no error")
	}
}

func FuzzParseEnviron(f *testing.F) {
	f.Add([]byte(strings.Join(environ(allocA, "main"), "\x00")))
	f.Add([]byte("NOMAD_ALLOC_ID=a\x00NOMAD_META_drover.workspace=" + strings.Repeat("w", 300)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseEnviron(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseEnviron(iotest.OneByteReader(bytes.NewReader(b)))
		if err != nil || again != got {
			t.Fatalf("read in pieces it is %+v, not %+v (%v)", again, got, err)
		}
		for _, s := range []string{got.Alloc, got.Task, got.Job, got.Namespace, got.Workspace} {
			if !utf8.ValidString(s) || len(s) > 3*maxValue || strings.Contains(s, "\x00") {
				t.Fatalf("a name is %q", s)
			}
		}
	})
}

func FuzzParseCgroup(f *testing.F) {
	f.Add([]byte("0::/nomad.slice/share.slice/" + allocA + ".main.scope\n"))
	f.Add([]byte("4:memory:/drover/" + allocA + "%2Fmain%2F1a2b3c4d\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := parseCgroup(b); (got.Alloc == "") != (got.Task == "") || got.Alloc != "" && !isUUID(got.Alloc) {
			t.Fatalf("half a task: %+v", got)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("10 (a) b) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 77 1000 10 1\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = parseStat(b) })
}
