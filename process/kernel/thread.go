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

// EnterNamespaces is EnterMounts for several namespaces, bits of CLONE_NEW*. A
// program with threads cannot join a user or time namespace, and of a pid namespace
// only its children are members.
func (p *Process) EnterNamespaces(flags int, f func() error) error {
	return Apart(func() error {
		if err := p.Use(func(fd int) error { return unix.Setns(fd, flags) }); err != nil {
			return fmt.Errorf("join namespaces of process %d: %w", p.PID, err)
		}
		return f()
	})
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
