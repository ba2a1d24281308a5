package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Supported is nil if this kernel has what every container takes: clone3,
// CLONE_INTO_CGROUP, pidfd_getfd, openat2, the mount API of descriptors,
// mount_setattr, close_range.
func Supported() error {
	release, err := release()
	if err == nil && !atLeast(release, 5, 15) {
		err = fmt.Errorf("this is Linux %s, and containers need 5.15 or newer", release)
	}
	return err
}

// SwitchesTime says whether a process is in its new time namespace after execve:
// since Linux 6.1; before, only its children were (fs/exec.c, exec_mmap).
func SwitchesTime() (bool, error) {
	release, err := release()
	return atLeast(release, 6, 1), err
}

func release() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// atLeast compares a release, as "6.1.0-18-amd64", with a version.
func atLeast(release string, major, minor int) bool {
	var x, y int
	_, _ = fmt.Sscanf(release, "%d.%d", &x, &y)
	return x > major || x == major && y >= minor
}
