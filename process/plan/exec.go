package plan

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

// NewExec compiles a process that enters a running container. Its script first
// of all waits for the variable HOME, with its NUL, and the terminal if there is
// one.
func NewExec(c *spec.Container, id string, process *specs.Process, filter *seccomp.Filter, host Host, options Options) *Script {
	b := newBuilder(host, options, process, filter)
	b.userns = c.Has(specs.UserNamespace)

	affinity := process.ExecCPUAffinity
	if affinity == nil {
		affinity = &specs.CPUAffinity{}
	}

	b.enter()
	terminal, _ := b.Receive(b.home, homeSize)
	if affinity.Initial != "" {
		b.affinity(affinity.Initial, "process.execCPUAffinity.initial")
	}
	b.joinTasks()
	if host.CgroupDir {
		// Before anything of the container is entered: as its user, or out of
		// its cgroup namespace, that would not be allowed.
		b.clone(0, nil, true, "into the cgroup")
		b.report(Cloned)
	}
	switch {
	case affinity.Final != "":
		b.affinity(affinity.Final, "process.execCPUAffinity.final")
	case affinity.Initial == "": // else it is left to the kernel what becomes of that
		b.affinity("", "")
	}
	b.limits()
	b.enterContainer(c)
	if b.userns {
		b.becomeRoot()
	}
	b.keyring(id, false)
	if process.Terminal {
		for fd := range 3 {
			b.Add(script.Dup3, terminal, script.Int(fd), script.Int(0)).For("process.terminal")
		}
	}
	b.closeRest("what is used in the container is the container's")
	b.become(c.Linux, c.Has(specs.PIDNamespace))
	b.execute()

	return &b.Script
}

// limits sets what may take rights that the process has only before it enters
// a user namespace. Not by the shim from outside, which cannot know when the
// execve of the init is over: the kernel puts back RLIMIT_STACK at its end
// (finalize_exec, Linux 4.18).
func (b *builder) limits() {
	for i, r := range b.process.Rlimits {
		soft, hard, again := FirstLimit(r)
		step := b.limit(i, soft, hard)
		if again {
			step.Allow(unix.EPERM)
		}
	}
	if io := b.process.IOPriority; io != nil {
		const whoProcess = 1
		b.Add(script.IoprioSet, script.Int(whoProcess), script.Int(0), script.Int(spec.IOPriority(io))).For("process.ioPriority")
	}
}

// FirstLimit is what a limit is set to first. RLIMIT_NPROC counts the process that
// clones the last one, too: until then it is one more, and lastLimits sets it again.
func FirstLimit(r specs.POSIXRlimit) (soft, hard uint64, again bool) {
	if r.Type != processLimit {
		return r.Soft, r.Hard, false
	}
	return max(r.Soft, r.Soft+1), max(r.Hard, r.Hard+1), true // nothing is more than RLIM_INFINITY
}

const processLimit = "RLIMIT_NPROC"

func (b *builder) limit(i int, soft, hard uint64) *script.Step {
	kind := b.process.Rlimits[i].Type
	value := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, soft), hard)
	return b.Add(script.Prlimit, script.Int(0), script.Flags(uint64(spec.Rlimits[kind]), kind), b.Bytes(value, fmt.Sprintf("{%d, %d}", soft, hard)), script.Null).
		For(fmt.Sprintf("process.rlimits[%d]", i))
}

// lastLimits comes after the last clone.
func (b *builder) lastLimits() {
	for i, r := range b.process.Rlimits {
		if r.Type == processLimit {
			b.limit(i, r.Soft, r.Hard)
		}
	}
}

// enterContainer joins all namespaces of the container at once, and makes its root
// this process's.
func (b *builder) enterContainer(c *spec.Container) {
	b.joinAll(c, c.Has(specs.PIDNamespace))
	// Of a mount namespace the root is the container's, unless it is only
	// chroot that keeps the container in there.
	if !c.Has(specs.MountNamespace) {
		b.Add(script.Fchdir, b.file(File{Kind: RootDir}))
		b.Add(script.Chroot, b.CString("."))
	}
}

// joinAll joins the namespaces of the container's init, that of pids only if it is
// asked for.
func (b *builder) joinAll(c *spec.Container, pids bool) {
	init := b.file(File{Kind: InitPidfd})
	var flags uint64
	var names []string
	for _, known := range cloneFlags {
		if c.Has(known.kind) && (pids || known.kind != specs.PIDNamespace) {
			flags |= known.flag
			names = append(names, known.name)
		}
	}
	if flags != 0 {
		b.Add(script.Setns, init, script.Flags(flags, strings.Join(names, "|")))
	}
}
