// Package prepare begins with what every daemon needs for its first container
// while the rest of the binary is being initialised, on another CPU: it comes
// before that for the reason that is explained in package early, and after
// early, which it imports.
package prepare

import (
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/spec"
	_ "github.com/myshim/myshim/shim/early" // start and delete
)

func init() {
	go func() {
		spec.Prepare()
		launch.Prepare()
	}()
}
