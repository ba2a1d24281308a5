package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/kernel"
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

// hooked says whether there are hooks of these stages.
func (c *Container) hooked(stages ...hookStage) bool {
	return slices.ContainsFunc(stages, func(stage hookStage) bool { return len(c.hooks(stage)) > 0 })
}

// runHooks runs the hooks of stages one after the other, until one fails. All of
// poststop are run, as they undo what others did.
func (c *Container) runHooks(ctx context.Context, status specs.ContainerState, stages ...hookStage) error {
	var failures error
	for _, stage := range stages {
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
	}
	return failures
}

func (c *Container) runHook(ctx context.Context, stage hookStage, h *specs.Hook, status specs.ContainerState) error {
	inside := stage == createContainer || stage == startContainer
	state, err := json.Marshal(c.ociState(status, inside))
	if err != nil {
		return err
	}
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, fmt.Errorf("it took more than %d seconds", *h.Timeout))
		defer cancel()
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	switch stage {
	case createContainer:
		return communicate(ctx, state, func(files [3]*os.File) (*kernel.Process, error) {
			return c.enterAsHook(ctx, h.Path, args, h.Env, files)
		})
	case startContainer:
		return communicate(ctx, state, func(files [3]*os.File) (*kernel.Process, error) {
			return c.enterAsInit(ctx, h.Path, args, h.Env, files)
		})
	}
	return communicate(ctx, state, func(files [3]*os.File) (*kernel.Process, error) {
		env := h.Env
		if env == nil {
			env = os.Environ() // as runc does: many hooks want a PATH
		}
		return kernel.Start(h.Path, args, &syscall.ProcAttr{
			Dir: c.Bundle, Env: env, Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
	})
}

// ociState is the state of the container (runtime.md, "State"), as it is seen from
// outside or inside.
func (c *Container) ociState(status specs.ContainerState, inside bool) *specs.State {
	s := &specs.State{
		Version: specs.Version, ID: c.ID, Status: status, Pid: c.Init.State().PID, Bundle: c.Bundle, Annotations: c.spec.Annotations,
	}
	switch {
	case status == specs.StateStopped:
		s.Pid = 0
	case inside && c.spec.New(specs.PIDNamespace):
		s.Pid = 1
	}
	return s
}

// outputGrace is how long a hook's descendants may keep its output open.
const outputGrace = 100 * time.Millisecond

// communicate starts a program with text as its input, and waits for it. One that
// takes too long is killed with all that it started and did not take out of its
// session.
func communicate(ctx context.Context, text []byte, start func([3]*os.File) (*kernel.Process, error)) error {
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
	k, err := start([3]*os.File{in, outWriter, outWriter})
	err = errors.Join(err, in.Close(), outWriter.Close())
	if k == nil {
		return err
	}
	defer k.Close()
	defer context.AfterFunc(ctx, func() { _ = k.KillGroup() })()
	go func() {
		_, _ = inWriter.Write(text)
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
	case <-time.After(outputGrace): // a daemon of it has not ended
		_ = out.Close()
		<-copied
	}
	switch {
	case status.Signaled():
		err = fmt.Errorf("signal: %v", status.Signal())
	case status != 0:
		err = fmt.Errorf("exit status %d", status.ExitStatus())
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

// enterAsHook runs a program of the host in the namespaces of a container that is
// being made, and in its cgroup.
func (c *Container) enterAsHook(ctx context.Context, program string, args, env []string, files [3]*os.File) (*kernel.Process, error) {
	root, err := c.openRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	join, err := c.group.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	host := plan.Host{Tasks: len(join.Tasks), CgroupDir: join.Dir != nil}
	l, err := c.launch(plan.NewHook(c.spec, program, args, env, host), files, join, c.Init.process(), root)
	if err != nil {
		return nil, err
	}
	if err := l.execute(ctx); err != nil {
		return nil, errors.Join(err, l.Kill())
	}
	return l.Take(), l.Close()
}

// enterAsInit runs a program of the container as the container's process: with no
// more rights than that has, since the program may be anything that the image
// made.
func (c *Container) enterAsInit(ctx context.Context, program string, args, env []string, files [3]*os.File) (*kernel.Process, error) {
	process := *c.spec.Process
	process.Terminal = false
	process.Args = args
	if len(env) > 0 {
		process.Env = env
	}
	root, err := c.openRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	e := entry{process: &process, program: program, files: files, root: root, home: homeVariable(root, &process)}
	return c.enter(ctx, e, c.group.Join)
}
