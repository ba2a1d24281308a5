package kernel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// EnterMounts calls f on a thread that has joined the mount namespace of the
// process. Files that f opens by path are in there; root and working directory
// of the thread are the namespace's root. Programs started by f are in the
// namespace too.
//
// The thread dies with the call: it is locked, and never unlocked, so that no
// other goroutine gets to run in there. For the process's first thread Go has
// no such end; main keeps it for itself by locking it at init time.
func (p *Process) EnterMounts(f func() error) error {
	return onThread(func() error {
		// A thread that shares its root with others may not change it.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare(CLONE_FS): %w", err)
		}
		err := p.control(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNS) })
		if err != nil {
			return fmt.Errorf("join the mount namespace of process %d: %w", p.PID, err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own, which is not used again.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
