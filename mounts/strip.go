package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// strip takes the host's proc and sysfs out of the mount namespace of the calling
// thread. It is for a root that is moved over the old one: that stays below it,
// out of reach, but the kernel, which lets a user namespace mount a new proc only
// where there is an old one without masks (mount_too_revealing in
// fs/namespace.c), would find it there. Build has made the old tree a slave, so
// that the host keeps what is unmounted here.
func strip(root *os.File) error {
	// The links and the table are those of the host's /proc.
	rootfs, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", root.Fd()))
	if err != nil {
		return err
	}
	table, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	found, err := mountinfo.GetMountsFromReader(table, func(m *mountinfo.Info) (skip, stop bool) {
		own := m.Mountpoint == rootfs || strings.HasPrefix(m.Mountpoint, rootfs+"/")
		return own || m.Root != "/" || m.FSType != "proc" && m.FSType != "sysfs", false
	})
	if err != nil {
		return err
	}
	for _, m := range found {
		if err := takeAway(m.Mountpoint); err != nil {
			return fmt.Errorf("take the host's %s away: %w", m.Mountpoint, err)
		}
	}
	return nil
}

func takeAway(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil // it went with one above it
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return err
	}
	// In a user namespace the host's mounts are locked, but can be covered.
	at, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer at.Close()
	empty, err := newMount(EmptyDirectory)
	if err != nil {
		return err
	}
	defer empty.Close()
	return attach(empty, at)
}
