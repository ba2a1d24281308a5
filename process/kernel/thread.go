package kernel

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// EnterMounts calls f on a thread that has joined the mount namespace of the
// process. Files that f opens by path are in there; root and working directory
// of the thread are the namespace's root. Programs started by f are in the
// namespace too.
//
// The thread dies with the call, see Apart.
func (p *Process) EnterMounts(f func() error) error {
	return p.EnterNamespaces(unix.CLONE_NEWNS, f)
}

// EnterNamespaces is EnterMounts for several namespaces, bits of CLONE_NEW*.
// Into a pid namespace only the programs get that f starts; it is the one that
// the children of the process are in. Into a user namespace no thread gets.
func (p *Process) EnterNamespaces(flags int, f func() error) error {
	return Apart(func() error {
		if flags&unix.CLONE_NEWPID != 0 {
			if err := p.joinPIDs(); err != nil {
				return err
			}
			flags &^= unix.CLONE_NEWPID
		}
		if flags != 0 { // setns(2) wants at least one
			if err := p.Use(func(fd int) error { return unix.Setns(fd, flags) }); err != nil {
				return fmt.Errorf("join namespaces of process %d: %w", p.PID, err)
			}
		}
		return f()
	})
}

func (p *Process) joinPIDs() error {
	ns, err := os.Open(p.PIDNamespace())
	if err != nil {
		return err
	}
	defer ns.Close()
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID))
}

// Apart calls f on a thread that has a root, a working directory and a umask of
// its own; one that shares its root with others may not join a mount namespace.
//
// The thread dies with the call: it is locked, and never unlocked, so that no
// other goroutine gets to run on it. For the process's first thread Go has no
// such end; main keeps it for itself by locking it at init time.
func Apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_FS))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
