package trace

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/placement"
)

const (
	jobHeader   = "name,submitted,duration,gpus,workspace,members,models,cpu,memory,priority,preemptible,checkpoint_interval,run_time\n"
	openbHeader = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
)

func TestReadJobs(t *testing.T) {
	least := Job{Name: "a", Workspace: "default", Submitted: time.Second, Duration: 2500 * time.Millisecond, Min: 1, Max: 1, Line: 2}
	full := Job{
		Name: "b", Workspace: "vision", Submitted: 0, Duration: time.Hour, Min: 2, Max: 8, Line: 2, Priority: -3, Preemptible: new(true),
		Checkpoint: 10 * time.Minute, RunTime: 2 * time.Hour,
		Each: placement.Task{CPUMilli: 500, MemoryMiB: 2048, GPUs: 4, ShareMilli: 1000, Models: []string{"T4", "G2"}},
	}
	part := Job{Name: "c", Workspace: "default", Min: 3, Max: 3, Line: 2, Preemptible: new(false), Each: placement.Task{GPUs: 1, ShareMilli: 125}}
	tests := map[string]struct {
		content string
		want    []Job
	}{
		"only what must be there": {"name,submitted,duration,gpus\na,1,2.5,0\n", []Job{least}},
		"in another order":        {"gpus,duration,submitted,name\n0,2.5,1,a\n", []Job{least}},
		"gzipped":                 {zipped(t, "name,submitted,duration,gpus\na,1,2.5,0\n"), []Job{least}},
		"all there is":            {jobHeader + "b,0,3600,4,vision,2-8,T4|G2,0.5,2048,-3,true,600,7200\n", []Job{full}},
		"a part of a GPU":         {jobHeader + "c,0,0,0.125,,3,,,,,false,,\n", []Job{part}},
		"openb": {openbHeader + "a,1000,512,1,460,T4|G2,BE,Running,100,500,140\nb,1000,512,2,1000,,LS,Failed,100,500,\nc,1,1,0,0,,,Pending,7,7,7\n", []Job{
			{Name: "a", Workspace: "BE", Submitted: 100 * time.Second, Duration: 360 * time.Second, Min: 1, Max: 1, Line: 2, Preemptible: new(true),
				Each: placement.Task{CPUMilli: 1000, MemoryMiB: 512, GPUs: 1, ShareMilli: 460, Models: []string{"T4", "G2"}}},
			{Name: "b", Workspace: "LS", Submitted: 100 * time.Second, Duration: 400 * time.Second, Min: 1, Max: 1, Line: 3, Preemptible: new(false),
				Each: placement.Task{CPUMilli: 1000, MemoryMiB: 512, GPUs: 2, ShareMilli: 1000}},
			{Name: "c", Workspace: "default", Submitted: 7 * time.Second, Min: 1, Max: 1, Line: 4, Preemptible: new(false), Each: placement.Task{CPUMilli: 1, MemoryMiB: 1}},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ReadJobs("f.csv", strings.NewReader(test.content))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRefusedJobs(t *testing.T) {
	row := func(field, value string) string {
		values := map[string]string{"name": "a", "submitted": "0", "duration": "1", "gpus": "1", field: value}
		var cells []string
		for _, c := range strings.Split(strings.TrimSpace(jobHeader), ",") {
			cells = append(cells, values[c])
		}
		return jobHeader + strings.Join(cells, ",") + "\n"
	}
	tests := []struct{ name, content, want string }{
		{"empty", "", "f.csv: it is empty"},
		{"header alone", jobHeader, "f.csv: it has no rows"},
		{"no such column", "name,submitted,duration\na,1,1\n", `f.csv:1:1: no column is named "gpus"`},
		{"unknown column", "name,submitted,duration,gpus,prio\na,1,1,1,1\n", `f.csv:1:30: no column is named "prio"; there are name, submitted,`},
		{"tasks without times", taskHeader + "a,1,1,1,500,,\n", `f.csv:1:6: no column is named "cpu_milli"`},
		{"short row", jobHeader + "a,1,1\n", "f.csv:2:1: wrong number of fields"},
		{"long row", "name,submitted,duration,gpus\na,1,1,1,1\n", "f.csv:2:1: wrong number of fields"},
		{"name twice", "name,submitted,duration,gpus\na,1,1,1\nb,1,1,1\na,1,1,1\n", `f.csv:4:1: a second job named "a"; the first is in line 2`},
		{"no name", row("name", ""), "f.csv:2:1: name is empty"},
		{"negative time", row("submitted", "-1"), `f.csv:2:3: submitted is "-1", not a number of seconds`},
		{"no time", row("duration", ""), `f.csv:2:5: duration is ""`},
		{"NaN", row("duration", "NaN"), `f.csv:2:5: duration is "NaN"`},
		{"infinite", row("duration", "Inf"), `f.csv:2:5: duration is "Inf"`},
		{"exponent", row("duration", "1e3"), `f.csv:2:5: duration is "1e3"`},
		{"too precise", row("duration", "0.0001"), `f.csv:2:5: duration is "0.0001"`},
		{"time overflows", row("duration", "99999999999999999999"), `f.csv:2:5: duration is "99999999999999999999"`},
		{"time too long", row("duration", "999999999999"), `f.csv:2:5: duration is "999999999999"`},
		{"no GPUs told", row("gpus", ""), "f.csv:2:7: gpus is empty; write 0 for none"},
		{"negative GPUs", row("gpus", "-1"), `f.csv:2:7: gpus is "-1"`},
		{"one and a half", row("gpus", "1.5"), `f.csv:2:7: gpus is "1.5"; more than one are whole ones`},
		{"too many GPUs", row("gpus", "65"), `f.csv:2:7: gpus is "65"; a member has at most 64`},
		{"a workspace's name", row("workspace", "a/serving"), `f.csv:2:9: workspace is "a/serving"; a name has 1 to 63 letters`},
		{"no members", row("members", "0"), `f.csv:2:10: members is "0"`},
		{"members the wrong way round", row("members", "8-2"), `f.csv:2:10: members is "8-2"`},
		{"too many members", row("members", "100001"), `f.csv:2:10: members is "100001"`},
		{"an empty model", row("models", "T4||G2"), `f.csv:2:11: models is "T4||G2", with an empty name in it`},
		{"cores", row("cpu", "four"), `f.csv:2:12: cpu is "four"`},
		{"cores overflow", row("cpu", "9223372036854775807"), `f.csv:2:12: cpu is "9223372036854775807"`},
		{"memory", row("memory", "1.5"), `f.csv:2:13: memory is "1.5", not a whole number`},
		{"priority", row("priority", "1000001"), `f.csv:2:14: priority is "1000001", not a whole number from -1000000`},
		{"preemptible", row("preemptible", "yes"), `f.csv:2:15: preemptible is "yes", neither true nor false`},
		{"checkpoints without pause", row("checkpoint_interval", "0.5"), `f.csv:2:16: checkpoint_interval is "0.5", not a number of seconds from 1`},
		{"run time of nothing", row("run_time", "0"), `f.csv:2:17: run_time is "0"`},
		{"ended before it began", openbHeader + "a,1,1,0,0,,,x,100,90,95\n", "f.csv:2:19: deletion_time is 90, before it began"},
		{"openb's part of several", openbHeader + "a,1,1,2,500,,,x,1,2,1\n", "f.csv:2:7: 500 thousandths of each of 2 GPUs"},
		{"long field", row("workspace", strings.Repeat("a", maxField+1)), "workspace is longer than 4096 bytes"},
		{"truncated gzip", zipped(t, row("gpus", "1"))[:30], "f.csv: unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ReadJobs("f.csv", strings.NewReader(test.content))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func FuzzReadJobs(f *testing.F) {
	f.Add([]byte(jobHeader + "b,0,3600,4,vision,2-8,T4|G2,0.5,2048,-3,true,600,7200\n"))
	f.Add([]byte("name,submitted,duration,gpus\na,1,2.5,0.125\n"))
	f.Add([]byte(openbHeader + "a,1000,512,1,460,T4|G2,BE,Running,100,500,140\n"))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		jobs, err := ReadJobs("f", bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, j := range jobs {
			if j.Name == "" || j.Workspace == "" || j.Submitted < 0 || j.Duration < 0 || j.Duration > MaxTime || j.Min < 1 || j.Max < j.Min || j.Max > MaxMembers ||
				j.Checkpoint < 0 || j.RunTime < 0 || j.Line < 2 || j.Each.Check() != nil {
				t.Errorf("took %+v", j)
			}
		}
	})
}
