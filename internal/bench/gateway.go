package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drover-ml/drover/orchestrator/catalog"
	"github.com/drover-ml/drover/orchestrator/gateway"
	"github.com/drover-ml/drover/orchestrator/gateway/http1"
)

const (
	inferPath    = "/v2/models/m/infer"
	gatewayRuns  = 7
	loadDuration = 2 * time.Second
	connections  = 32
)

// target is a server that is loaded.
type target struct {
	name string
	addr string
	pid  int
}

// benchGateway sends requests at a fixed rate, whatever comes back (open
// loop), straight to a back end and through each proxy in turn, several
// rounds, and reports what each proxy adds to the direct latency of its round.
func benchGateway(ctx context.Context) ([]row, error) {
	dir, err := os.MkdirTemp("", "drover-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	targets, rows, err := startTargets(ctx, dir)
	if err != nil {
		return nil, err
	}
	for _, rate := range []int{50, 500, 2000} {
		var rounds []map[string]sample
		for range gatewayRuns {
			round := map[string]sample{}
			for _, t := range targets {
				if round[t.name], err = loadTarget(ctx, t, rate); err != nil {
					return nil, fmt.Errorf("loading %s at %d/s: %w", t.name, rate, err)
				}
			}
			rounds = append(rounds, round)
		}
		rows = append(rows, gatewayRows(fmt.Sprintf("%d/s ", rate), targets, rounds)...)
	}
	return rows, nil
}

// startTargets starts the back end, which comes first, and the proxies before
// it that are installed. For those that are not, it returns rows.
func startTargets(ctx context.Context, dir string) (targets []target, missing []row, err error) {
	direct, err := startChild(ctx, "serve-backend")
	if err != nil {
		return nil, nil, err
	}
	direct.name = "direct"
	targets = append(targets, direct)
	for _, p := range []struct {
		name  string
		start func() (target, error)
	}{
		{"nginx", func() (target, error) { return startNginx(ctx, dir, direct.addr) }},
		{"haproxy", func() (target, error) { return startHaproxy(ctx, dir, direct.addr) }},
		{"httputil.ReverseProxy", func() (target, error) { return startChild(ctx, "serve-reverseproxy", direct.addr) }},
		{"drover", func() (target, error) { return startChild(ctx, "serve-gateway", direct.addr) }},
	} {
		t, err := p.start()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			missing = append(missing, row{Case: "all", Subject: p.name, Note: "skipped: not installed"})
		case err != nil:
			return nil, nil, fmt.Errorf("starting %s: %w", p.name, err)
		default:
			t.name = p.name
			targets = append(targets, t)
		}
	}
	return targets, missing, nil
}

// sample is what one load of a target gave, in microseconds.
type sample struct{ median, p99, cpu float64 }

func loadTarget(ctx context.Context, t target, rate int) (sample, error) {
	before, err := cpuTime(t.pid)
	if err != nil {
		return sample{}, err
	}
	lat, err := load(ctx, t.addr, rate)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuTime(t.pid)
	return sample{quantile(lat, .5), quantile(lat, .99), float64(after-before) / 1e3 / float64(len(lat))}, err
}

// gatewayRows tells the direct latency, what each proxy adds to it, and what
// each takes of a processor. The first target is the direct one.
func gatewayRows(rate string, targets []target, rounds []map[string]sample) []row {
	var rows []row
	for _, figure := range []struct {
		name  string
		added bool
		of    func(sample) float64
	}{
		{"median", true, func(s sample) float64 { return s.median }},
		{"p99", true, func(s sample) float64 { return s.p99 }},
		{"processor time a request", false, func(s sample) float64 { return s.cpu }},
	} {
		nginx := 0.0
		for i, t := range targets {
			name := rate + figure.name
			var values []float64
			for _, round := range rounds {
				v := figure.of(round[t.name])
				if figure.added && i > 0 {
					name = rate + "added " + figure.name
					v -= figure.of(round[targets[0].name])
				}
				values = append(values, v)
			}
			r := spread(name, t.name, "us", values)
			switch {
			case t.name == "nginx":
				nginx = r.Value
			case i > 0 && nginx > 0:
				r.Note = fmt.Sprintf("%.2f x nginx", r.Value/nginx)
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// cpuTime is how long a process and its children have run on a processor.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var total time.Duration
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(task, "schedstat"))
		if err != nil {
			continue // the thread has ended
		}
		var ran int64
		if _, err := fmt.Sscan(string(stat), &ran); err != nil {
			return 0, fmt.Errorf("reading %s/schedstat: %w", task, err)
		}
		total += time.Duration(ran)
		children, err := os.ReadFile(filepath.Join(task, "children"))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(children)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return 0, fmt.Errorf("reading %s/children: %w", task, err)
			}
			ran, err := cpuTime(child)
			if err != nil {
				return 0, err
			}
			total += ran
		}
	}
	return total, nil
}

