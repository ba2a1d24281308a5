package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"

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

// VerifyProc makes sure that a file is a context for a procfs. Whoever has got hold
// of the process that opened it may have made it one for something else, and may do
// with it what he can: configured and created by us, it would be a file system that
// he may not have.
func VerifyProc(context *os.File) error {
	link, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", context.Fd()))
	if err != nil {
		return err
	}
	if link != "anon_inode:[fscontext]" { // of which reads do not wait
		return fmt.Errorf("%s is not the context of a file system", link)
	}
	// The kernel refuses an option that procfs does not have in its name. There are
	// file systems that take any.
	const option = "no-such-option"
	err = unix.FsconfigSetFlag(int(context.Fd()), option)
	if !errors.Is(err, unix.EINVAL) {
		return errors.Join(errors.New("the context is not one for a procfs: it takes any option"), err)
	}
	message := make([]byte, 1024)
	for range 8 { // those that a context keeps
		n, err := unix.Read(int(context.Fd()), message)
		if err != nil {
			break
		}
		if strings.TrimSpace(string(message[:n])) == "e proc: Unknown parameter '"+option+"'" {
			return nil
		}
	}
	return errors.New("the context is not one for a procfs")
}
