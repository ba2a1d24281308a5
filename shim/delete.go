package shim

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/log"

	"github.com/myshim/myshim/shim/command"
)

// delete is for a container of which something is left; with nothing left,
// command.Delete does it all, and has done so already where package early is
// linked in.
func (r Runtime) delete(line command.Line, stdout io.Writer) error {
	if err := line.Check(); err != nil {
		return err
	}
	if done, err := command.Delete(line, stdout, os.Stderr); done {
		return err
	}
	bundle, err := filepath.Abs(line.Bundle) // "" is the working directory
	if err != nil {
		return err
	}
	// containerd takes all of standard error for warnings.
	if err := errors.Join(log.SetFormat(log.TextFormat), log.SetLevel(log.WarnLevel)); err != nil {
		return err
	}
	container := Cleanup{ID: line.ID, Namespace: line.Namespace, Bundle: bundle}
	exit := r.Ended(container)
	if err := command.Release(line); err != nil {
		log.L.WithError(err).Warn("the daemon was not told to exit")
	}
	if err := r.Cleanup(context.Background(), container); err != nil {
		return err
	}
	return exit.Answer(stdout)
}
