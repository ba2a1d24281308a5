package mounts

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// OpenTerminal makes a new terminal in the container's own devpts and returns
// both its ends. What is at /dev/pts may have been made by the image: only the
// kernel's own node will do, and the other end is not looked up by a name
// (CVE-2025-52565).
func OpenTerminal(root *os.File) (master, slave *os.File, err error) {
	node, err := kernel.Root{File: root}.Open("/dev/pts/ptmx", unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, nil, fmt.Errorf("process.terminal: there is no devpts in the container: %w", err)
	}
	defer node.Close()
	if err := verifyPtmx(node); err != nil {
		return nil, nil, fmt.Errorf("process.terminal: /dev/pts/ptmx: %w", err)
	}
	path := fmt.Sprintf("/proc/thread-self/fd/%d", node.Fd())
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/pts/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("TIOCSPTLCK", err), master.Close())
	}
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return nil, nil, errors.Join(os.NewSyscallError("TIOCGPTPEER", errno), master.Close())
	}
	return master, os.NewFile(peer, "pts"), nil
}

// OpenNull opens the container's /dev/null, and makes sure that it is one.
func OpenNull(root *os.File, flags int) (*os.File, error) {
	node, err := kernel.Root{File: root}.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	if err := nullDevice.verify(node); err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/proc/thread-self/fd/%d", node.Fd()), flags, 0)
}

// verifyPtmx makes sure that the node is the master of a devpts.
func verifyPtmx(node *os.File) error {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(node.Fd()), &fs), unix.Fstat(int(node.Fd()), &st)); err != nil {
		return err
	}
	const ptmxInode = 2
	if fs.Type != unix.DEVPTS_SUPER_MAGIC || st.Ino != ptmxInode || st.Rdev != unix.Mkdev(5, 2) {
		return errors.New("it is not the kernel's")
	}
	return nil
}

// bindConsole puts a terminal at /dev/console of the container.
func bindConsole(root kernel.Root, slave *os.File) error {
	dir, name, err := root.Parent("/dev/console")
	if err != nil {
		return err
	}
	defer dir.Close()
	file, err := mountPoint(dir, name)
	if err != nil {
		return err
	}
	defer file.Close()
	tree, err := clone(slave, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	return attach(tree, file)
}
