package holding

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/migtest"
)

func environment(variables ...string) []byte { return []byte(strings.Join(variables, "\x00") + "\x00") }

func TestDevicesOf(t *testing.T) {
	for name, test := range map[string]struct {
		environment []byte
		want        []string
	}{
		"a task":              {environment("NOMAD_ALLOC_ID=1", "CUDA_VISIBLE_DEVICES=MIG-a,GPU-b", "NVIDIA_VISIBLE_DEVICES=GPU-b"), []string{"GPU-b", "MIG-a"}},
		"of a shared device":  {environment("NVIDIA_VISIBLE_DEVICES=GPU-b::3", "NOMAD_ALLOC_ID=1"), []string{"GPU-b"}},
		"somebody's shell":    {environment("CUDA_VISIBLE_DEVICES=GPU-b"), nil},
		"a task without GPUs": {environment("NOMAD_ALLOC_ID=1", "NVIDIA_VISIBLE_DEVICES=void", "CUDA_VISIBLE_DEVICES="), nil},
		"by index":            {environment("NOMAD_ALLOC_ID=1", "CUDA_VISIBLE_DEVICES=0,1"), nil},
		"nothing":             {nil, nil},
		"no variables":        {environment("NOMAD_ALLOC_ID", "=", "x"), nil},
	} {
		if diff := cmp.Diff(test.want, devicesOf(test.environment)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestController(t *testing.T) {
	proc := t.TempDir()
	for pid, content := range map[string][]byte{
		"10": environment("NOMAD_ALLOC_ID=1", "CUDA_VISIBLE_DEVICES=MIG-GPU-0-1-0"),
		"11": environment("NOMAD_ALLOC_ID=2", "CUDA_VISIBLE_DEVICES=GPU-1"),
		"12": environment("HOME=/root"),
		"x":  environment("NOMAD_ALLOC_ID=3", "CUDA_VISIBLE_DEVICES=GPU-1"),
		"13": nil,
	} {
		dir := filepath.Join(proc, pid)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if pid == "13" {
			continue // it ends at this moment
		}
		if err := os.WriteFile(filepath.Join(dir, "environ"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	machine := migtest.NewMachine("NVIDIA A100-SXM4-40GB", 2)
	m, _ := mig.ModelOf("NVIDIA A100-SXM4-40GB")
	placed, err := m.Place([]string{"3g.20gb", "1g.5gb"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	machine.Cut(0, placed...)
	open := machine.Use(0, 1, time.Time{})
	boards, err := Controller{Controller: machine, Proc: proc}.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type use struct{ Board, First, Second []int }
	got := use{boards[0].Processes, boards[0].Instances[0].Processes, boards[0].Instances[1].Processes}
	if diff := cmp.Diff(use{[]int{10, open}, []int{10}, []int{open}}, got); diff != "" {
		t.Errorf("a board in MIG mode (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{11}, boards[1].Processes); diff != "" {
		t.Errorf("a whole board (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{open}, machine.Read()[0].Processes); diff != "" {
		t.Errorf("the other's reading was changed (-want +got):\n%s", diff)
	}
	if _, err := (Controller{Controller: machine, Proc: filepath.Join(proc, "none")}).Boards(t.Context()); err == nil {
		t.Error("no error although nobody can tell who holds what")
	}
}

func FuzzDevicesOf(f *testing.F) {
	f.Add(environment("NOMAD_ALLOC_ID=1", "CUDA_VISIBLE_DEVICES=MIG-a,GPU-b"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, id := range devicesOf(content) {
			if strings.ContainsAny(id, ",\x00") {
				t.Errorf("%q is no device", id)
			}
		}
	})
}
