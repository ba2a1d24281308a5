package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runc "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
	"github.com/myshim/myshim/shim/options"
)

// Service is the Task service of one shim process.
type Service struct {
	id, namespace string
	publish       func(topic string, event proto.Message)
	exit          func()

	mu         sync.Mutex
	containers map[string]*process.Container // guarded by mu
	creations  map[string]chan struct{}      // guarded by mu; by the ID they reserve, closed at their end
	closed     bool                          // guarded by mu; this process is about to exit
}

// New returns a service without containers. id is that of the shim process. The
// functions are called for events, in their order, and when there is nothing
// left to serve.
func New(id, namespace string, publish func(topic string, event proto.Message), exit func()) *Service {
	return &Service{
		id: id, namespace: namespace, publish: publish, exit: exit,
		containers: map[string]*process.Container{}, creations: map[string]chan struct{}{},
	}
}

// Release lets go of a container whatever its state is, if it is there.
func (s *Service) Release(id string) {
	c, err := s.container(id)
	if err != nil {
		return
	}
	if err := c.Destroy(context.Background()); err != nil {
		log.L.WithError(err).Warnf("release container %s", id)
	}
	s.forget(id, c)
}

// CloseIfIdle says whether there is no container, and if so takes none any more.
func (s *Service) CloseIfIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = len(s.containers) == 0 && len(s.creations) == 0
	return s.closed
}

func (s *Service) container(id string) (*process.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, process.ErrNotFound)
	}
	return c, nil
}

func (s *Service) process(id, execID string) (*process.Process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	return c.Process(execID)
}

// reserve begins the creation of a container.
func (s *Service) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("this shim process exits: %w", process.ErrState)
	}
	if s.containers[id] != nil || s.creations[id] != nil {
		return fmt.Errorf("container with given ID %s: %w", id, process.ErrExists)
	}
	s.creations[id] = make(chan struct{})
	return nil
}

// settle ends the creation of a container, which is nil if there is none.
func (s *Service) settle(id string, c *process.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c != nil {
		s.containers[id] = c
	}
	close(s.creations[id])
	delete(s.creations, id)
}

// settled waits for the end of a creation that is going on, and says whether there
// is none any more.
//
// A client's input may be read to its end while a container is being made. To say
// so, with CloseIO, containerd's client asks for State first, and nerdctl takes "not
// found" for an answer: the container would never see the end of its input.
func (s *Service) settled(ctx context.Context, id string) bool {
	s.mu.Lock()
	creation := s.creations[id]
	s.mu.Unlock()
	if creation == nil {
		return true
	}
	select {
	case <-creation:
		return true
	case <-ctx.Done():
		return false
	}
}

// forget leaves a newer container of the same ID alone.
func (s *Service) forget(id string, c *process.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] == c {
		delete(s.containers, id)
	}
}

func (s *Service) create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, spec.Invalid("checkpoint", "this runtime cannot restore one")
	}
	o, err := options.Decode(r.Options.GetTypeUrl(), r.Options.GetValue())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", spec.ErrInvalid, err)
	}
	for _, w := range o.Warnings() {
		log.G(ctx).Warnf("container %s: %s", r.ID, w)
	}
	if err := s.reserve(r.ID); err != nil {
		return nil, err
	}
	c, err := process.Create(ctx, process.Config{
		ID: r.ID, Namespace: s.namespace, Bundle: r.Bundle, Daemon: s.id,
		RootMounts:    rootMounts(r.Rootfs),
		Stdio:         stdio.Request{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		IOUID:         int(o.IOUID),
		IOGID:         int(o.IOGID),
		NoPivotRoot:   o.NoPivotRoot,
		NoNewKeyring:  o.NoNewKeyring,
		SystemdCgroup: o.SystemdCgroup,
		VisibleRootfs: o.VisibleRootfs,
		Emit:          func(e process.Event) { s.emit(e, r) },
	})
	if err != nil {
		s.settle(r.ID, nil)
		// The words that clients look for.
		return nil, fmt.Errorf("OCI runtime create failed: %w", err)
	}
	return &api.CreateTaskResponse{Pid: pid(c.Init)}, nil
}

