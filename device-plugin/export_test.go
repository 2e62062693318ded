package main

import (
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// TestMetricsOfATask: a process with a simulated GPU in its environment is on
// that GPU, and the metrics name its task, there and nowhere else.
func TestMetricsOfATask(t *testing.T) {
	open := func() *node {
		p := newPlugin(hclog.NewNullLogger())
		t.Cleanup(func() { _ = p.Close() })
		config := map[string]any{"simulate": "2xa100-40gb", "simulate_node": "node-1", "state_dir": t.TempDir()}
		if err := p.SetConfig(t.Context(), encoded(t, config)); err != nil {
			t.Fatal(err)
		}
		n, err := p.current()
		if err != nil {
			t.Fatal(err)
		}
		n.start(t.Context())
		return n
	}
	offer, _, _ := open().current() // the GPUs are the same each time
	free, used := string(offer.Devices[0].ID), string(offer.Devices[1].ID)

	task := exec.Command("cat")
	task.Env = []string{
		"CUDA_VISIBLE_DEVICES=" + used, "NOMAD_ALLOC_ID=6ba7b810-9dad-11d1-80b4-00c04fd430c8", "NOMAD_TASK_NAME=main",
		"NOMAD_JOB_ID=drover-r1-train-1", "NOMAD_NAMESPACE=ml", "NOMAD_META_drover.workspace=vision",
	}
	in, err := task.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := task.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = task.Wait() }()
	if _, err := in.Write([]byte("it runs\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}

	n := open()
	n.collect(t.Context())
	if _, err := n.sample(t.Context(), offer); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	n.exporter.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	labels := `namespace="ml",job="drover-r1-train-1",task="main",alloc_id="6ba7b810-9dad-11d1-80b4-00c04fd430c8",workspace="vision"`
	for _, want := range []string{
		`DCGM_FI_DEV_GPU_UTIL\{gpu="1",UUID="` + used + `",.*` + labels + `\} [1-9]`,
		`DCGM_FI_DEV_GPU_UTIL\{gpu="0",UUID="` + free + `",[^\n]*VERSION="[^"]*"\} 0`,
		`drover_gpu_task_processes\{gpu="1",UUID="` + used + `",.*` + labels + `\} 1`,
		`DCGM_FI_DEV_XID_ERRORS\{gpu="1",.*\} 0`,
	} {
		if !regexp.MustCompile(want).MatchString(w.Body.String()) {
			t.Errorf("no series is %s in\n%s", want, grep(w.Body.String(), strings.SplitN(want, `\`, 2)[0]))
		}
	}

	stats, err := n.stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := stats[0].Instances[used].Nested["Processes"]["Running"].Int; got == nil || *got != 1 {
		t.Error("Nomad is not told of the process")
	}
}

// grep are the lines that begin with a text.
func grep(text, begin string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