// load sends requests to addr at rate a second for loadDuration, whatever
// comes back, and returns each one's latency in microseconds, sorted.
func load(ctx context.Context, addr string, rate int) ([]float64, error) {
	body := strings.Repeat("x", 512)
	request := []byte("POST " + inferPath + " HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n" + body)
	n := int(loadDuration.Seconds() * float64(rate))
	due := make(chan time.Time, n)
	var mu sync.Mutex
	var all []float64
	var failed error
	var wg sync.WaitGroup
	for range connections {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			defer c.Close()
			r := bufio.NewReader(c)
			var mine []float64
			var err error
			for t := range due {
				if err = exchange(c, r, request); err != nil {
					break
				}
				mine = append(mine, float64(time.Since(t))/1e3)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			failed = errors.Join(failed, err)
		})
	}
	start := time.Now().Add(10 * time.Millisecond)
	for i := range n {
		t := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(t))
		// Counted from here: a timer that fires late is no proxy's doing. The
		// wait for a free connection counts.
		due <- time.Now()
		if ctx.Err() != nil {
			break
		}
	}
	close(due)
	wg.Wait()
	if err := errors.Join(failed, ctx.Err()); err != nil {
		return nil, err
	}
	slices.Sort(all)
	return all, nil
}

func exchange(c net.Conn, r *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && (res.StatusCode != 200 || n != 512) {
		err = fmt.Errorf("answer %s of %d bytes", res.Status, n)
	}
	return err
}

func quantile(sorted []float64, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// startChild runs this program again as a server.
func startChild(ctx context.Context, args ...string) (target, error) {
	exe, err := os.Executable()
	if err != nil {
		return target{}, err
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return target{}, err
	}
	if err := cmd.Start(); err != nil {
		return target{}, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return target{}, fmt.Errorf("waiting for its address: %w", err)
	}
	return target{addr: strings.TrimSpace(line), pid: cmd.Process.Pid}, nil
}

func serveChild(mode string, args []string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var h http.Handler
	switch mode {
	case "serve-backend":
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			_, _ = w.Write(body)
		})
	case "serve-reverseproxy":
		h = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: args[0]})
	case "serve-gateway":
		g := gateway.New(gateway.Config{Catalog: fixed{{ID: "a", Address: args[0], Tags: map[string]string{
			catalog.TagWorkspace: "default", catalog.TagEndpoint: "m",
		}}}})
		go func() { _ = g.Run(context.Background()) }()
		for len(g.Endpoints()) == 0 || g.Endpoints()[0].Ready == 0 {
			time.Sleep(time.Millisecond)
		}
		fmt.Println(ln.Addr())
		return (&http1.Server{Handler: g}).Serve(ln)
	default:
		return fmt.Errorf("unknown mode %q", mode)
	}
	fmt.Println(ln.Addr())
	return http.Serve(ln, h)
}

// fixed is a catalog that never changes.
type fixed []catalog.Instance

func (f fixed) Watch(ctx context.Context, update func([]catalog.Instance)) error {
	update(f)
	<-ctx.Done()
	return ctx.Err()
}

func startNginx(ctx context.Context, dir, backend string) (target, error) {
	conf := `daemon off; worker_processes 1; error_log stderr crit; pid %[1]s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  keepalive_requests 1000000;
  upstream b { server %[2]s; keepalive 64; keepalive_requests 1000000; }
  server { listen %[3]s; location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}`
	return startProxy(ctx, filepath.Join(dir, "nginx.conf"), conf, dir, backend, "nginx", "-c", filepath.Join(dir, "nginx.conf"), "-p", dir)
}

func startHaproxy(ctx context.Context, dir, backend string) (target, error) {
	conf := `# %[1]s
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind %[3]s
  default_backend b
backend b
  server s %[2]s
`
	return startProxy(ctx, filepath.Join(dir, "haproxy.cfg"), conf, dir, backend, "haproxy", "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
}

func startProxy(ctx context.Context, file, conf, dir, backend string, command ...string) (target, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + command[0]); err != nil {
			return target{}, exec.ErrNotFound
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return target{}, err
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	if err := os.WriteFile(file, fmt.Appendf(nil, conf, dir, backend, addr), 0o600); err != nil {
		return target{}, err
	}
	cmd := exec.CommandContext(ctx, path, command[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return target{}, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return target{addr: addr, pid: cmd.Process.Pid}, nil
		}
		if time.Now().After(deadline) {
			return target{}, err
		}
	}
}
