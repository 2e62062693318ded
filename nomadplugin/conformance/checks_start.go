package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

const (
	// settle is how long something is watched that must go on as it is.
	settle = 300 * time.Millisecond
	// signalled is how long a process is watched for dying of a signal, which
	// may take its time on a busy machine.
	signalled = time.Second
)

func startChecks() []check {
	return []check{
		{name: "start/without-cookie", run: checkWithoutCookie,
			why: "people who run the binary by hand get no hint, and a plugin that goes on holds a socket that nobody uses"},
		{name: "start/handshake", run: checkHandshake,
			why: "an agent takes the first line of stdout for the handshake and refuses to start without it"},
		{name: "start/time", run: checkStartTime,
			why: "an agent launches each plugin three times before its HTTP port opens"},
		{name: "start/stdout-clean", run: checkStdoutClean,
			why: "an agent reads stdout for the handshake only; print to the log instead"},
		{name: "start/logs-are-json", run: checkLogs, advice: true,
			why: "an agent takes JSON lines into its log at their level, everything else at debug"},
		{name: "start/three-launches", run: checkThreeLaunches,
			why: "an agent launches each plugin for its info, for a check of its configuration, and for real; failing one of them stops the agent"},
		{name: "start/graceful-exit", run: checkGracefulExit,
			why: "an agent kills what has not exited two seconds after it asked"},
		{name: "start/no-leftovers", run: checkLeftovers, advice: true,
			why: "three launches at each agent start leave three times the files"},
		{name: "start/ignores-interrupt", run: checkInterrupt,
			why: "Ctrl-C on an agent in a terminal reaches its plugins as well, before the agent has stopped its tasks"},
		{name: "start/survives-agent", run: checkSurvivesAgent,
			why: "after a crash of the agent nobody reads stderr: the first log line kills a plugin that has the default action for SIGPIPE, and a driver cannot be reattached to"},
	}
}

func checkWithoutCookie(ctx context.Context, s *session) error {
	p, _, err := s.launch(false)
	if err != nil {
		return err
	}
	if err := p.waitExit(ctx, s.cfg.Patience); err != nil {
		return fmt.Errorf("started without an agent: %w", err)
	}
	<-p.outputEnded
	if p.cmd.ProcessState.ExitCode() != 1 {
		return fmt.Errorf("started without an agent: %s, want exit status 1", p.cmd.ProcessState)
	}
	if strings.Count(p.handshake, "|") >= 4 {
		return fmt.Errorf("started without an agent: printed the handshake %q", p.handshake)
	}
	return nil
}

func checkHandshake(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	parts := strings.Split(p.handshake, "|")
	if parts[0] != "1" || parts[1] != "2" || parts[2] != "unix" || len(parts) > 5 && parts[5] != "" {
		return fmt.Errorf("handshake is %q, want 1|2|unix|<path>|grpc|", p.handshake)
	}
	if !strings.HasPrefix(parts[3], p.tmp) {
		return fmt.Errorf("socket is %s, want it in TMPDIR (%s)", parts[3], p.tmp)
	}
	return nil
}

func checkStartTime(ctx context.Context, s *session) error {
	var slowest time.Duration
	for range 5 {
		p, err := s.start(ctx)
		if err != nil {
			return err
		}
		slowest = max(slowest, p.handshakeTime)
		p.kill()
	}
	if slowest > s.cfg.StartLimit {
		return fmt.Errorf("slowest of 5 starts took %v to the handshake, want at most %v", slowest.Round(time.Millisecond), s.cfg.StartLimit)
	}
	return nil
}

// use configures the plugin and makes some calls.
func (s *session) use(ctx context.Context, p *process) error {
	if err := s.configure(ctx, p); err != nil {
		return err
	}
	return s.observe(ctx, p)
}

// observe makes some calls of a configured plugin.
func (s *session) observe(ctx context.Context, p *process) error {
	if s.info.Type == base.TypeDevice {
		_, err := firstGroups(ctx, p)
		return err
	}
	_, err := firstFingerprint(ctx, p)
	return err
}

func checkStdoutClean(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	if err := s.use(ctx, p); err != nil {
		return err
	}
	p.kill()
	<-p.outputEnded
	if len(p.stdout) > 0 {
		return fmt.Errorf("stdout has %q after the handshake", p.stdout[0])
	}
	return nil
}

