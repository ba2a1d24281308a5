package harness

import (
	"context"
	"fmt"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Service is the client of a shim's task service in one of its versions. Their
// messages are the same on the wire, so version 3's types serve for version 2.
type service struct {
	client *ttrpc.Client
	name   string
}

// Speak is a client for another version of the shim's task service.
func (s *Shim) Speak(version int32) taskv3.TTRPCTaskService {
	return service{s.client, fmt.Sprintf("containerd.task.v%d.Task", version)}
}

func call[Response any](ctx context.Context, s service, method string, request any) (*Response, error) {
	response := new(Response)
	if err := s.client.Call(ctx, s.name, method, request, response); err != nil {
		return nil, err
	}
	return response, nil
}

func (s service) State(ctx context.Context, r *taskv3.StateRequest) (*taskv3.StateResponse, error) {
	return call[taskv3.StateResponse](ctx, s, "State", r)
}

func (s service) Create(ctx context.Context, r *taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
	return call[taskv3.CreateTaskResponse](ctx, s, "Create", r)
}

func (s service) Start(ctx context.Context, r *taskv3.StartRequest) (*taskv3.StartResponse, error) {
	return call[taskv3.StartResponse](ctx, s, "Start", r)
}

func (s service) Delete(ctx context.Context, r *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	return call[taskv3.DeleteResponse](ctx, s, "Delete", r)
}

func (s service) Pids(ctx context.Context, r *taskv3.PidsRequest) (*taskv3.PidsResponse, error) {
	return call[taskv3.PidsResponse](ctx, s, "Pids", r)
}

func (s service) Pause(ctx context.Context, r *taskv3.PauseRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Pause", r)
}

func (s service) Resume(ctx context.Context, r *taskv3.ResumeRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Resume", r)
}

func (s service) Checkpoint(ctx context.Context, r *taskv3.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Checkpoint", r)
}

func (s service) Kill(ctx context.Context, r *taskv3.KillRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Kill", r)
}

func (s service) Exec(ctx context.Context, r *taskv3.ExecProcessRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Exec", r)
}

func (s service) ResizePty(ctx context.Context, r *taskv3.ResizePtyRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "ResizePty", r)
}

func (s service) CloseIO(ctx context.Context, r *taskv3.CloseIORequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "CloseIO", r)
}

func (s service) Update(ctx context.Context, r *taskv3.UpdateTaskRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Update", r)
}

func (s service) Wait(ctx context.Context, r *taskv3.WaitRequest) (*taskv3.WaitResponse, error) {
	return call[taskv3.WaitResponse](ctx, s, "Wait", r)
}

func (s service) Stats(ctx context.Context, r *taskv3.StatsRequest) (*taskv3.StatsResponse, error) {
	return call[taskv3.StatsResponse](ctx, s, "Stats", r)
}

func (s service) Connect(ctx context.Context, r *taskv3.ConnectRequest) (*taskv3.ConnectResponse, error) {
	return call[taskv3.ConnectResponse](ctx, s, "Connect", r)
}

func (s service) Shutdown(ctx context.Context, r *taskv3.ShutdownRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, s, "Shutdown", r)
}
