package shim

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/myshim/myshim/shim/command"
)

// Runtime is what a binary is made of.
type Runtime struct {
	Name     string // io.containerd.myshim.v1
	Version  string
	Revision string

	// Features returns the JSON of the runtime-spec's features.Features.
	Features func() ([]byte, error)

	// Annotations tell containerd what else it may leave to this shim.
	Annotations map[string]string

	// Serve registers the services of the daemon, before the first connection
	// is accepted. ctx ends when the daemon is told to exit.
	Serve func(ctx context.Context, d Daemon, server *ttrpc.Server) (Service, error)

	// Ended tells, in the process of `delete`, how a container ended as far as that
	// is known.
	Ended func(c Cleanup) Exit

	// Cleanup undoes, in the process of `delete`, what is left of a container and
	// of the other ones that a dead daemon served. A daemon that lives has let go of
	// the container by then. It may be called again, and for a bundle of which any
	// part is missing. It is not called if the bundle holds no file but
	// containerd's: whoever makes a container leaves one there as long as there is
	// something to clean up.
	Cleanup func(ctx context.Context, c Cleanup) error

	// Actions are further sub-commands.
	Actions []Action
}

// Daemon is what the services of a daemon know and may ask of it.
type Daemon struct {
	ID        string // of the container or pod it was started for
	Namespace string

	// Publish queues an event for containerd: it does not wait, events are
	// delivered in this order, and it is tried again until they are.
	Publish func(topic string, event proto.Message)

	// Shutdown makes the daemon exit once all requests, the current one
	// included, are answered and all events delivered, or a few seconds later.
	// When it returns the socket is gone, so that no client finds it any more.
	Shutdown func()
}

// Service is what a daemon serves, as far as its own end depends on it.
type Service interface {
	// Release lets go of a container that containerd has given up, whatever its
	// state is, if there is one of that ID.
	Release(id string)

	// CloseIfIdle says whether there is no container, and the daemon may exit. If
	// so there will be none any more.
	CloseIfIdle() bool
}

// Cleanup says which container to clean up.
type Cleanup struct {
	ID        string
	Namespace string
	Bundle    string // absolute; need not exist
}

// Exit is how a container ended.
type Exit = command.Result

// Action is a sub-command: the program's name, flags, Name, arguments.
type Action struct {
	Name, Args, Help string
	Run              func(args []string) error
}

// Main does what the command line asks for, and exits.
func Main(r Runtime) {
	command.Exit(r.run(os.Args[1:], os.Stdin, os.Stdout))
}

func (r Runtime) run(args []string, stdin io.Reader, stdout io.Writer) error {
	line, err := command.Parse(args)
	if err != nil {
		return err
	}
	switch {
	case line.Help:
		r.usage(stdout)
		return nil
	case line.Version:
		_, err := fmt.Fprintf(stdout, "%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n\n", path.Base(os.Args[0]), r.Version, r.Revision, runtime.Version())
		return err
	case line.Info:
		return r.info(stdin, stdout)
	}
	switch line.Action {
	case "": // containerd's shims have no name for it
		return r.daemon(line)
	case "start":
		return command.Start(line, stdin, stdout)
	case "delete":
		return r.delete(line, stdout)
	}
	for _, a := range r.Actions {
		if a.Name == line.Action {
			return a.Run(line.Args)
		}
	}
	return fmt.Errorf("unknown action %q, see -help", line.Action)
}

func (r Runtime) usage(w io.Writer) {
	name := path.Base(os.Args[0])
	fmt.Fprintf(w, "%s is a runtime for containerd, which runs it.\n\n", name)
	for _, a := range append([]Action{
		{Name: "start", Help: "start the daemon of a container or pod (containerd)"},
		{Name: "delete", Help: "clean up after a container (containerd)"},
		{Name: "-info", Help: "what this runtime can do, as a protobuf (containerd)"},
		{Name: "-version", Help: "show the version"},
	}, r.Actions...) {
		fmt.Fprintf(w, "  %s %-20s %s\n", name, a.Name+" "+a.Args, a.Help)
	}
}
