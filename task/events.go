package task

import (
	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/myshim/myshim/process"
)

// emit publishes what happened to the container that r made.
func (s *Service) emit(e process.Event, r *api.CreateTaskRequest) {
	topic, event := containerdEvent(e, r)
	s.publish(topic, event)
}

// containerdEvent is an event in containerd's words, with its topic
// (containerd's core/runtime/events.go).
func containerdEvent(e process.Event, r *api.CreateTaskRequest) (topic string, event proto.Message) {
	p, id := e.Process, r.ID
	state := p.State()
	pid, code, at := uint32(state.PID), uint32(state.Exit.Code), timestamppb.New(state.Exit.At)
	switch e.Kind {
	case process.ContainerCreated:
		io := &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
		return "/tasks/create", &events.TaskCreate{ContainerID: id, Bundle: r.Bundle, Rootfs: r.Rootfs, IO: io, Checkpoint: r.Checkpoint, Pid: pid}
	case process.ProcessStarted:
		if p.ID != "" {
			return "/tasks/exec-started", &events.TaskExecStarted{ContainerID: id, ExecID: p.ID, Pid: pid}
		}
		return "/tasks/start", &events.TaskStart{ContainerID: id, Pid: pid}
	case process.ExecAdded:
		return "/tasks/exec-added", &events.TaskExecAdded{ContainerID: id, ExecID: p.ID}
	case process.ContainerPaused:
		return "/tasks/paused", &events.TaskPaused{ContainerID: id}
	case process.ContainerResumed:
		return "/tasks/resumed", &events.TaskResumed{ContainerID: id}
	case process.OutOfMemory:
		return "/tasks/oom", &events.TaskOOM{ContainerID: id}
	case process.ProcessExited:
		exit := &events.TaskExit{ContainerID: id, ID: id, Pid: pid, ExitStatus: code, ExitedAt: at}
		if p.ID != "" {
			exit.ID = p.ID
		}
		return "/tasks/exit", exit
	default: // process.Deleted
		return "/tasks/delete", &events.TaskDelete{ContainerID: id, ID: p.ID, Pid: pid, ExitStatus: code, ExitedAt: at}
	}
}
