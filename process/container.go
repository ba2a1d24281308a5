package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// Container is a container with its processes.
type Container struct {
	Config
	Init *Process

	spec   *spec.Container
	filter *seccomp.Filter // nil without a seccomp profile
	group  *cgroup.Group
	start  *launching // of the init, until it is started
	record *record

	// alive is done when the init has ended.
	alive context.Context
	die   context.CancelFunc

	unmounted chan struct{} // closed when the init has ended, and nothing here keeps its file system

	opening chan struct{} // has what openInside is doing

	updating sync.Mutex // one Update after the other; nothing else waits for it

	mu    sync.Mutex
	pause Status              // guarded by mu; Running, Pausing, Paused or Resuming
	execs map[string]*Process // guarded by mu; those that are not deleted
	root  *os.File            // guarded by mu; nil when the init has ended
	stats any                 // guarded by mu; the last ones, when the init has ended
}

// Config is what a caller asks for when it makes a container.
type Config struct {
	ID, Namespace string
	Bundle        string // made by containerd, which also removes it
	Daemon        string // ID of the shim process, which may serve several containers
	RootMounts    []mounts.RootMount
	Stdio         stdio.Request // without owner and environment
	IOUID, IOGID  int           // of the streams, on the host; 0, 0 if nobody cares
	NoPivotRoot   bool
	NoNewKeyring  bool
	SystemdCgroup bool
	VisibleRootfs bool // see mounts.Config

	// Emit is told what happens to the container, in the order in which it
	// happens. It must not wait, nor call back.
	Emit func(Event)
}

// Event is something that happened to a container.
type Event struct {
	Kind      EventKind
	Container *Container
	ExecID    string // "" for the init, and what happens to the whole container
	PID       int
	Exit      ExitStatus // of ProcessExited and ContainerDeleted
}

// EventKind says what happened.
type EventKind int

// What can happen.
const (
	ContainerCreated EventKind = iota
	ProcessStarted
	ExecAdded
	ContainerPaused
	ContainerResumed
	OutOfMemory
	ProcessExited
	ContainerDeleted
)

func (c *Container) emit(kind EventKind, p *Process) {
	p.mu.Lock()
	e := Event{Kind: kind, Container: c, ExecID: p.ID, PID: p.pid, Exit: p.exit}
	p.mu.Unlock()
	c.Emit(e)
}

// Process is the process of an exec, or the init for "".
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.Init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[execID]
	if !ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", execID, c.ID, ErrNotFound)
	}
	return p, nil
}

// pauseStatus is Pausing, Paused or Resuming, or else Running.
func (c *Container) pauseStatus() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause
}

// allow checks that something may happen to the container now, changes its state,
// and calls then before anything else can happen, not even its end.
func (c *Container) allow(a Action, then func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Init.mu.Lock()
	status := c.Init.status
	c.Init.mu.Unlock()
	running := status == Running
	if running {
		status = c.pause
	}
	if err := status.allows(a, "container"); err != nil {
		return err
	}
	if running {
		c.pause = next[status][a]
	}
	return then()
}

// nothing is for allow.
func nothing() error { return nil }

// Pause stops all processes of the container until Resume.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.allow(Pause, nothing); err != nil {
		return err
	}
	if err := c.group.Freeze(ctx); err != nil {
		_ = c.allow(Thaw, nothing) // unless it has ended
		return fmt.Errorf("pause container %s: %w", c.ID, err)
	}
	return c.allow(Freeze, func() error {
		c.emit(ContainerPaused, c.Init)
		return nil
	})
}

// Resume lets a paused container go on.
func (c *Container) Resume() error {
	if err := c.allow(Resume, nothing); err != nil {
		return err
	}
	if err := c.group.Thaw(); err != nil {
		_ = c.allow(Freeze, nothing) // unless it has ended
		return fmt.Errorf("resume container %s: %w", c.ID, err)
	}
	return c.allow(Thaw, func() error {
		c.emit(ContainerResumed, c.Init)
		return nil
	})
}

