package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// RootMount is one of the mounts that make the root file system, in the words of
// containerd (containerd.types.Mount).
type RootMount struct {
	Type, Source string
	Target       string // below the root, "" for the root itself
	Options      []string
}

func (m RootMount) line(i int) Line {
	return Line{
		Field: fmt.Sprintf("rootfs[%d]", i), Action: m.Type, Source: m.Source, Dest: clean(m.Target),
		Options: strings.Join(m.Options, ","),
	}
}

// buildRoot makes the container's root at Rootfs, in the thread's mount
// namespace only: the host's table of mounts does not change, and when the last
// process of the namespace is gone so are the mounts.
func (p *Plan) buildRoot() (*os.File, error) {
	if err := isolate(p.Rootfs); err != nil {
		return nil, fmt.Errorf("root.path %s: %w", p.Rootfs, err)
	}
	if len(p.Root) == 0 {
		root, err := bindRoot(p.Rootfs)
		if err != nil {
			return nil, fmt.Errorf("root.path %s: %w", p.Rootfs, err)
		}
		return root, nil
	}
	for i, m := range p.Root {
		if err := m.mount(p.Rootfs); err != nil {
			return nil, fmt.Errorf("mount the root (%s): %w", m.line(i), err)
		}
	}
	root, err := openRoot(p.Rootfs)
	if err != nil {
		return nil, err
	}
	// pivot_root(2) wants it so, and nothing mounted in there shall go out.
	if err := setattr(root, unix.MountAttr{Propagation: unix.MS_PRIVATE}, false); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func openRoot(name string) (*os.File, error) {
	return os.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// isolate keeps the mount that the root will stand on from having peers, so
// that the root is not propagated to them: with rootfsPropagation shared, the
// host would be one.
func isolate(dir string) error {
	for {
		err := unix.Mount("", dir, "", unix.MS_PRIVATE, "")
		if !errors.Is(err, unix.EINVAL) || dir == "/" { // EINVAL: no mount point
			return os.NewSyscallError("mount", err)
		}
		dir = filepath.Dir(dir)
	}
}

// bindRoot makes the directory a mount of its own, as pivot_root(2) needs it.
func bindRoot(dir string) (*os.File, error) {
	at, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("it is no directory, or a symbolic link: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	root, err := clone(at, true)
	if err != nil {
		return nil, err
	}
	if err := attach(root, at); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// mount does what containerd does with such a mount on the host (its package
// core/mount), but in the thread's mount namespace.
func (m RootMount) mount(rootfs string) error {
	dir, err := m.target(rootfs)
	if err != nil {
		return err
	}
	defer dir.Close()
	target := fmt.Sprintf("/proc/thread-self/fd/%d", dir.Fd())
	o := ParseOptions(m.Options)
	for _, name := range m.Options {
		if strings.HasPrefix(name, "X-containerd.") {
			return fmt.Errorf("option %s: it is for containerd's mount manager, not for a runtime", name)
		}
	}
	if o.Bind || m.Type == "bind" {
		return m.bind(dir, o)
	}
	data := strings.Join(o.Data, ",")
	if m.Type == "overlay" && len(data) >= os.Getpagesize() {
		return mountLongOverlay(dir, o)
	}
	if err := unix.Mount(m.Source, target, m.Type, mountFlags(o), data); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if len(o.Propagation) == 0 {
		return nil
	}
	made, err := m.target(rootfs) // again: it is another directory now
	if err != nil {
		return err
	}
	defer made.Close()
	return propagate(made, o)
}

// target opens the directory to mount on. What is below the root may have been
// made by the image.
func (m RootMount) target(rootfs string) (*os.File, error) {
	if clean(m.Target) == "/" {
		if err := os.MkdirAll(rootfs, 0o711); err != nil {
			return nil, err
		}
		return openRoot(rootfs)
	}
	root, err := openRoot(rootfs)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return kernel.Root{File: root}.MkdirAll(m.Target)
}

func (m RootMount) bind(dir *os.File, o Options) error {
	tree, err := openTree(unix.AT_FDCWD, m.Source, 0, o.Recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := setFlags(tree, o.Attrs); err != nil {
		return err
	}
	if err := attach(tree, dir); err != nil {
		return err
	}
	return propagate(tree, o)
}

// mountFlags are the options in the bits of mount(2).
func mountFlags(o Options) (flags uintptr) {
	for _, f := range []struct {
		attr uint64
		ms   uintptr
	}{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
		{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
		{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
	} {
		if o.has(f.attr) {
			flags |= f.ms
		}
	}
	switch o.Attrs.Set & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		flags |= unix.MS_NOATIME
	case unix.MOUNT_ATTR_STRICTATIME:
		flags |= unix.MS_STRICTATIME
	}
	supers := map[string]uintptr{
		"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "mand": unix.MS_MANDLOCK,
		"lazytime": unix.MS_LAZYTIME, "iversion": unix.MS_I_VERSION, "silent": unix.MS_SILENT,
	}
	for _, name := range o.Super {
		flags |= supers[name]
	}
	return flags
}
