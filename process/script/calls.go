package script

import "golang.org/x/sys/unix"

// The system calls that scripts are made of.
var (
	Access        = Call{unix.SYS_FACCESSAT2, "faccessat2"}
	Capset        = Call{unix.SYS_CAPSET, "capset"}
	Clone         = Call{unix.SYS_CLONE, "clone"}
	Clone3        = Call{unix.SYS_CLONE3, "clone3"}
	Close         = Call{unix.SYS_CLOSE, "close"}
	CloseRange    = Call{unix.SYS_CLOSE_RANGE, "close_range"}
	Chdir         = Call{unix.SYS_CHDIR, "chdir"}
	Chroot        = Call{unix.SYS_CHROOT, "chroot"}
	Dup3          = Call{unix.SYS_DUP3, "dup3"}
	Execve        = Call{unix.SYS_EXECVE, "execve"}
	Exit          = Call{unix.SYS_EXIT_GROUP, "exit_group"}
	Fchdir        = Call{unix.SYS_FCHDIR, "fchdir"}
	Fsconfig      = Call{unix.SYS_FSCONFIG, "fsconfig"}
	Fsmount       = Call{unix.SYS_FSMOUNT, "fsmount"}
	Fsopen        = Call{unix.SYS_FSOPEN, "fsopen"}
	Ioctl         = Call{unix.SYS_IOCTL, "ioctl"}
	IoprioSet     = Call{unix.SYS_IOPRIO_SET, "ioprio_set"}
	Keyctl        = Call{unix.SYS_KEYCTL, "keyctl"}
	Mount         = Call{unix.SYS_MOUNT, "mount"}
	Openat        = Call{unix.SYS_OPENAT, "openat"}
	Openat2       = Call{unix.SYS_OPENAT2, "openat2"}
	Personality   = Call{unix.SYS_PERSONALITY, "personality"}
	PivotRoot     = Call{unix.SYS_PIVOT_ROOT, "pivot_root"}
	Prlimit       = Call{unix.SYS_PRLIMIT64, "prlimit64"}
	Prctl         = Call{unix.SYS_PRCTL, "prctl"}
	Read          = Call{unix.SYS_READ, "read"}
	Recvmsg       = Call{unix.SYS_RECVMSG, "recvmsg"}
	SchedAffinity = Call{unix.SYS_SCHED_SETAFFINITY, "sched_setaffinity"}
	Seccomp       = Call{unix.SYS_SECCOMP, "seccomp"}
	Setdomainname = Call{unix.SYS_SETDOMAINNAME, "setdomainname"}
	SetMempolicy  = Call{unix.SYS_SET_MEMPOLICY, "set_mempolicy"}
	Setgroups     = Call{unix.SYS_SETGROUPS, "setgroups"}
	Sethostname   = Call{unix.SYS_SETHOSTNAME, "sethostname"}
	Setns         = Call{unix.SYS_SETNS, "setns"}
	Setresgid     = Call{unix.SYS_SETRESGID, "setresgid"}
	Setresuid     = Call{unix.SYS_SETRESUID, "setresuid"}
	Setsid        = Call{unix.SYS_SETSID, "setsid"}
	Socket        = Call{unix.SYS_SOCKET, "socket"}
	Umask         = Call{unix.SYS_UMASK, "umask"}
	Umount        = Call{unix.SYS_UMOUNT2, "umount2"}
	Unshare       = Call{unix.SYS_UNSHARE, "unshare"}
	Write         = Call{unix.SYS_WRITE, "write"}
)
