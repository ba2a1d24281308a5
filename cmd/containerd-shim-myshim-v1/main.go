// Command containerd-shim-myshim-v1 is a shim of containerd, runtime name
// io.containerd.myshim.v1, which is itself the OCI runtime.
package main

import (
	"context"
	"encoding/json"
	"runtime"
	"time"

	"github.com/containerd/ttrpc"

	_ "github.com/myshim/myshim/cmd/containerd-shim-myshim-v1/prepare" // before the rest is initialised
	"github.com/myshim/myshim/process"
	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/shim"
	"github.com/myshim/myshim/task"
)

// Set by the Makefile.
var (
	version  = "0.1.0"
	revision = "unknown"
)

func init() {
	// The first thread is main's for ever. Threads that enter a container's
	// namespaces die after that; for this one Go could not do it.
	runtime.LockOSThread()
}

func main() {
	shim.Main(shim.Runtime{
		Name:        "io.containerd.myshim.v1",
		Version:     version,
		Revision:    revision,
		Annotations: process.Annotations(),
		Features:    func() ([]byte, error) { return json.Marshal(process.Features()) },
		Serve:       serve,
		Ended:       ended,
		Cleanup:     func(ctx context.Context, c shim.Cleanup) error { return process.Cleanup(ctx, c.Bundle) },
		Actions: []shim.Action{
			{Name: "plan", Args: "[--json] BUNDLE", Help: "print how a container would be made", Run: printPlan},
			{Name: "inspect", Args: "[-n NAMESPACE] [--json] [ID]", Help: "show running containers, their namespaces and mounts", Run: inspect},
		},
	})
}

func serve(ctx context.Context, d shim.Daemon, server *ttrpc.Server) (shim.Service, error) {
	s := task.New(d.ID, d.Namespace, d.Publish, d.Shutdown)
	s.Register(server)
	go task.Prepare()
	go kernel.ReapOrphans(ctx, 20*time.Millisecond) // a look at many that end at the same time
	return s, nil
}

func ended(c shim.Cleanup) shim.Exit {
	pid, exit := process.Ended(c.Bundle)
	return shim.Exit{PID: pid, Status: uint32(exit.Code), At: exit.At}
}
