package mps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/drover-ml/drover/device-plugin/sharing"
)

// control asks one daemon, through NVIDIA's control program.
type control struct {
	program  string
	folder   string // the daemon's own
	patience time.Duration
}

func (c control) pipeDir() string { return filepath.Join(c.folder, "pipe") }
func (c control) logDir() string  { return filepath.Join(c.folder, "log") }

// maxSocketPath is the kernel's limit on the path of a socket.
const maxSocketPath = 107

// prepare makes the daemon's folders. Tasks of every user reach its pipes.
func (c control) prepare() error {
	if longest := filepath.Join(c.pipeDir(), "control_privileged"); len(longest) > maxSocketPath {
		return fmt.Errorf("%s is longer than the %d bytes of a socket's path; set a shorter state_dir", longest, maxSocketPath)
	}
	for _, dir := range []string{c.pipeDir(), c.logDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// environ is all that the control program and its daemon see: nothing of the
// agent's, which may be secret.
func (c control) environ() []string {
	env := []string{"CUDA_MPS_PIPE_DIRECTORY=" + c.pipeDir(), "CUDA_MPS_LOG_DIRECTORY=" + c.logDir()}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "HOME"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// ask gives the daemon a command. It is an error if no daemon answers.
func (c control) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program)
	cmd.Env = c.environ()
	cmd.Stdin = strings.NewReader(command + "\n")
	cmd.WaitDelay = time.Second
	answer := limited{left: maxAnswer}
	cmd.Stdout, cmd.Stderr = &answer, &answer
	err := cmd.Run()
	text := strings.TrimSpace(answer.String())
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w within %s", command, errSilent, c.patience)
	case err != nil && text != "":
		return "", fmt.Errorf("%s: %.200s", command, text)
	case err != nil:
		return "", fmt.Errorf("%s: %w", command, err)
	}
	return text, nil
}

// limited keeps the beginning of what is written to it.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), l.left)
	l.left -= keep
	l.Buffer.Write(p[:keep])
	return len(p), nil
}

// errSilent is of a daemon that is there, as far as can be told, and hangs.
var errSilent = errors.New("no answer")

// there reports whether a daemon is there, even if it hangs. The program's exit
// status does not tell in every version.
func (c control) there(ctx context.Context) bool {
	answer, err := c.ask(ctx, threadQuery)
	if err != nil {
		return errors.Is(err, errSilent)
	}
	_, ok := parsePercent(answer)
	return ok
}

// The daemon is started for one device, which is device 0 to it. Memory limits
// are set by number: by UUID the daemon takes and ignores them.
const (
	threadQuery = "get_default_active_thread_percentage"
	memoryQuery = "get_default_device_pinned_mem_limit 0"
)

// limit sets the limits of every process that is yet to come.
func (c control) limit(ctx context.Context, s sharing.Share) error {
	for _, command := range []string{
		fmt.Sprintf("set_default_active_thread_percentage %d", s.ThreadPercent),
		fmt.Sprintf("set_default_device_pinned_mem_limit 0 %dM", s.MemoryMiB),
	} {
		if _, err := c.ask(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// verify reads the limits back. An answer that is not understood is no proof.
func (c control) verify(ctx context.Context, s sharing.Share) error {
	threads, err := c.ask(ctx, threadQuery)
	if err != nil {
		return err
	}
	if percent, ok := parsePercent(threads); !ok || percent != float64(s.ThreadPercent) {
		return fmt.Errorf("its limit of threads is %q, not %d %%", lastLine(threads), s.ThreadPercent)
	}
	memory, err := c.ask(ctx, memoryQuery)
	if err != nil {
		return err
	}
	if mib, ok := parseLimit(lastLine(memory)); !ok || mib != s.MemoryMiB {
		return fmt.Errorf("its limit of memory is %q, not %d MiB", lastLine(memory), s.MemoryMiB)
	}
	return nil
}

// parsePercent reads "25.0".
func parsePercent(answer string) (float64, bool) {
	percent, err := strconv.ParseFloat(strings.TrimSuffix(lastLine(answer), "%"), 64)
	return percent, err == nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

var memoryLimit = regexp.MustCompile(`^([0-9]{1,15})(\.0+)? *([KMGT]?)(i?B)?$`)

// parseLimit reads an amount of memory as the daemon writes it, in MiB: "5G",
// "5120M", "5120MB", or bytes.
func parseLimit(text string) (int64, bool) {
	m := memoryLimit.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, false
	}
	switch m[3] {
	case "T":
		return n << 20, true
	case "G":
		return n << 10, true
	case "M":
		return n, true
	case "K":
		return n >> 10, true
	}
	return n >> 20, true
}

// clients are the processes that the daemon serves at present.
func (c control) clients(ctx context.Context) ([]int, error) {
	answer, err := c.ask(ctx, "get_server_list")
	if err != nil {
		return nil, err
	}
	servers, err := parsePIDs(answer)
	if err != nil {
		return nil, err
	}
	var clients []int
	for _, server := range servers {
		answer, err := c.ask(ctx, fmt.Sprintf("get_client_list %d", server))
		if err != nil {
			return nil, err
		}
		pids, err := parsePIDs(answer)
		if err != nil {
			return nil, err
		}
		clients = append(clients, pids...)
	}
	return clients, nil
}

// parsePIDs reads a list of process IDs. One that is not understood is an
// error: it could be a client.
func parsePIDs(text string) ([]int, error) {
	var pids []int
	for _, field := range strings.Fields(text) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("%.100q is no list of processes", text)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// errBusy is of a daemon that has clients.
var errBusy = errors.New("tasks use it")

// quit ends a daemon without clients.
func (c control) quit(ctx context.Context) error {
	clients, err := c.clients(ctx)
	if err != nil {
		return err
	}
	if len(clients) > 0 {
		return fmt.Errorf("%w: %d processes", errBusy, len(clients))
	}
	_, err = c.ask(ctx, "quit")
	return err
}

// start starts the daemon of a device. It runs on when this process ends, in a
// session of its own, since tasks may depend on it. It has the limits from its
// first moment: tasks of before may be waiting for it.
func (c control) start(s sharing.Share) (*child, error) {
	log, err := os.Create(filepath.Join(c.logDir(), "start.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.program, "-f")
	cmd.Env = append(c.environ(), "CUDA_VISIBLE_DEVICES="+string(s.Device))
	for name, value := range s.Limit() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	started := &child{exited: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		said := []byte(nil)
		if content, readErr := os.ReadFile(log.Name()); readErr == nil {
			said = content[max(0, len(content)-maxAnswer):]
		}
		started.reason = fmt.Sprintf("it ended: %v", cmd.ProcessState)
		if err != nil && len(bytes.TrimSpace(said)) > 0 {
			// Without the time, so that one cause is always told in the same words.
			started.reason += fmt.Sprintf(": %.200s", logPrefix.ReplaceAllString(lastLine(string(said)), ""))
		}
		close(started.exited)
	}()
	return started, nil
}

// logPrefix is "[2026-01-02 15:04:05.123 Control  4711] ".
var logPrefix = regexp.MustCompile(`^\[[^\]]*\] *`)

// child is a daemon that this process started.
type child struct {
	exited chan struct{} // closed when it has
	reason string        // for which it has; read it after exited is closed
}