// Update changes the limits of the container. What is not mentioned stays.
func (c *Container) Update(r *specs.LinuxResources) error {
	if err := c.allow(Update, nothing); err != nil {
		return err
	}
	c.updating.Lock()
	defer c.updating.Unlock()
	if err := c.group.Update(r); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	for _, w := range c.group.Warnings(r) {
		log.L.Warnf("update container %s: %s", c.ID, w)
	}
	return nil
}

// Stats are what the container uses: a Metrics message of package
// containerd/cgroups/v3, of cgroup1/stats or cgroup2/stats. When the init has
// ended, they are those of its end.
func (c *Container) Stats() (any, error) {
	c.mu.Lock()
	last := c.stats
	c.mu.Unlock()
	if last != nil {
		return last, nil
	}
	return c.group.Stats()
}

// Pids are the processes of the container, with the ID of the exec that each of
// them is, or "". One that has ended is ErrState: there is no list to give, and
// containerd takes an empty one, after a restart, for a container to be thrown
// away with its exit status.
func (c *Container) Pids() (map[int]string, error) {
	if c.Init.State().Status == Stopped {
		return nil, &stateError{fmt.Sprintf("container %s has stopped", c.ID)}
	}
	pids, err := c.group.Pids()
	if err != nil {
		return nil, err
	}
	ids := make(map[int]string, len(pids))
	for _, pid := range pids {
		ids[pid] = ""
	}
	for _, p := range append(c.processes(), c.Init) { // they may have left the cgroup
		if k := p.process(); k != nil {
			ids[k.PID] = p.ID
		}
	}
	return ids, nil
}

// processes are those of the execs.
func (c *Container) processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*Process, 0, len(c.execs))
	for _, p := range c.execs {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// Kill sends a signal to the init, or to all processes of the container.
func (c *Container) Kill(sig unix.Signal, all bool) error {
	err := c.Init.Signal(0) // for one that has ended
	switch {
	case err == nil && all && sig == unix.SIGKILL:
		err = c.killAll()
	case err == nil && all:
		err = c.group.Signal(sig)
	case err == nil:
		err = c.Init.Signal(sig)
	}
	if err == nil && sig == unix.SIGKILL && c.pauseStatus() != Running {
		err = c.group.Thaw() // frozen, on cgroup v1 it does not even die
	}
	return err
}

// killAll ends what is in the container's cgroup, and what was started by this
// process and has left it.
func (c *Container) killAll() error {
	err := c.group.Kill()
	for _, p := range append(c.processes(), c.Init) {
		if k := p.process(); k != nil {
			if killed := p.Signal(unix.SIGKILL); !errors.Is(killed, ErrNotFound) {
				err = errors.Join(err, killed)
			}
		}
	}
	return err
}

// ended is called when a process of the container has ended. Its exit is told
// after those of all execs if it is the init's: a container that has exited has
// no processes left.
func (c *Container) ended(p *Process, exit ExitStatus, quiet bool) {
	c.group.CheckOOM()
	if p == c.Init {
		// The last reference to a file system takes what may be long: it is
		// unmounted, and first written to its disk.
		defer c.unmount()
		c.settle(exit)
		c.endExecs()
	}
	c.mu.Lock() // what allow has allowed is told before, or not at all
	p.stop(exit, func() {
		if !quiet {
			c.emit(ProcessExited, p)
		}
	})
	c.mu.Unlock()
}

// lastExits is how long the exit of a container waits for those of its execs.
const lastExits = 10 * time.Second

// endExecs kills what is left of the container when its init has ended, and
// waits for the ends of the execs. In a pid namespace of its own the kernel has
// killed everything.
func (c *Container) endExecs() {
	if !c.spec.New(specs.PIDNamespace) {
		if err := c.killAll(); err != nil {
			log.L.WithError(err).Warnf("kill the processes of %s", c.ID)
		}
	} else if c.pauseStatus() != Running {
		_ = c.group.Thaw()
	}
	timeout := time.After(lastExits)
	for _, p := range c.processes() {
		if p.State().Status == Created && !p.starting() {
			continue
		}
		select {
		case <-p.exited:
		case <-timeout:
			log.L.Warnf("%s has exited, and its process %s does not end", c.ID, p)
			return
		}
	}
}

// settle keeps what is true of the container for when it is gone. With systemd
// that may be so as soon as its last process is.
func (c *Container) settle(exit ExitStatus) {
	var stats any
	if c.group.Unit != "" { // systemd takes the cgroup away with the last process
		var err error
		if stats, err = c.group.Stats(); err != nil {
			log.L.WithError(err).Debugf("the last statistics of %s", c.ID)
		}
	}
	c.mu.Lock()
	c.stats = stats
	c.mu.Unlock()
	if err := errors.Join(c.start.Close(), c.record.ended(exit)); err != nil {
		log.L.WithError(err).Warnf("after the end of %s", c.ID)
	}
}

// unmount lets go of what keeps the file system of the container, whose mount
// namespace is gone. Delete waits for it.
func (c *Container) unmount() {
	c.mu.Lock()
	root := c.root
	c.root = nil
	c.mu.Unlock()
	if err := root.Close(); err != nil {
		log.L.WithError(err).Warnf("close the root of %s", c.ID)
	}
	close(c.unmounted)
}

// Start starts the init. Its program runs when Start returns; if it could not be
// executed that is the error.
func (c *Container) Start(ctx context.Context) error {
	p := c.Init
	if err := p.begin(); err != nil {
		return err
	}
	if err := c.startInit(ctx); err != nil {
		_ = p.Signal(unix.SIGKILL) // it may wait with the error that it reported
		p.failed(err)
		return err
	}
	p.started(func() { c.emit(ProcessStarted, p) })
	return c.start.Close()
}

func (c *Container) startInit(ctx context.Context) error {
	before, cancel := c.whileAlive(ctx, 0)
	defer cancel()
	if err := c.runHooks(before, specs.StateCreated, startContainer); err != nil {
		return err
	}
	if err := c.start.Go([]byte{1}); err != nil {
		return err
	}
	if err := c.start.execute(ctx); err != nil {
		return err
	}
	// Its exit is told when the start is over: not even a hook that hangs may keep
	// it back for long.
	after, cancel := c.whileAlive(ctx, lastExits)
	defer cancel()
	return c.runHooks(after, specs.StateRunning, poststart)
}

// whileAlive is a context that ends with the container's init, or so long after
// it.
func (c *Container) whileAlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.alive, func() { time.AfterFunc(grace, cancel) })
	return ctx, func() {
		stop()
		cancel()
	}
}

