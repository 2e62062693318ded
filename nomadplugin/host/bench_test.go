package host_test

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// BenchmarkHandshake measures a plugin's start, from exec to its handshake
// line, which a Nomad agent waits for three times for each plugin. Allowed: a
// p99 of 50 ms. It prints percentiles, since a mean hides the slow start that
// people notice.
func BenchmarkHandshake(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=device", "TMPDIR="+b.TempDir(),
			"NOMAD_PLUGIN_MAGIC_COOKIE=e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255")
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}
