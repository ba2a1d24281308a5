// Package prepare begins with what every daemon needs for its first container
// while the rest of the binary is being initialised, on another CPU: it comes
// before that for the reason that is explained in package early, and after
// early, which it imports. The bundle that a daemon is started for is its working
// directory.
package prepare

import (
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
	_ "github.com/myshim/myshim/shim/early" // start and delete
)

func init() {
	go func() {
		profile := spec.ReadAhead(".")
		launch.Prepare()
		_, _ = seccomp.Filters.Compile(profile) // what is wrong with it, Create says
	}()
}