func rootMounts(list []*types.Mount) []mounts.RootMount {
	out := make([]mounts.RootMount, len(list))
	for i, m := range list {
		out[i] = mounts.RootMount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

func (s *Service) start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	c := p.Container
	if r.ExecID == "" {
		if err := c.Start(ctx); err != nil {
			return nil, fmt.Errorf("OCI runtime start failed: %w", err)
		}
	} else if err := c.StartExec(ctx, p); err != nil {
		return nil, fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	return &api.StartResponse{Pid: pid(p)}, nil
}

func (s *Service) exec(_ context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	p, err := spec.ParseProcess(r.Spec.GetValue())
	if err != nil {
		return nil, err
	}
	request := stdio.Request{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	if _, err := c.Exec(r.ExecID, p, request); err != nil {
		return nil, err
	}
	return empty, nil
}

// creationPatience is how long State waits for a container that is being made. What
// it answers then is what containerd makes of one that has not answered for 2 s.
const creationPatience = time.Second

func (s *Service) state(ctx context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	patient, cancel := context.WithTimeout(ctx, creationPatience)
	defer cancel()
	if !s.settled(patient, r.ID) {
		return &api.StateResponse{ID: r.ID, Status: tasktypes.Status_UNKNOWN}, nil
	}
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	state := p.State()
	response := &api.StateResponse{
		ID: r.ID, Bundle: p.Container.Bundle, Pid: uint32(state.PID), Status: statuses[state.Status],
		Stdin: p.Stdio.Stdin, Stdout: p.Stdio.Stdout, Stderr: p.Stdio.Stderr, Terminal: p.Stdio.Terminal,
		ExecID: r.ExecID,
	}
	if r.ExecID != "" {
		response.ID = r.ExecID // as runc's shim has it
	}
	if state.Status == process.Stopped || state.Status == process.Deleted {
		response.ExitStatus, response.ExitedAt = uint32(state.Exit.Code), timestamppb.New(state.Exit.At)
	}
	return response, nil
}

var statuses = map[process.Status]tasktypes.Status{
	process.Created:  tasktypes.Status_CREATED,
	process.Running:  tasktypes.Status_RUNNING,
	process.Pausing:  tasktypes.Status_PAUSING,
	process.Paused:   tasktypes.Status_PAUSED,
	process.Resuming: tasktypes.Status_PAUSED, // containerd has no word for it
	process.Stopped:  tasktypes.Status_STOPPED,
	process.Deleted:  tasktypes.Status_STOPPED,
}

func (s *Service) wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &api.WaitResponse{ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	c := p.Container
	if r.ExecID != "" {
		err = c.DeleteExec(ctx, p)
	} else if err = c.Delete(ctx); err == nil {
		s.forget(r.ID, c)
	}
	if err != nil {
		return nil, err
	}
	exit := p.State().Exit
	return &api.DeleteResponse{Pid: pid(p), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) kill(_ context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Signal > math.MaxInt8 {
		return nil, spec.Invalid("signal", "there is no signal %d", r.Signal)
	}
	sig := unix.Signal(r.Signal)
	if r.ExecID == "" {
		return empty, c.Kill(sig, r.All)
	}
	p, err := c.Process(r.ExecID)
	if err != nil {
		return nil, err
	}
	return empty, p.Signal(sig)
}

func (s *Service) pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := c.Pids()
	if err != nil {
		return nil, err
	}
	response := new(api.PidsResponse)
	for pid, execID := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if execID != "" {
			details, err := typeurl.MarshalAnyToProto(&runc.ProcessDetails{ExecID: execID})
			if err != nil {
				return nil, err
			}
			info.Info = details
		}
		response.Processes = append(response.Processes, info)
	}
	return response, nil
}

func (s *Service) pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	err = c.Pause(ctx)
	if errors.Is(err, errors.ErrUnsupported) { // no freezer
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	}
	return empty, err
}

func (s *Service) resume(_ context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Resume()
}

func (s *Service) update(_ context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &resources); err != nil {
		return nil, fmt.Errorf("%w: resources: %w", spec.ErrInvalid, err)
	}
	return empty, c.Update(&resources)
}

func (s *Service) stats(_ context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := c.Stats()
	if err != nil {
		return nil, err
	}
	message, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: message}, nil
}

func (s *Service) resizePty(_ context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Width > math.MaxUint16 || r.Height > math.MaxUint16 {
		return nil, spec.Invalid("size of the terminal", "%dx%d is too much", r.Width, r.Height)
	}
	return empty, p.Resize(uint16(r.Width), uint16(r.Height))
}

func (s *Service) closeIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	if !s.settled(ctx, r.ID) {
		return nil, fmt.Errorf("container %s is being made: %w", r.ID, ctx.Err())
	}
	p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return empty, nil
	}
	return empty, p.CloseStdin()
}

// connect is also how containerd finds out, after a restart, that this process
// is alive: it is no error that there is no such container.
func (s *Service) connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	response := &api.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.container(r.ID); err == nil {
		response.TaskPid = pid(c.Init)
	}
	return response, nil
}

func (s *Service) shutdown(context.Context, *api.ShutdownRequest) (*emptypb.Empty, error) {
	if s.CloseIfIdle() {
		s.exit()
	}
	return empty, nil
}

func (s *Service) checkpoint(context.Context, *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented)
}

func pid(p *process.Process) uint32 { return uint32(p.State().PID) }
