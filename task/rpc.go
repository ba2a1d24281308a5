package task

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Register serves s as version 3 of the Task service, for containerd since 2.3, and
// as version 2, for older ones: see what `start` answers. Their messages are the
// same on the wire.
func (s *Service) Register(server *ttrpc.Server) {
	for _, name := range []string{"containerd.task.v3.Task", "containerd.task.v2.Task"} {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: s.methods()})
	}
}

func (s *Service) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"Checkpoint": method(s.checkpoint),
		"CloseIO":    method(s.closeIO),
		"Connect":    method(s.connect),
		"Create":     method(s.create),
		"Delete":     method(s.delete),
		"Exec":       method(s.exec),
		"Kill":       method(s.kill),
		"Pause":      method(s.pause),
		"Pids":       method(s.pids),
		"ResizePty":  method(s.resizePty),
		"Resume":     method(s.resume),
		"Shutdown":   method(s.shutdown),
		"Start":      method(s.start),
		"State":      method(s.state),
		"Stats":      method(s.stats),
		"Update":     method(s.update),
		"Wait":       method(s.wait),
	}
}

// method makes a method of ttrpc out of one of the service. Errors get their
// codes here.
func method[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := call(ctx, request)
		if err != nil {
			return nil, code(err)
		}
		return response, nil
	}
}

var empty = new(emptypb.Empty)
