// Package early runs `start`, and `delete` of a container of which nothing is
// left, before most of the binary is initialised. Only the main package of the
// shim imports it, and only for that.
//
// Go initialises packages in the order of their import paths, each once all
// that it imports are (language specification, "Program initialization"): this
// one comes before everything that needs more than package command does and has
// a path behind github.com/myshim, as google.golang.org/protobuf and with it
// all of containerd's API. That halves what those two calls take over an empty
// Go program. Were the order another one, only the time would be lost: what is
// not done here is done by shim.Main.
package early

import (
	"os"

	"github.com/myshim/myshim/shim/command"
)

func init() {
	line, err := command.Parse(os.Args[1:])
	if err != nil || line.Version || line.Info || line.Help {
		return
	}
	switch line.Action {
	case "start":
		command.Exit(command.Start(line, os.Stdin, os.Stdout))
	case "delete":
		if done, err := command.Delete(line, os.Stdout, os.Stderr); done {
			command.Exit(err)
		}
	}
}
