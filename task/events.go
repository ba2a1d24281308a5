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
	if e.Kind == process.ContainerCreated {
		s.settle(r.ID, e.Container) // who hears of it may ask for it at once
	}
	topic, event := containerdEvent(e, r)
	s.publish(topic, event)
}

// containerdEvent is an event in containerd's words, with its topic
// (containerd's core/runtime/events.go).
func containerdEvent(e process.Event, r *api.CreateTaskRequest) (topic string, event proto.Message) {
	id, pid, code, at := r.ID, uint32(e.PID), uint32(e.Exit.Code), timestamppb.New(e.Exit.At)
	switch e.Kind {
	case process.ContainerCreated:
		io := &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
		return "/tasks/create", &events.TaskCreate{ContainerID: id, Bundle: r.Bundle, Rootfs: r.Rootfs, IO: io, Checkpoint: r.Checkpoint, Pid: pid}
	case process.ProcessStarted:
		if e.ExecID != "" {
			return "/tasks/exec-started", &events.TaskExecStarted{ContainerID: id, ExecID: e.ExecID, Pid: pid}
		}
		return "/tasks/start", &events.TaskStart{ContainerID: id, Pid: pid}
	case process.ExecAdded:
		return "/tasks/exec-added", &events.TaskExecAdded{ContainerID: id, ExecID: e.ExecID}
	case process.ContainerPaused:
		return "/tasks/paused", &events.TaskPaused{ContainerID: id}
	case process.ContainerResumed:
		return "/tasks/resumed", &events.TaskResumed{ContainerID: id}
	case process.OutOfMemory:
		return "/tasks/oom", &events.TaskOOM{ContainerID: id}
	case process.ProcessExited:
		exit := &events.TaskExit{ContainerID: id, ID: id, Pid: pid, ExitStatus: code, ExitedAt: at}
		if e.ExecID != "" {
			exit.ID = e.ExecID
		}
		return "/tasks/exit", exit
	default: // process.ContainerDeleted
		return "/tasks/delete", &events.TaskDelete{ContainerID: id, ID: e.ExecID, Pid: pid, ExitStatus: code, ExitedAt: at}
	}
}
