package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/plan"
)

// hookStage is when hooks are run (runtime-spec, config.md, "POSIX-platform
// Hooks").
type hookStage string

const (
	prestart        hookStage = "prestart"        // deprecated, and what many use
	createRuntime   hookStage = "createRuntime"   // in the shim's namespaces, before pivot_root
	createContainer hookStage = "createContainer" // a program of the host, in the container's namespaces
	startContainer  hookStage = "startContainer"  // a program of the container, in it
	poststart       hookStage = "poststart"       // in the shim's namespaces, when the program runs
	poststop        hookStage = "poststop"        // in the shim's namespaces, when all else is gone
)

func (c *Container) hooks(stage hookStage) []specs.Hook {
	h := c.spec.Hooks
	if h == nil {
		return nil
	}
	return map[hookStage][]specs.Hook{
		prestart:        h.Prestart, //nolint:staticcheck // deprecated, and what many use
		createRuntime:   h.CreateRuntime,
		createContainer: h.CreateContainer,
		startContainer:  h.StartContainer,
		poststart:       h.Poststart,
		poststop:        h.Poststop,
	}[stage]
}

// runHooks runs the hooks of a stage one after the other, until one fails. All of
// poststop are run, as they undo what others did.
func (c *Container) runHooks(ctx context.Context, stage hookStage, status specs.ContainerState) error {
	var failures error
	for i, h := range c.hooks(stage) {
		err := c.runHook(ctx, stage, &h, status)
		if err != nil {
			err = fmt.Errorf("hooks.%s[%d] %s: %w", stage, i, h.Path, err)
		}
		if err != nil && stage != poststop {
			return err
		}
		failures = errors.Join(failures, err)
	}
	return failures
}

func (c *Container) runHook(ctx context.Context, stage hookStage, h *specs.Hook, status specs.ContainerState) error {
	pid := c.Init.State().PID
	if status == specs.StateStopped {
		pid = 0
	}
	if stage == createContainer && c.spec.New(specs.PIDNamespace) {
		pid = 1 // as the hook sees it
	}
	state, err := json.Marshal(specs.State{
		Version: specs.Version, ID: c.ID, Status: status, Pid: pid, Bundle: c.Bundle, Annotations: c.spec.Annotations,
	})
	if err != nil {
		return err
	}
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, fmt.Errorf("it took more than %d seconds", *h.Timeout))
		defer cancel()
	}
	switch stage {
	case createContainer:
		return c.Init.process().EnterNamespaces(c.cloneFlags(), func() error { return runHostHook(ctx, c.Bundle, h, state) })
	case startContainer:
		return c.runInside(ctx, h, state)
	}
	return runHostHook(ctx, c.Bundle, h, state)
}

// cloneFlags are the container's namespaces, but for the user namespace, which a
// program with threads cannot enter.
func (c *Container) cloneFlags() int {
	var flags uint64
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type != specs.UserNamespace {
			flags |= plan.CloneFlag(ns.Type)
		}
	}
	return int(flags)
}

// outputGrace is how long a hook's descendants may keep its output open.
const outputGrace = 100 * time.Millisecond

// runHostHook runs a program of the host from the calling thread, in whose
// namespaces it is then. A hook that takes too long is killed with all that it
// started and did not take out of its process group.
func runHostHook(ctx context.Context, dir string, h *specs.Hook, state []byte) error {
	output := &head{}
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args = h.Args
	if len(h.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	cmd.Env = append([]string{}, h.Env...) // none is not the shim's
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = outputGrace
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has ended, a daemon of it has not
		err = nil
	}
	return output.explain(ctx, err)
}

// head is the start of what a program writes.
type head struct{ text []byte }

// maxOutput is how much of a hook's output gets into an error.
const maxOutput = 4096

func (h *head) Write(b []byte) (int, error) {
	h.text = append(h.text, b[:min(maxOutput-len(h.text), len(b))]...)
	return len(b), nil
}

// explain adds the output to an error.
func (h *head) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if text := strings.TrimSpace(string(h.text)); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// runInside runs a program of the container, as the container's process: with
// no more rights than that has, since the program may be anything that the image
// made.
func (c *Container) runInside(ctx context.Context, h *specs.Hook, state []byte) (err error) {
	process := *c.spec.Process
	process.Terminal = false
	process.Args = h.Args
	if len(h.Args) == 0 {
		process.Args = []string{h.Path}
	}
	if h.Env != nil {
		process.Env = h.Env
	}
	root, err := c.openRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	in, inWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	out, outWriter, err := os.Pipe()
	if err != nil {
		return errors.Join(err, in.Close(), inWriter.Close())
	}
	defer out.Close()
	defer inWriter.Close()
	e := entry{process: &process, program: h.Path, files: [3]*os.File{in, outWriter, outWriter}, root: root}
	k, err := c.enter(ctx, e, c.group.Join)
	if err = errors.Join(err, in.Close(), outWriter.Close()); err != nil {
		return err
	}
	defer k.Close()
	defer context.AfterFunc(ctx, func() { _ = k.Signal(unix.SIGKILL) })()
	go func() {
		_, _ = inWriter.Write(state)
		inWriter.Close()
	}()
	output := &head{}
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(output, out)
		close(copied)
	}()
	status, err := k.Wait()
	if err != nil {
		return err
	}
	select {
	case <-copied:
	case <-time.After(outputGrace):
		_ = out.Close()
		<-copied
	}
	if status != 0 {
		err = fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return output.explain(ctx, err)
}
