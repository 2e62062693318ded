package conformance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
)

func (d *brokenDriver) Init(ctx context.Context, r *driverpb.InitRequest) (*driverpb.InitResponse, error) {
	if d.fault == "driver/init-and-shutdown" && d.times("init", "") > 1 {
		return nil, errSabotage
	}
	return d.DriverServer.Init(ctx, r)
}

func (d *brokenDriver) Shutdown(ctx context.Context, r *driverpb.ShutdownRequest) (*driverpb.ShutdownResponse, error) {
	if d.fault == "recover/after-shutdown" {
		for _, id := range d.started() {
			_, _ = d.DriverServer.DestroyTask(ctx, &driverpb.DestroyTaskRequest{TaskId: id, Force: true})
		}
	}
	return d.DriverServer.Shutdown(ctx, r)
}

func (d *brokenDriver) TaskConfigSchema(ctx context.Context, r *driverpb.TaskConfigSchemaRequest) (*driverpb.TaskConfigSchemaResponse, error) {
	if d.fault == "driver/task-schema" {
		return &driverpb.TaskConfigSchemaResponse{}, nil
	}
	return d.DriverServer.TaskConfigSchema(ctx, r)
}

func (d *brokenDriver) Capabilities(ctx context.Context, r *driverpb.CapabilitiesRequest) (*driverpb.CapabilitiesResponse, error) {
	c, err := d.DriverServer.Capabilities(ctx, r)
	if d.fault == "driver/capabilities" {
		c.Capabilities.FsIsolation = 9
	}
	return c, err
}

type driverFingerprintStream struct {
	grpc.ServerStreamingServer[driverpb.FingerprintResponse]
	attr string
}

func (s driverFingerprintStream) Send(r *driverpb.FingerprintResponse) error {
	r.Attributes[s.attr] = &structspb.Attribute{}
	if s.attr == "cpu" {
		r.Attributes[s.attr].Value = &structspb.Attribute_BoolVal{BoolVal: true}
	}
	return s.ServerStreamingServer.Send(r)
}

func (d *brokenDriver) Fingerprint(r *driverpb.FingerprintRequest, stream grpc.ServerStreamingServer[driverpb.FingerprintResponse]) error {
	switch d.fault {
	case "driver/fingerprint-at-once":
		stream = driverFingerprintStream{stream, "driver.sample-driver.empty"}
	case "driver/attribute-names":
		stream = driverFingerprintStream{stream, "cpu"}
	case "driver/fingerprint-stays-open":
		return stream.Send(&driverpb.FingerprintResponse{Health: driverpb.FingerprintResponse_HEALTHY})
	}
	err := d.DriverServer.Fingerprint(r, stream)
	if d.fault == "recover/reattach" {
		os.Exit(1)
	}
	return err
}

func (d *brokenDriver) TaskEvents(r *driverpb.TaskEventsRequest, stream grpc.ServerStreamingServer[driverpb.DriverTaskEvent]) error {
	if d.fault == "driver/events-stay-open" {
		return status.Error(codes.Unimplemented, "no events")
	}
	return d.DriverServer.TaskEvents(r, stream)
}

func (d *brokenDriver) StartTask(ctx context.Context, r *driverpb.StartTaskRequest) (*driverpb.StartTaskResponse, error) {
	id := r.Task.Id
	n := d.times("start", id)
	switch d.fault {
	case "task/concurrent":
		if err := d.crowd.enter(); err != nil {
			return nil, err
		}
	case "task/output":
		r.Task.StdoutPath = os.DevNull
	case "task/start-twice":
		if n > 1 {
			r.Task.Id += "-again"
		}
	case "recover/output-released":
		keepOutput()
	case "task/whole-tree-ends":
		cmd := exec.Command("sh", "-c", `for i in 1 2 3 4 5 6 7 8 9 10; do : > "$1"; sleep 0.2; done`, "sh",
			filepath.Join(r.Task.AllocDir, "main", "local", "beat"))
		_ = cmd.Start()
	case "recover/ended":
		b, _ := proto.Marshal(r)
		_ = os.WriteFile(filepath.Join(r.Task.AllocDir, "request"), b, 0o600)
	}
	res, err := d.DriverServer.StartTask(ctx, r)
	switch d.fault {
	case "task/start":
		res.Handle.Config = &driverpb.TaskConfig{}
	case "task/start-failure", "driver/start-garbage":
		return &driverpb.StartTaskResponse{Handle: &driverpb.TaskHandle{Version: 1, Config: r.Task}}, nil
	}
	return res, err
}

func (d *brokenDriver) RecoverTask(ctx context.Context, r *driverpb.RecoverTaskRequest) (*driverpb.RecoverTaskResponse, error) {
	switch d.fault {
	case "driver/recover-garbage":
		return &driverpb.RecoverTaskResponse{}, nil
	case "recover/known":
		if len(d.started()) > 0 {
			return nil, errSabotage
		}
	case "recover/after-kill":
		return nil, errSabotage
	case "recover/without-config":
		if len(r.Handle.Config.MsgpackDriverConfig) == 0 {
			return nil, errSabotage
		}
	case "recover/ended":
		var start driverpb.StartTaskRequest
		b, err := os.ReadFile(filepath.Join(r.Handle.Config.AllocDir, "request"))
		if err != nil {
			return nil, err
		}
		if err := proto.Unmarshal(b, &start); err != nil {
			return nil, err
		}
		_, err = d.DriverServer.StartTask(ctx, &start)
		return &driverpb.RecoverTaskResponse{}, err
	}
	return d.DriverServer.RecoverTask(ctx, r)
}