// Delete takes a container away that has ended, or was never started, with all
// that was made for it.
func (c *Container) Delete(ctx context.Context) error { return c.Init.remove(ctx, c.destroy) }

func (c *Container) destroy(ctx context.Context) error {
	if c.Init.State().Status == Created {
		if err := c.Init.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		<-c.Init.exited
	}
	for _, p := range c.processes() {
		if err := c.DeleteExec(ctx, p); err != nil {
			log.L.WithError(err).Warnf("delete %s", p)
		}
	}
	c.Init.closeStreams(ctx)
	// Without a pid namespace of its own, a process may have come after the end
	// of the init.
	if err := c.group.Kill(); err != nil {
		log.L.WithError(err).Warnf("kill the processes of %s", c.ID)
	}
	if err := errors.Join(c.group.Delete(ctx), c.record.RDT.Delete()); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	<-c.unmounted
	if err := c.runHooks(ctx, specs.StateStopped, poststop); err != nil {
		log.L.WithError(err).Warnf("poststop hooks of %s", c.ID)
	}
	if err := c.record.hide(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if err := c.record.remove(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	c.emit(ContainerDeleted, c.Init)
	return nil
}

// Destroy deletes the container whatever its state is.
func (c *Container) Destroy(ctx context.Context) error {
	if err := c.Kill(unix.SIGKILL, true); err != nil && !errors.Is(err, ErrNotFound) {
		log.L.WithError(err).Warnf("kill %s", c.ID)
	}
	if _, err := c.Init.Wait(ctx); err != nil {
		return err
	}
	return c.Delete(ctx)
}
