package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenProc opens a context (fsopen(2)) for a procfs of the pid namespace at a
// path, whichever one the caller is in: the option pidns of Linux 6.18, before which the error
// is errors.ErrUnsupported.
func OpenProc(pids string) (*os.File, error) {
	ns, err := os.Open(pids)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	fd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	proc := os.NewFile(uintptr(fd), "procfs")
	err = unix.FsconfigSetFd(fd, "pidns", int(ns.Fd()))
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("procfs has no option pidns: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, errors.Join(err, proc.Close())
	}
	return proc, nil
}
