package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/rdt"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// Create makes a container. Its init waits for Start when Create returns, as the
// process's user, in the container's namespaces and file system. A container
// that could not be made leaves nothing behind.
func Create(ctx context.Context, config Config) (_ *Container, err error) {
	c, location, p, err := compile(config)
	if err != nil {
		return nil, err
	}
	var undo undo
	defer undo.run(&err)

	c.record = &record{
		ID: c.ID, Namespace: c.Namespace, Daemon: c.Daemon, Shim: identify(os.Getpid()), Cgroup: location, path: recordPath(c.Bundle),
	}
	undo.add(c.record.remove)
	if p.Mounts.Visible {
		c.record.Visible = p.Mounts.Rootfs
	}
	if err := c.record.write(); err != nil {
		return nil, err
	}
	streams, err := stdio.Open(ctx, c.streamRequest(c.Init))
	if err != nil {
		return nil, err
	}
	undo.add(streams.Close)
	if err := c.Init.attach(streams); err != nil {
		return nil, err
	}
	// As at a deletion: when all else is gone the hooks run that undo what others
	// did, and then the root is unmounted.
	undo.add(c.record.hide)
	undo.add(func() error { return c.runHooks(context.WithoutCancel(ctx), specs.StateStopped, poststop) })
	if c.group, err = c.createGroup(ctx, location); err != nil {
		return nil, err
	}
	undo.add(func() error { return c.group.Delete(context.WithoutCancel(ctx)) })

	if r := c.spec.Linux.IntelRdt; r != nil {
		if err := c.createRDT(r); err != nil {
			return nil, err
		}
		undo.add(c.record.RDT.Delete)
	}
	if p.Mounts.Visible {
		if err := kernel.Apart(func() error { return p.Mounts.Show(mounts.Builder{UserNS: newUserNamespace}) }); err != nil {
			return nil, err
		}
	}
	join, err := c.group.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	if c.start, err = c.launch(&p.Script, streams.Files(), join, nil, nil); err != nil {
		return nil, err
	}
	undo.add(c.start.Kill)
	m := &making{Container: c, plan: p}
	undo.add(m.close)
	c.start.answer = m.answer
	for kind := plan.Report(-1); kind != plan.Ready; {
		if kind, err = c.start.walk(ctx); err == nil && kind == plan.Cloned && m.init != nil {
			err = m.follow()
		}
		if err != nil {
			return nil, m.explain(err)
		}
	}
	streams.Started()
	for _, w := range append(p.Warnings, c.group.Warnings(c.spec.Linux.Resources)...) {
		log.G(ctx).Warnf("container %s: %s", c.ID, w)
	}
	if err := ctx.Err(); err != nil { // containerd waits no more, and would not know of it
		return nil, err
	}
	undo.keep()
	k := c.start.Take() // not later: whoever is told may start it at once
	c.emit(ContainerCreated, c.Init)
	go c.Init.watch(k)
	return c, nil
}

// createGroup makes the container's cgroup, or has systemd make it.
func (c *Container) createGroup(ctx context.Context, l cgroup.Location) (*cgroup.Group, error) {
	resources := c.spec.Linux.Resources
	if l.Unit == "" {
		return cgroup.Create(l, resources)
	}
	return cgroup.CreateScope(ctx, l, resources, c.spec.Annotations, holdProcess)
}

// createRDT makes the container's group of Intel's RDT.
func (c *Container) createRDT(r *specs.LinuxIntelRdt) error {
	root, err := rdt.Root()
	if err != nil {
		return err
	}
	if c.record.RDT, err = rdt.Create(root, c.ID, r); err != nil {
		return err
	}
	return c.record.write()
}

// holdProcess starts a process that does nothing but wait.
func holdProcess() (pid int, release func(), err error) {
	in, err := waiting(script.New())
	if err != nil {
		return 0, nil, err
	}
	return in.Process().PID, func() {
		if err := in.Kill(); err != nil {
			log.L.WithError(err).Warn("end the process that held a systemd scope")
		}
	}, nil
}

