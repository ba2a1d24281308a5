package mounts

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Show puts the root of a plan that is Visible at Rootfs, in the mount namespace
// of the calling thread, which must be apart (kernel.Apart). Hide is called in
// every case then, also after an error. Of b only UserNS is used.
func (p *Plan) Show(b Builder) error {
	unix.Umask(0)
	if err := os.MkdirAll(p.Rootfs, 0o711); err != nil {
		return err
	}
	root, err := p.makeRoot(b)
	if err != nil {
		return err
	}
	defer root.Close()
	// What the container's mounts are, without a mount namespace, shall not
	// reach those that have a copy of the host's tree.
	return setattr(root, unix.MountAttr{Propagation: unix.MS_PRIVATE}, true)
}

// Hide takes away what Show, and Build without a mount namespace, have mounted.
// It is for a container of which no process is left: lazily, since a shell that
// somebody has left in there must not keep the container from being deleted.
func Hide(rootfs string) error {
	for {
		err := unix.Unmount(rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no mount, or no more
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", rootfs, err)
		}
	}
}
