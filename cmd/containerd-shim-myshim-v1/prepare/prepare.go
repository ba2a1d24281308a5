// Package prepare begins with what every daemon needs for its first container
// while the rest of the binary is being initialised, on another CPU: it comes
// before that for the reason that is explained in package early, and after
// early, which it imports. The bundle that a daemon is started for is its working
// directory.
package prepare

import (
	"os"

	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/shim/command"
	_ "github.com/myshim/myshim/shim/early" // start and delete
)

func init() {
	// What else the binary is run for ends soon, and would only be slower.
	if line, err := command.Parse(os.Args[1:]); err != nil || !line.Daemon() {
		return
	}
	go func() {
		profile := spec.ReadAhead(".")
		launch.Prepare()
		_, _ = seccomp.Filters.Compile(profile) // what is wrong with it, Create says
	}()
}