func checkLogs(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	if err := s.use(ctx, p); err != nil {
		return err
	}
	p.kill()
	<-p.outputEnded
	for _, line := range p.stderr {
		var entry struct {
			Level   string `json:"@level"`
			Message string `json:"@message"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.Message == "" {
			return fmt.Errorf("stderr has %q, want JSON with @level and @message", line)
		}
	}
	return nil
}

func checkThreeLaunches(ctx context.Context, s *session) error {
	info, err := s.start(ctx)
	if err != nil {
		return err
	}
	if _, err := info.base.Info(ctx); err != nil {
		return fmt.Errorf("first launch: %w", err)
	}
	spec, err := info.base.ConfigSchema(ctx)
	if err != nil {
		return fmt.Errorf("first launch: %w", err)
	}
	if err := info.shutdown(ctx); err != nil {
		return fmt.Errorf("first launch: %w", err)
	}
	if spec != nil {
		if err := s.configLaunch(ctx, spec); err != nil {
			return fmt.Errorf("second launch: %w", err)
		}
	}
	last, err := s.ready(ctx)
	if err != nil {
		return fmt.Errorf("third launch: %w", err)
	}
	if s.info.Type == base.TypeDriver {
		if err := last.driver.Init(ctx); err != nil {
			return fmt.Errorf("third launch: %w", err)
		}
	}
	return s.use(ctx, last)
}

func (s *session) configLaunch(ctx context.Context, spec *schema.Spec) error {
	config, err := schema.Encode(spec, s.cfg.Plugin)
	if err != nil {
		return err
	}
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	for i := range 2 {
		if err := p.base.SetConfig(ctx, base.Config{MsgPack: config}); err != nil {
			return fmt.Errorf("SetConfig number %d, without agent configuration: %w", i+1, err)
		}
	}
	return p.shutdown(ctx)
}

func checkGracefulExit(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	// An agent asks while its streams are open.
	if _, err := s.keepFingerprinting(ctx, p); err != nil {
		return err
	}
	return p.shutdown(ctx)
}

// keepFingerprinting opens a fingerprint stream, waits for its first message
// and leaves it open. What ends it comes over the channel.
func (s *session) keepFingerprinting(ctx context.Context, p *process) (<-chan error, error) {
	first, ended := make(chan struct{}, 1), make(chan error, 1)
	seen := func() error {
		select {
		case first <- struct{}{}:
		default:
		}
		return nil
	}
	go func() {
		if s.info.Type == base.TypeDevice {
			ended <- p.device.Fingerprint(ctx, func([]device.Group) error { return seen() })
		} else {
			ended <- p.driver.Fingerprint(ctx, func(driver.Fingerprint) error { return seen() })
		}
	}()
	select {
	case <-first:
		return ended, nil
	case err := <-ended:
		return nil, err
	}
}

func checkLeftovers(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	if err := s.use(ctx, p); err != nil {
		return err
	}
	if err := p.shutdown(ctx); err != nil {
		return err
	}
	if left := p.leftovers(); len(left) > 0 {
		return fmt.Errorf("left %q in its temporary folder after an orderly exit", left)
	}
	return nil
}

func checkInterrupt(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	if _, err := p.base.Info(ctx); err != nil { // it is past its start
		return err
	}
	if err := p.signal(syscall.SIGINT); err != nil {
		return err
	}
	if err := p.alive(ctx, signalled); err != nil {
		return fmt.Errorf("after SIGINT: %w", err)
	}
	return nil
}

func checkSurvivesAgent(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	if err := s.use(ctx, p); err != nil {
		return err
	}
	p.closeOutput()
	// What makes plugins log: an ended stream, a failing call, an interrupt.
	if err := s.observe(ctx, p); err != nil {
		return errors.Join(errors.New("after its output was closed"), err)
	}
	_ = p.base.SetConfig(ctx, base.Config{MsgPack: []byte{0xc1}})
	_ = p.signal(syscall.SIGINT)
	if err := p.alive(ctx, signalled); err != nil {
		return fmt.Errorf("after its output was closed: %w", err)
	}
	return nil
}
