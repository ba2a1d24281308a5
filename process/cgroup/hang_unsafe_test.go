package cgroup

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hang waits, in the middle of a write, for a page that never comes: see
// userfaultfd(2). A process can be killed there, but not frozen.
func hang() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	// The arguments of UFFDIO_API and UFFDIO_REGISTER, the latter for missing pages.
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc018aa3f, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return os.NewSyscallError("UFFDIO_API", errno)
	}
	register := struct{ start, length, mode, ioctls uint64 }{uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page)), 1, 0}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc020aa00, uintptr(unsafe.Pointer(&register))); errno != 0 {
		return os.NewSyscallError("UFFDIO_REGISTER", errno)
	}
	_, w, err := os.Pipe()
	if err != nil {
		return err
	}
	_, err = unix.Write(int(w.Fd()), page)
	return err
}