// compile reads and checks the bundle, and makes the plan. Nothing is touched.
func compile(config Config) (*Container, cgroup.Location, *plan.Create, error) {
	fail := func(err error) (*Container, cgroup.Location, *plan.Create, error) {
		return nil, cgroup.Location{}, nil, err
	}
	if err := kernel.Supported(); err != nil {
		return fail(err)
	}
	s, err := spec.Load(config.Bundle)
	if err != nil {
		return fail(err)
	}
	s.Process.Terminal = config.Stdio.Terminal
	c := &Container{Config: config, spec: s, pause: Running, execs: map[string]*Process{}, unmounted: make(chan struct{}), opening: make(chan struct{}, maxOpening)}
	c.Init = &Process{Container: c, Stdio: config.Stdio, spec: s.Process, exited: make(chan struct{})}
	c.alive, c.die = context.WithCancel(context.Background())
	if c.filter, err = seccomp.Filters.Compile(s.Linux.Seccomp); err != nil {
		return fail(err)
	}
	if err := errors.Join(checkFilter(c.filter), checkLabels(s.Process), checkNamespaces(s)); err != nil {
		return fail(err)
	}
	location, err := cgroup.Resolve(s.Linux.CgroupsPath, c.ID, c.SystemdCgroup)
	if err != nil {
		return fail(err)
	}
	host, err := hostOf(location)
	if err != nil {
		return fail(err)
	}
	p, err := plan.NewCreate(s, c.ID, c.filter, host, plan.Options{
		NoPivotRoot: c.NoPivotRoot, NoNewKeyring: c.NoNewKeyring, Visible: c.VisibleRootfs,
		RootMounts: c.RootMounts, Null: config.Stdio.Null(),
	})
	return c, location, p, err
}

// checkFilter refuses flags that this kernel does not know.
func checkFilter(f *seccomp.Filter) error {
	if f == nil {
		return nil
	}
	known, err := kernel.SeccompFlags()
	if err != nil {
		return fmt.Errorf("linux.seccomp.flags: %w", err)
	}
	if f.Flags&^known != 0 {
		return spec.Invalid("linux.seccomp.flags", "of these this kernel only knows %s", strings.Join(seccomp.FlagNames(known), ", "))
	}
	return nil
}

// making is a container while it is made.
type making struct {
	*Container
	plan *plan.Create
	init *kernel.Process // that walks the script; nil until it is in its new namespaces
}

func (m *making) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.root == nil {
		return nil
	}
	return m.root.Close()
}

// follow goes on with the clone that has entered the pid namespace.
func (m *making) follow() error {
	m.setInit()
	return m.record.made(m.init.PID)
}

func (m *making) setInit() {
	m.init = m.start.Process()
	m.Init.run(m.init)
}

// answer does what the script waits for.
func (m *making) answer(ctx context.Context, r plan.Report) error {
	switch r {
	case plan.Mappings:
		if err := m.writeMappings(m.start.Process().PID); err != nil {
			return err
		}
		return m.start.Go([]byte{1})
	case plan.Supers:
		return m.furnish(ctx)
	case plan.Scheduler:
		return m.start.setScheduler(m.spec.Process.Scheduler)
	case plan.Listener:
		if m.Init.starting() { // with no_new_privs the filter may be the last thing
			return m.takeListener(ctx, m.start, specs.StateCreated)
		}
		return m.takeListener(ctx, m.start, specs.StateCreating)
	}
	return unexpected(r)
}

// furnish does what is done from outside while the init waits in its new
// namespaces: limits and the file system, with the hooks that may add to it.
func (m *making) furnish(ctx context.Context) error {
	m.setInit()
	if err := errors.Join(m.record.RDT.Join(m.init.PID), m.moveDevices()); err != nil {
		return err
	}
	if err := m.writeTimeOffsets(m.init.PID); err != nil {
		return err
	}
	if err := setLimits(m.init.PID, m.spec.Process); err != nil {
		return err
	}
	// The file system and the cgroup wait for different things of the kernel.
	limited := make(chan error, 1)
	go func() { limited <- m.limit() }()
	stream, err := m.build(ctx, limited)
	if err != nil {
		return err
	}
	files := []int{int(m.root.Fd())}
	if stream != nil {
		defer stream.Close()
		files = append(files, int(stream.Fd()))
	}
	return m.start.Go(homeVariable(m.root, m.spec.Process), files...)
}

// limit has the cgroup limit and watch the init, and notes its pid.
func (m *making) limit() error {
	if err := m.group.Set(m.spec.Linux); err != nil {
		return err
	}
	if m.delegates() {
		if err := m.group.Delegate(hostID(m.spec.Linux.UIDMappings, m.spec.Process.User.UID)); err != nil {
			return err
		}
	}
	if err := m.group.WatchOOM(func(uint64) { m.emit(OutOfMemory, m.Init) }); err != nil {
		return err
	}
	return m.record.made(m.init.PID)
}

// delegates says, as runc, whether the process's user is to manage cgroups of its
// own: it has a cgroup namespace, and the usual mount of that can be written to.
func (m *making) delegates() bool {
	return m.spec.New(specs.CgroupNamespace) && slices.ContainsFunc(m.spec.Mounts, func(mount specs.Mount) bool {
		return (mount.Type == "cgroup" || mount.Type == "cgroup2") && filepath.Clean(mount.Destination) == "/sys/fs/cgroup" &&
			mounts.ParseOptions(mount.Options).Attrs.Set&unix.MOUNT_ATTR_RDONLY == 0
	})
}

