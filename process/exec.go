package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/stdio"
)

// Exec adds a process to the container, which is not started yet.
func (c *Container) Exec(id string, spec *specs.Process, request stdio.Request) (*Process, error) {
	spec.Terminal = request.Terminal
	c.spec.Inherit(spec)
	if err := checkLabels(spec); err != nil {
		return nil, err
	}
	p := &Process{ID: id, Container: c, Stdio: request, spec: spec, exited: make(chan struct{})}
	err := c.allow(Exec, func() error {
		if _, ok := c.execs[id]; ok {
			return fmt.Errorf("exec %s of container %s: %w", id, c.ID, ErrExists)
		}
		c.execs[id] = p
		c.emit(ExecAdded, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// StartExec starts a process of an exec. Its program runs when StartExec
// returns; if it could not be executed that is the error.
func (c *Container) StartExec(ctx context.Context, p *Process) error {
	if err := c.allow(Exec, nothing); err != nil {
		return err
	}
	if err := p.begin(); err != nil {
		return err
	}
	// When the init ends, a start that hangs, on a dead file system say, ends
	// with it.
	ctx, cancel := c.whileAlive(ctx, 0)
	defer cancel()
	k, err := c.startExec(ctx, p)
	if err != nil {
		if c.alive.Err() != nil || initGone(err) {
			err = &stateError{fmt.Sprintf("container %s init process is not running", c.ID)}
		}
		p.closeStreams(ctx)
		p.failed(err)
		return err
	}
	p.run(k)
	p.started(func() { c.emit(ProcessStarted, p) })
	go p.watch(k)
	return nil
}

func (c *Container) startExec(ctx context.Context, p *Process) (*kernel.Process, error) {
	root, err := c.openRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	streams, err := stdio.Open(ctx, c.streamRequest(p))
	if err != nil {
		return nil, err
	}
	if err := p.attach(streams); err != nil {
		return nil, err
	}
	in, err := c.openInside(ctx, p, root)
	if err != nil {
		return nil, err
	}
	defer in.close()
	e := entry{process: p.spec, files: streams.Files(), root: root, home: in.home}
	for i, null := range in.nulls {
		if null != nil {
			e.files[i] = null
		}
	}
	if in.terminal != nil {
		e.terminal = []int{int(in.terminal.Fd())}
	}
	k, err := c.enter(ctx, e, c.group.Join)
	if outOfCgroup(err) {
		k, err = c.enter(ctx, e, func() (cgroup.Join, error) { return c.group.JoinProcess(c.Init.State().PID) })
	}
	if err != nil {
		return nil, err
	}
	streams.Started()
	return k, nil
}

// borrowed is what an exec needs of the container's files.
type borrowed struct {
	home     []byte
	terminal *os.File    // nil without one
	nulls    [3]*os.File // the container's /dev/null for streams that are null
}

func (in *borrowed) close() {
	for _, f := range append(in.nulls[:], in.terminal) {
		f.Close() // no harm if it is nil
	}
}

// maxOpening is how many execs of a container open files of it at the same time.
const maxOpening = 8

// openInside opens what the exec needs. That may be on a file system of the
// container's own, which never answers (fuse(4)): when ctx is done it is left
// behind, with a thread of the shim, and not more than maxOpening times.
func (c *Container) openInside(ctx context.Context, p *Process, root *os.File) (*borrowed, error) {
	root, err := duplicate(root)
	if err != nil {
		return nil, err
	}
	select {
	case c.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("the container's file system does not answer: %w", ctx.Err()), root.Close())
	}
	var in *borrowed
	opened := make(chan error, 1)
	go func() {
		var err error
		in, err = c.lookInside(p, root)
		opened <- errors.Join(err, root.Close())
		<-c.opening
	}()
	select {
	case err := <-opened:
		return in, err
	case <-ctx.Done():
		go func() {
			if <-opened == nil {
				in.close()
			}
		}()
		return nil, fmt.Errorf("the container's file system does not answer: %w", ctx.Err())
	}
}

func (c *Container) lookInside(p *Process, root *os.File) (*borrowed, error) {
	in := &borrowed{home: homeVariable(root, p.spec)}
	for i, null := range p.Stdio.Null() {
		if null { // unless it has made something else of it
			in.nulls[i], _ = mounts.OpenNull(root, []int{os.O_RDONLY, os.O_WRONLY, os.O_WRONLY}[i])
		}
	}
	if p.Stdio.Terminal {
		var err error
		if in.terminal, err = c.openTerminal(p, root); err != nil {
			in.close()
			return nil, err
		}
	}
	return in, nil
}

// initGone says whether the namespaces could not be entered because the init has
// ended, which may be known here before its end is: a pid namespace without one
// takes no more processes (alloc_pid in kernel/pid.c).
func initGone(err error) bool {
	step, ok := errors.AsType[*launch.StepError](err)
	return ok && (step.Step.Calls(script.Setns) && step.Err == unix.ESRCH || step.Step.Calls(script.Clone) && step.Err == unix.ENOMEM)
}

// outOfCgroup says whether a process could not be born in the container's cgroup
// v2: the container has moved its processes to one below it, or somewhere else.
func outOfCgroup(err error) bool {
	step, ok := errors.AsType[*launch.StepError](err)
	return ok && step.Step.Calls(script.Clone3) && (step.Err == unix.EBUSY || step.Err == unix.ENODEV || step.Err == unix.ENOENT)
}

// entry is a process that enters the container.
type entry struct {
	process  *specs.Process
	program  string      // to be executed, if that is not the first argument
	files    [3]*os.File // nil with a terminal
	root     *os.File    // the container's
	home     []byte      // see homeVariable
	terminal []int       // its descriptor, if there is one
}

// enter runs a process in the container. It has become its program when enter
// returns.
func (c *Container) enter(ctx context.Context, e entry, open func() (cgroup.Join, error)) (_ *kernel.Process, err error) {
	init := c.Init.process()
	if init == nil {
		return nil, &stateError{fmt.Sprintf("container %s init process is not running", c.ID)}
	}
	own, err := ownCapabilities()
	if err != nil {
		return nil, err
	}
	join, err := open()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	host := plan.Host{Capabilities: own, Tasks: len(join.Tasks), CgroupDir: join.Dir != nil}
	s := plan.NewExec(c.spec, c.ID, e.process, c.filter, host, plan.Options{NoNewKeyring: c.NoNewKeyring, Program: e.program})
	l, err := c.launch(s, e.files, join, init, e.root)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Kill())
		}
	}()
	l.answer = func(ctx context.Context, r plan.Report) error {
		switch r {
		case plan.Listener:
			return c.takeListener(ctx, l, specs.StateRunning)
		case plan.Scheduler:
			return l.setScheduler(e.process.Scheduler)
		}
		return unexpected(r)
	}
	if err := c.record.RDT.Join(l.Process().PID); err != nil {
		return nil, err
	}
	if err := l.Go(e.home, e.terminal...); err != nil {
		return nil, err
	}
	if err := l.execute(ctx); err != nil {
		return nil, err
	}
	for _, w := range s.Warnings {
		log.G(ctx).Warnf("exec in %s: %s", c.ID, w)
	}
	return l.Take(), l.Close()
}

// openRoot returns the container's root, to be closed by the caller.
func (c *Container) openRoot() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root == nil {
		return nil, &stateError{fmt.Sprintf("container %s init process is not running", c.ID)}
	}
	return duplicate(c.root)
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// DeleteExec takes away the process of an exec that has ended, or was never
// started.
func (c *Container) DeleteExec(ctx context.Context, p *Process) error {
	return p.remove(ctx, func(ctx context.Context) error {
		p.closeStreams(ctx)
		p.stop(ExitStatus{Code: 255, At: time.Now()}, func() {}) // if it was never started
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.execs, p.ID)
		return nil
	})
}
