package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// callers is how many calls are made at once where concurrency is checked.
const callers = 16

func baseChecks() []check {
	return []check{
		{name: "base/info", run: checkInfo,
			why: "an agent does not start with a plugin whose info it cannot use"},
		{name: "base/info-is-stable", run: checkInfoStable,
			why: "an agent asks a throw-away process and relies on it for all others"},
		{name: "base/config-schema", run: checkConfigSchema,
			why: "an agent does not start with a plugin whose schema it cannot use"},
		{name: "base/set-config-twice", run: checkSetConfigTwice,
			why: "an agent configures a throw-away process twice, without telling about itself, and does not start if that fails"},
		{name: "base/set-config-garbage", run: checkSetConfigGarbage,
			why: "configuration that cannot be read must be an error with a reason, not a crash"},
		{name: "base/not-configured", run: checkNotConfigured,
			why: "whoever looks at a plugin before its configuration must get an answer or an error, not a dead process"},
		{name: "base/unknown-call", run: checkUnknownCall,
			why: "newer agents make calls that older plugins do not know, and expect Unimplemented"},
		{name: "base/concurrent-calls", run: checkConcurrentBase,
			why: "agents call from many places at once"},
	}
}

func checkInfo(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	info, err := p.base.Info(ctx)
	if err != nil {
		return err
	}
	err = info.Validate()
	if !slices.Contains(info.APIVersions, base.APIVersion) {
		err = errors.Join(err, fmt.Errorf("API versions are %q, want %s among them", info.APIVersions, base.APIVersion))
	}
	return err
}

func checkInfoStable(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	info, err := p.base.Info(ctx)
	if err != nil {
		return err
	}
	if info.Name != s.info.Name || info.Type != s.info.Type || info.Version != s.info.Version {
		return fmt.Errorf("info of a configured process is %+v, of a fresh one %+v", info, s.info)
	}
	return nil
}

func checkConfigSchema(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	spec, err := p.base.ConfigSchema(ctx)
	if err != nil {
		return err
	}
	if spec == nil {
		if len(s.cfg.Plugin) > 0 {
			return errors.New("there is none, so no agent configuration can be given")
		}
		return nil
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	if _, err := schema.Encode(spec, s.cfg.Plugin); err != nil {
		return fmt.Errorf("it refuses the plugin configuration of this run: %w", err)
	}
	return nil
}

func checkSetConfigTwice(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	spec, err := p.base.ConfigSchema(ctx)
	if err != nil {
		return err
	}
	if spec == nil {
		return skipf("the plugin has no configuration")
	}
	return s.configLaunch(ctx, spec)
}

func checkSetConfigGarbage(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	spec, err := p.base.ConfigSchema(ctx)
	if err != nil {
		return err
	}
	if spec == nil {
		return skipf("the plugin has no configuration")
	}
	for _, garbage := range [][]byte{{0xc1}, {0xdf, 0xff, 0xff, 0xff, 0xff}, {0x81, 0xa1}, []byte("text")} {
		if err := p.base.SetConfig(ctx, base.Config{MsgPack: garbage}); err == nil {
			return fmt.Errorf("bytes %x were accepted", garbage)
		}
		if err := p.alive(ctx, 0); err != nil {
			return fmt.Errorf("bytes %x: %w", garbage, err)
		}
	}
	return nil
}

func checkNotConfigured(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	// Whether the calls succeed is the plugin's business.
	callCtx, cancel := within(ctx, settle)
	defer cancel()
	if s.info.Type == base.TypeDevice {
		_ = p.device.Fingerprint(callCtx, func([]device.Group) error { return errEnough })
		_, _ = p.device.Reserve(callCtx, []string{"no-such-device"})
	} else {
		_ = p.driver.Fingerprint(callCtx, func(driver.Fingerprint) error { return errEnough })
		_, _ = p.driver.Capabilities(callCtx)
		_ = p.driver.StopTask(callCtx, unknownID, 0, "")
	}
	return p.alive(ctx, 0)
}

func checkUnknownCall(ctx context.Context, s *session) error {
	p, err := s.start(ctx)
	if err != nil {
		return err
	}
	err = p.conn.Invoke(ctx, "/hashicorp.nomad.plugins.base.proto.BasePlugin/NoSuchCall", &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(true))
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("a call that does not exist: got %w", err)
	}
	return nil
}

func checkConcurrentBase(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for range callers {
		g.Go(func() error {
			if _, err := p.base.Info(ctx); err != nil {
				return err
			}
			_, err := p.base.ConfigSchema(ctx)
			return err
		})
		g.Go(func() error { return s.observe(ctx, p) })
	}
	return g.Wait()
}