// build puts the file system together, in the init's mount namespace, and opens in
// it the terminal, or the container's /dev/null, if the process is to have it.
// Hooks run in between, with the limits that are set meanwhile.
func (m *making) build(ctx context.Context, limited <-chan error) (stream *os.File, err error) {
	supers := make([]*os.File, len(m.plan.Supers))
	for i, cell := range m.plan.Supers {
		if supers[i], err = m.init.Descriptor(int(cell.Value(m.start.report)), "a mount"); err != nil {
			return nil, errors.Join(err, <-limited)
		}
		defer supers[i].Close()
	}
	builder := mounts.Builder{
		Supers: supers, OwnerUID: rootID(m.spec.Linux.UIDMappings), OwnerGID: rootID(m.spec.Linux.GIDMappings),
		OpenProc: func() (*os.File, error) { return m.openProc(ctx) }, UserNS: m.userNamespace,
	}
	hooked := m.hooked(prestart, createRuntime, createContainer)
	finish := func() (err error) {
		stream, err = m.finish(builder)
		return err
	}
	err = m.init.EnterMounts(func() error {
		root, err := m.plan.Mounts.Build(builder)
		if err == nil {
			m.mu.Lock()
			m.root = root
			m.mu.Unlock()
		}
		if err == nil && !hooked {
			err = finish()
		}
		return err
	})
	err = errors.Join(err, <-limited)
	if err == nil && hooked {
		if err = m.runHooks(ctx, specs.StateCreating, prestart, createRuntime, createContainer); err == nil {
			err = m.init.EnterMounts(finish)
		}
	}
	if err != nil && stream != nil {
		err = errors.Join(err, stream.Close())
	}
	return stream, err
}

// finish is called in the init's mount namespace.
func (m *making) finish(builder mounts.Builder) (stream *os.File, err error) {
	var console *os.File
	null := m.Stdio.Null()
	if m.Stdio.Terminal {
		console, err = m.openTerminal(m.Init, m.root)
		stream = console
	} else if fd := slices.Index(null[:], true); fd >= 0 {
		if stream, err = mounts.OpenNull(m.root, os.O_RDWR); err != nil {
			// There is none, or the image has something else there.
			stream, err = duplicate(m.Init.stdio().Files()[fd])
		}
	}
	if err != nil {
		return nil, err
	}
	return stream, m.plan.Mounts.Finish(builder, m.root, console)
}

// openTerminal makes a terminal in the container for a process, and returns the
// process's end.
func (c *Container) openTerminal(p *Process, root *os.File) (*os.File, error) {
	master, slave, err := mounts.OpenTerminal(root)
	if err != nil {
		return nil, err
	}
	uid := hostID(c.spec.Linux.UIDMappings, p.spec.User.UID)
	if err := slave.Chown(uid, -1); err != nil {
		return nil, errors.Join(err, master.Close(), slave.Close())
	}
	if err := p.streams.Attach(master); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	return slave, nil
}

// explain adds to the failure of a step what the kernel says about it, where it
// says more than a number.
func (m *making) explain(err error) error {
	if m.group.OOMKilled() { // in runc's words, which are known
		return fmt.Errorf("container init was OOM-killed (memory limit too low?): %w", err)
	}
	step, ok := errors.AsType[*launch.StepError](err)
	if !ok || !step.Step.Calls(script.Fsconfig) && !step.Step.Calls(script.Fsmount) {
		return err
	}
	if m.init != nil { // it makes no file systems any more, and others may see it
		return err
	}
	fs, taken := m.start.Process().Descriptor(int(m.plan.Context.Value(m.start.report)), "a file system")
	if taken != nil {
		return err
	}
	defer fs.Close()
	return mounts.Explain(int(fs.Fd()), err)
}

// ownCapabilities are those that this process can hand to a container.
var ownCapabilities = sync.OnceValues(caps.Own)

// hostOf is what a plan must know of the host.
func hostOf(l cgroup.Location) (plan.Host, error) {
	own, err := ownCapabilities()
	if err != nil {
		return plan.Host{}, err
	}
	h := plan.Host{Capabilities: own}
	for _, d := range l.Dirs {
		if len(d.Controllers) == 0 {
			h.CgroupDir, h.Cgroup2 = true, d.Mount+d.Path
			continue
		}
		h.Tasks++
		h.Cgroup = append(h.Cgroup, mounts.Hierarchy{Name: filepath.Base(d.Mount), Dir: d.Mount + d.Path})
	}
	return h, nil
}
