package plan

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/script"
)

// enter is how every script starts, on the host: what is written to the host's
// /proc about the process itself, while it may still open those files; then it
// is closed to ptrace(2) and to looks at its descriptors, and keeps only those
// that the script uses.
func (b *builder) enter() {
	if adj := b.process.OOMScoreAdj; adj != nil {
		b.write("/proc/self/oom_score_adj", fmt.Sprintf("%d", *adj), "process.oomScoreAdj")
	}
	if profile := b.process.ApparmorProfile; profile != "" {
		b.label("apparmor/", "exec "+profile, "process.apparmorProfile").Fails(fmt.Sprintf("process.apparmorProfile: %q, is it loaded?", profile))
	}
	if label := b.process.SelinuxLabel; label != "" {
		b.label("", label, "process.selinuxLabel").Fails(fmt.Sprintf("process.selinuxLabel: %q", label))
		if !b.options.NoNewKeyring {
			b.write("/proc/self/attr/keycreate", label, "process.selinuxLabel")
		}
	}
	b.hide("nobody may trace it or look into its descriptors")
	control := script.Int(script.ControlFD)
	b.Add(script.CloseRange, control, control, script.Flags(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC")).
		Because("the shim sees it close when execve succeeds")
}

// hide keeps what others of its user could do to the process. It is done again
// after every change of who the process is, for which the kernel takes
// /proc/sys/fs/suid_dumpable, and some hosts have that as 1 (proc(5)).
func (b *builder) hide(why string) {
	b.Add(script.Prctl, script.Flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), script.Int(0)).Because(why)
}

// closeRest closes all descriptors but the streams and the socket, also such of the
// shim as are not close-on-exec, should there be any (CVE-2024-21626).
func (b *builder) closeRest(why string) {
	b.Add(script.CloseRange, script.Int(script.ScriptFD), script.Flags(^uint32(0), "~0"), script.Int(0)).Because(why)
}

// write writes to a file that exists.
func (b *builder) write(path, text, field string) *script.Step {
	fd := b.Cell("fd")
	b.Add(script.Openat, atFDCWD, b.CString(path), script.Flags(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC")).Into(fd).For(field)
	step := b.writeTo(fd.Arg(), text).For(field)
	b.Add(script.Close, fd.Arg())
	return step
}

func (b *builder) writeTo(fd script.Arg, text string) *script.Step {
	return b.Add(script.Write, fd, b.CString(text), script.Int(len(text)))
}

// label sets what a security module makes of the process when it executes the
// payload. It is written to the host's /proc, which no image can fake.
func (b *builder) label(module, text, field string) *script.Step {
	return b.write("/proc/self/attr/"+module+"exec", text, field)
}

// joinTasks puts the process, which has one thread, into the cgroup v1
// hierarchies. Written to tasks, "0" does not wait for a grace period of RCU as
// a pid written to cgroup.procs does: 0.05 against 10 ms on an idle host.
func (b *builder) joinTasks() {
	for range b.host.Tasks {
		b.writeTo(b.file(File{Kind: Tasks}), "0").Because("into the cgroup")
	}
}

// clone goes on in a clone of the process, which is a child of the shim too. It
// is born in the container's cgroup v2 if cgroup is set.
func (b *builder) clone(flags uint64, names []string, cgroup bool, because string) {
	flags |= unix.CLONE_PARENT
	names = append([]string{"CLONE_PARENT"}, names...)
	// struct clone_args of clone(2): flags is the first field, cgroup the last.
	args := make([]byte, 88)
	if cgroup {
		flags |= unix.CLONE_INTO_CGROUP
		names = append(names, "CLONE_INTO_CGROUP")
		dir := b.file(File{Kind: CgroupDir})
		binary.LittleEndian.PutUint64(args[80:], dir.Value())
	}
	binary.LittleEndian.PutUint64(args, flags)
	b.Add(script.Clone3, b.Bytes(args, "{"+strings.Join(names, "|")+"}"), script.Int(len(args))).Into(b.pid).Because(because)
	b.goOnInClone()
}

// enterPIDs goes on in a clone that is in the pid namespace which was joined. Not
// by clone3, which many seccomp filters refuse, as they cannot look into its
// argument.
func (b *builder) enterPIDs() {
	zero := script.Int(0)
	b.Add(script.Clone, script.Flags(unix.CLONE_PARENT, "CLONE_PARENT"), zero, zero, zero, zero).Into(b.pid).
		Because("into the pid namespace")
	b.goOnInClone()
	b.report(Cloned)
}

// goOnInClone ends the process that has cloned.
func (b *builder) goOnInClone() {
	child := b.Label("child")
	b.Jump(b.pid.Arg(), script.Int(0), child)
	b.Add(script.Exit, script.Int(0))
	b.Place(child)
}

// session makes the process the leader of a session, which has the terminal, if
// there is one.
func (b *builder) session() {
	b.Add(script.Setsid).Allow(unix.EPERM) // it is one already
	if b.process.Terminal {
		b.Add(script.Ioctl, script.Int(0), script.Flags(unix.TIOCSCTTY, "TIOCSCTTY"), script.Int(0)).For("process.terminal")
	}
}

// execute is how every script ends.
func (b *builder) execute() {
	if b.process.NoNewPrivileges && !b.loaded {
		b.seccomp()
		b.listener()
	}
	b.Add(script.Execve, b.path.Arg(), b.Strings(b.process.Args, ""), b.environment()).Fails(fmt.Sprintf("exec %q", b.process.Args[0]))
	b.End()
}
