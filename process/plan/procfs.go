package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
)

// ProcOpener is a process that opens a context (fsopen(2)) for a procfs of a pid
// namespace. Its last report is Opened, with the descriptor in Context.
type ProcOpener struct {
	Script
	Context script.Cell
}

// NewProcOpener compiles one for a pid namespace given by path, and a container's
// cgroup.
//
// The process has to be in the namespace: that of a procfs is the one of who
// opens its context. Others in there see it, and with CAP_SYS_PTRACE can do with
// it as they like. So what it has by then is worth nothing: no descriptor but its
// socket's, an empty root, and a filter that lets it open contexts, for which it
// takes CAP_SYS_ADMIN, and nothing else. Which file system that is a context of
// cannot be seen by a filter: the shim looks (kernel.VerifyProc) before it makes
// anything of it.
func NewProcOpener(pids specs.LinuxNamespace, host Host) (*ProcOpener, error) {
	filter, err := seccomp.Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActKillProcess,
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: unix.CLONE_PARENT, Op: specs.OpEqualTo}}},
			{Names: []string{"fsopen", "write", "read", "exit_group"}, Action: specs.ActAllow},
		},
	})
	if err != nil {
		return nil, err
	}
	b := newBuilder(host, Options{}, &specs.Process{NoNewPrivileges: true}, filter)
	b.enter()
	b.joinTasks()
	if host.CgroupDir {
		b.clone(0, nil, true, "into the cgroup")
		b.report(Cloned)
	}
	b.join(&pids)
	root := b.super(mounts.EmptyDirectory)
	b.Add(script.Fchdir, root.Arg())
	b.Add(script.Chroot, b.CString(".")).Because("nothing can be found in there")
	b.closeRest("nor here")
	for fd := range script.ControlFD {
		b.Add(script.Close, script.Int(fd))
	}
	const admin = 1 << unix.CAP_SYS_ADMIN
	b.capset(&caps.Sets{Effective: admin, Permitted: admin})
	b.prctl(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS", 1)
	b.seccomp()
	b.enterPIDs()
	b.Add(script.Fsopen, b.CString("proc"), script.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Into(b.context)
	b.report(Opened)
	b.Wait()
	b.End()
	return &ProcOpener{Script: b.Script, Context: b.context}, nil
}