func (d *brokenDriver) WaitTask(ctx context.Context, r *driverpb.WaitTaskRequest) (*driverpb.WaitTaskResponse, error) {
	done := &driverpb.WaitTaskResponse{Result: &driverpb.ExitResult{}}
	switch d.fault {
	case "driver/unknown-task", "task/start-failure":
		return done, nil
	case "task/stop-blocks-nothing":
		d.stop.RLock()
		defer d.stop.RUnlock()
	case "task/wait-again":
		if d.times("wait", r.TaskId) > 1 {
			return nil, errSabotage
		}
	}
	res, err := d.DriverServer.WaitTask(ctx, r)
	if d.fault == "task/exit-code" || d.fault == "recover/exit-status" {
		return done, err
	}
	return res, err
}

func (d *brokenDriver) StopTask(ctx context.Context, r *driverpb.StopTaskRequest) (*driverpb.StopTaskResponse, error) {
	switch d.fault {
	case "driver/stop-unknown":
		return nil, status.Error(codes.Unknown, "task not found for given id")
	case "task/stop", "recover/stop":
		return &driverpb.StopTaskResponse{}, nil
	case "task/stop-kills":
		_, err := d.DriverServer.SignalTask(ctx, &driverpb.SignalTaskRequest{TaskId: r.TaskId, Signal: "SIGTERM"})
		return &driverpb.StopTaskResponse{}, err
	case "task/stop-blocks-nothing":
		d.stop.Lock()
		defer d.stop.Unlock()
	case "task/stop-ended":
		return nil, errSabotage
	}
	return d.DriverServer.StopTask(ctx, r)
}

func (d *brokenDriver) DestroyTask(ctx context.Context, r *driverpb.DestroyTaskRequest) (*driverpb.DestroyTaskResponse, error) {
	switch d.fault {
	case "driver/destroy-unknown":
		return nil, status.Error(codes.NotFound, "task not found for given id")
	case "task/destroyed-is-gone":
		return &driverpb.DestroyTaskResponse{}, nil
	case "task/destroy-running":
		if d.times("destroy", r.TaskId) == 1 {
			return nil, errSabotage
		}
	case "task/start-twice":
		_, _ = d.DriverServer.DestroyTask(ctx, &driverpb.DestroyTaskRequest{TaskId: r.TaskId + "-again", Force: true})
	}
	return d.DriverServer.DestroyTask(ctx, r)
}

func (d *brokenDriver) InspectTask(ctx context.Context, r *driverpb.InspectTaskRequest) (*driverpb.InspectTaskResponse, error) {
	if d.fault == "task/stop-blocks-nothing" {
		d.stop.RLock()
		defer d.stop.RUnlock()
	}
	res, err := d.DriverServer.InspectTask(ctx, r)
	if d.fault == "task/inspect" {
		res.Task.StartedAt = nil
	}
	return res, err
}

type taskStatsStream struct {
	grpc.ServerStreamingServer[driverpb.TaskStatsResponse]
}

func (s taskStatsStream) Send(r *driverpb.TaskStatsResponse) error {
	r.Stats.AggResourceUsage = nil
	return s.ServerStreamingServer.Send(r)
}

func (d *brokenDriver) TaskStats(r *driverpb.TaskStatsRequest, stream grpc.ServerStreamingServer[driverpb.TaskStatsResponse]) error {
	switch d.fault {
	case "task/stats":
		stream = taskStatsStream{stream}
	case "task/stats-stay-open":
		return status.Error(codes.Unknown, "no statistics")
	}
	return d.DriverServer.TaskStats(r, stream)
}

func (d *brokenDriver) SignalTask(ctx context.Context, r *driverpb.SignalTaskRequest) (*driverpb.SignalTaskResponse, error) {
	if d.fault == "task/signal" {
		return &driverpb.SignalTaskResponse{}, nil
	}
	return d.DriverServer.SignalTask(ctx, r)
}

func (d *brokenDriver) ExecTask(ctx context.Context, r *driverpb.ExecTaskRequest) (*driverpb.ExecTaskResponse, error) {
	if d.fault == "exec/timeout" {
		r.Timeout = durationpb.New(time.Hour)
	}
	res, err := d.DriverServer.ExecTask(ctx, r)
	if d.fault == "exec/command" {
		res.Result = nil
	}
	return res, err
}

type execServerStream struct {
	execServer
	fault string
}

type execServer = grpc.BidiStreamingServer[driverpb.ExecTaskStreamingRequest, driverpb.ExecTaskStreamingResponse]

func (s execServerStream) Send(r *driverpb.ExecTaskStreamingResponse) error {
	switch {
	case s.fault == "exec/streaming" && r.Exited:
		r.Result = &driverpb.ExitResult{}
	case s.fault == "exec/stream-end" && (r.GetStdout().GetClose() || r.GetStderr().GetClose()):
		return nil
	}
	return s.execServer.Send(r)
}

func (d *brokenDriver) ExecTaskStreaming(stream execServer) error {
	if d.fault == "exec/concurrent" {
		if err := d.crowd.enter(); err != nil {
			return err
		}
	}
	err := d.DriverServer.ExecTaskStreaming(execServerStream{stream, d.fault})
	if err != nil && d.fault == "exec/failure" {
		return stream.Send(&driverpb.ExecTaskStreamingResponse{Exited: true, Result: &driverpb.ExitResult{}})
	}
	return err
}
