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
	target, done, err := m.target(rootfs)
	if err != nil {
		return err
	}
	defer done()
	o := ParseOptions(m.Options)
	for _, name := range m.Options {
		if strings.HasPrefix(name, "X-containerd.") {
			return fmt.Errorf("option %s: it is for containerd's mount manager, not for a runtime", name)
		}
	}
	if o.Bind || m.Type == "bind" {
		return m.bind(target, o)
	}
	data := strings.Join(o.Data, ",")
	if m.Type == "overlay" && len(data) >= os.Getpagesize() {
		return mountLongOverlay(target, o)
	}
	if err := unix.Mount(m.Source, target, m.Type, mountFlags(o), data); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return propagateAt(target, o)
}

// target is the path to mount on: the root itself by its path on the host, and
// what is below it by a descriptor, since it may have been made by the image.
func (m RootMount) target(rootfs string) (path string, done func(), err error) {
	if clean(m.Target) == "/" {
		return rootfs, func() {}, os.MkdirAll(rootfs, 0o711)
	}
	root, err := openRoot(rootfs)
	if err != nil {
		return "", nil, err
	}
	defer root.Close()
	dir, err := kernel.Root{File: root}.MkdirAll(m.Target)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/thread-self/fd/%d", dir.Fd()), func() { dir.Close() }, nil
}

func (m RootMount) bind(target string, o Options) error {
	tree, err := openTree(unix.AT_FDCWD, m.Source, 0, o.Recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := setFlags(tree, o.Attrs); err != nil {
		return err
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
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

func propagateAt(target string, o Options) error {
	for _, p := range o.Propagation {
		flags := uintptr(p.Type)
		if p.Recursive {
			flags |= unix.MS_REC
		}
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}
