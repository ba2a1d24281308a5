package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

// Exec is how a process enters a running container.
type Exec struct {
	Script *script.Script
	Files  []File

	// The script waits for the shim at once, which sends the variable HOME with
	// its NUL, and a terminal if there is one.

	// Clones is how many times the script reports the pid of a clone, in PID,
	// to go on in it.
	Clones int
	PID    script.Cell
	// Listener: with a seccomp filter that has one, it is reported in the cell:
	// before the last clone, or, with no_new_privs, after it.
	Listener *script.Cell
	// When its socket closes it has become the program.

	Warnings []string // for the log
}

// NewExec compiles a process that enters the container. What it is to have of
// the container's own process, and is not in its spec, is taken from there.
func NewExec(c *spec.Container, id string, process *specs.Process, filter *seccomp.Filter, host Host, options Options) *Exec {
	b := newBuilder(host, options, process)
	b.filter = filter
	b.userns = c.Has(specs.UserNamespace)
	p := &Exec{Script: b.Script, PID: b.pid}
	if filter != nil && filter.Listener() {
		p.Listener = &b.listener
	}

	b.enter()
	terminal, _ := b.Receive(b.home, homeSize)
	b.joinTasks()
	if host.CgroupDir {
		// Before anything of the container is entered: as its user, or out of
		// its cgroup namespace, that would not be allowed.
		b.clone(0, nil, true, "into the cgroup")
		p.Clones++
	}
	b.enterContainer(c)
	if b.userns {
		b.becomeRoot()
	}
	b.keyring(id, false)
	if process.Terminal {
		b.terminal(terminal)
	}
	b.closeFrom(script.ScriptFD, "what is used in the container is the container's")
	b.person(c.Linux)
	b.credentials()
	b.lookup()
	if c.Has(specs.PIDNamespace) {
		// Only now, with no more rights than the container has, does it enter
		// the namespace, where others can see it. Not with clone3, which many
		// seccomp filters refuse, as they cannot look into its argument.
		child := b.Label("child")
		zero := script.Int(0)
		b.Add(script.Clone, script.Flags(unix.CLONE_PARENT, "CLONE_PARENT"), zero, zero, zero, zero).Into(b.pid)
		b.Jump(b.pid.Arg(), zero, child)
		b.Report().Because("pid of the child")
		b.Add(script.Exit, zero)
		b.Place(child)
		p.Clones++
	}
	b.session()
	b.execute()

	p.Files, p.Warnings = b.files, b.warnings
	return p
}

// enterContainer joins all namespaces of the container at once, those of its
// init, and makes its root this process's.
func (b *builder) enterContainer(c *spec.Container) {
	init := b.file(File{Kind: InitPidfd})
	var flags uint64
	text := ""
	for _, known := range cloneFlags {
		if c.Has(known.kind) {
			flags |= known.flag
			text += "|" + known.name
		}
	}
	if flags != 0 {
		b.Add(script.Setns, init, script.Flags(flags, text[1:]))
	}
	// Of a mount namespace the root is the container's, unless it is only
	// chroot that keeps the container in there.
	if !c.Has(specs.MountNamespace) {
		b.Add(script.Fchdir, b.file(File{Kind: RootDir}))
		b.Add(script.Chroot, b.String("."))
	}
}
