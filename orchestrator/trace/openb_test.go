package trace

import (
	"bytes"
	"compress/gzip"
	"reflect"
	"strings"
	"testing"

	"github.com/drover-ml/drover/orchestrator/placement"
)

const (
	nodeHeader = "sn,cpu_milli,memory_mib,gpu,model\n"
	taskHeader = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n"
)

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReadNodes(t *testing.T) {
	const file = nodeHeader + "a,32000,1024,8,G2\nb,1000,1,0,\n"
	want := []placement.Node{{Name: "a", CPUMilli: 32000, MemoryMiB: 1024, GPUs: 8, Model: "G2"}, {Name: "b", CPUMilli: 1000, MemoryMiB: 1}}
	for name, content := range map[string]string{"plain": file, "gzipped": zipped(t, file), "byte order mark": "\ufeff" + file} {
		got, err := ReadNodes("nodes.csv", strings.NewReader(content))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestReadTasks(t *testing.T) {
	got, err := ReadTasks("tasks.csv", strings.NewReader(taskHeader+"a,1000,2,1,460,T4|G2,LS\nb,1,2,0,0,,\n"))
	want := []placement.Task{
		{Name: "a", CPUMilli: 1000, MemoryMiB: 2, GPUs: 1, ShareMilli: 460, Models: []string{"T4", "G2"}},
		{Name: "b", CPUMilli: 1, MemoryMiB: 2},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = ReadTasks("tasks.csv", strings.NewReader("num_gpu,gpu_milli,name,memory_mib,cpu_milli\n2,1000,x,3,4\n"))
	want = []placement.Task{{Name: "x", CPUMilli: 4, MemoryMiB: 3, GPUs: 2, ShareMilli: 1000}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("without models, in another order: %+v, %v", got, err)
	}
}

func TestRefusedFiles(t *testing.T) {
	tests := []struct {
		name, content, want string
		nodes               bool
	}{
		{"empty", "", "f.csv: it is empty", true},
		{"header alone", nodeHeader, "f.csv: it has no rows", true},
		{"no such column", "sn,cpu_milli,memory_mib,gpu\na,1,1,1\n", `f.csv:1:1: no column is named "model"`, true},
		{"column twice", "sn,sn,cpu_milli,memory_mib,gpu,model\n", `f.csv:1:4: a second column named "sn"`, true},
		{"no number", nodeHeader + "a,1,1,1,\nb,1,x,1,\n", `f.csv:3:5: memory_mib is "x"`, true},
		{"negative", nodeHeader + "a,-1,1,1,\n", `f.csv:2:3: cpu_milli is "-1"`, true},
		{"overflow", nodeHeader + "a,99999999999999999999,1,1,\n", "f.csv:2:3: cpu_milli is", true},
		{"name twice", nodeHeader + "a,1,1,1,\na,1,1,1,\n", `f.csv:3:1: a second node named "a"`, true},
		{"no name", nodeHeader + ",1,1,1,\n", "f.csv:2:1: sn is empty", true},
		{"too many GPUs", nodeHeader + "a,1,1,65,\n", "f.csv:2:1: node \"a\": 65 GPUs", true},
		{"short row", nodeHeader + "a,1,1\n", "f.csv:2:1: wrong number of fields", true},
		{"bare quote", nodeHeader + "a,\"1,1,1,\n", "f.csv:", true},
		{"truncated gzip", zipped(t, nodeHeader+"a,1,1,1,\n")[:20], "f.csv: unexpected EOF", true},
		{"long field", nodeHeader + strings.Repeat("a", maxField+1) + ",1,1,1,\n", "longer than 4096 bytes", true},
		{"part of several", taskHeader + "a,1,1,2,500,,\n", "f.csv:2:7: task \"a\": 500 thousandths of each of 2 GPUs", false},
		{"share without GPU", taskHeader + "a,1,1,0,500,,\n", "but no GPU", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if tt.nodes {
				_, err = ReadNodes("f.csv", strings.NewReader(tt.content))
			} else {
				_, err = ReadTasks("f.csv", strings.NewReader(tt.content))
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(nodeHeader + "a,1,1,1,T4\n"))
	f.Add([]byte(taskHeader + "a,1000,2,1,460,T4|G2,LS\n"))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		if nodes, err := ReadNodes("f", bytes.NewReader(b)); err == nil {
			for _, n := range nodes {
				if n.Name == "" || n.Check() != nil {
					t.Errorf("took %+v", n)
				}
			}
		}
		if tasks, err := ReadTasks("f", bytes.NewReader(b)); err == nil {
			for _, task := range tasks {
				if task.Name == "" || task.Check() != nil {
					t.Errorf("took %+v", task)
				}
			}
		}
	})
}
