package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

	place  string         // path where it is mounted, Target aside
	staged bool           // at a place of its own, for others to refer to
	dirs   []newDirectory // to be made before
}

func (m RootMount) line(i int) Line {
	dest := clean(m.Target)
	if m.staged {
		dest = m.place
	}
	return Line{
		Field: fmt.Sprintf("rootfs[%d]", i), Action: m.Type, Source: m.Source, Dest: dest,
		Options: strings.Join(m.Options, ","),
	}
}

// buildRoot makes the container's root at Rootfs, in the thread's mount
// namespace only: the host's table of mounts does not change, and when the last
// process of the namespace is gone so are the mounts.
func (p *Plan) buildRoot(b Builder) (*os.File, error) {
	if p.Host {
		return openRoot(p.Rootfs)
	}
	if p.peers {
		if err := isolate(p.Rootfs); err != nil {
			return nil, fmt.Errorf("root.path %s: %w", p.Rootfs, err)
		}
	}
	if p.Visible {
		return p.bindRoot(p.Rootfs)
	}
	return p.makeRoot(b)
}

// makeRoot makes the container's root at Rootfs.
func (p *Plan) makeRoot(b Builder) (*os.File, error) {
	if len(p.Root) == 0 {
		return p.bindRoot(p.source)
	}
	if err := stage(p.Rootfs, p.Root); err != nil {
		return nil, err
	}
	for i, m := range p.Root {
		err := m.makeDirectories(p.Rootfs)
		if err == nil {
			err = m.mount(m.place, b)
		}
		if err != nil {
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

// bindRoot makes the directory a mount of its own at Rootfs, as pivot_root(2)
// needs it.
func (p *Plan) bindRoot(dir string) (*os.File, error) {
	root, err := bindDirectory(dir, p.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("root.path %s: %w", dir, err)
	}
	return root, nil
}

func bindDirectory(dir, dest string) (*os.File, error) {
	from, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("it is no directory, or a symbolic link: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer from.Close()
	at := from
	if dest != dir {
		if at, err = openRoot(dest); err != nil {
			return nil, err
		}
		defer at.Close()
	}
	root, err := clone(from, true)
	if err != nil {
		return nil, err
	}
	if err := attach(root, at); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func (m RootMount) makeDirectories(stage string) error {
	for _, d := range m.dirs {
		if err := d.make(stage); err != nil {
			return err
		}
	}
	return nil
}

// mount does what containerd does with such a mount on the host (its package
// core/mount), but in the thread's mount namespace.
func (m RootMount) mount(rootfs string, b Builder) error {
	options, userns, err := idMapping(m.Options, b)
	if err != nil {
		return err
	}
	if userns != nil {
		defer userns.Close()
	}
	dir, err := m.target(rootfs)
	if err != nil {
		return err
	}
	defer dir.Close()
	o := ParseOptions(options)
	switch {
	case o.Bind || m.Type == "bind":
		return m.bind(dir, o, userns)
	case m.Type == "overlay" && userns != nil:
		// Its layers are mapped, and not the overlay itself, whose upper layer
		// has the container's ids already.
		if m.Options, err = mapLayers(dir, options, rootfs, userns); err != nil {
			return err
		}
		return m.mount(rootfs, b)
	}
	if err := m.superblock(dir, o); err != nil || len(o.Propagation) == 0 && userns == nil {
		return err
	}
	made, err := m.target(rootfs) // again: it is another directory now
	if err != nil {
		return err
	}
	defer made.Close()
	if userns == nil {
		return propagate(made, o)
	}
	// Only what is not attached can be mapped: a copy takes the mount's place.
	tree, err := clone(made, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	return m.put(tree, made, o, userns)
}

// superblock mounts a file system, of a device or of a file.
func (m RootMount) superblock(dir *os.File, o Options) error {
	if info, err := os.Stat(m.Source); slices.Contains(o.Data, "loop") || m.Type == "erofs" && err == nil && info.Mode().IsRegular() {
		return m.mountImage(dir, o)
	}
	return m.fileSystem(dir, o)
}

// fileSystem mounts by mount(2), whose options, in one string, have no limit but
// a page for all of them, and are shown as they are given.
func (m RootMount) fileSystem(dir *os.File, o Options) error {
	data := strings.Join(o.Data, ",")
	if m.Type == "overlay" && len(data) >= os.Getpagesize() {
		return mountLongOverlay(dir, o)
	}
	target := fmt.Sprintf("/proc/thread-self/fd/%d", dir.Fd())
	return os.NewSyscallError("mount", unix.Mount(m.Source, target, m.Type, mountFlags(o), data))
}

func (m RootMount) bind(dir *os.File, o Options, userns *os.File) error {
	tree, err := openTree(unix.AT_FDCWD, m.Source, 0, o.Recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := setFlags(tree, o.Attrs); err != nil {
		return err
	}
	return m.put(tree, dir, o, userns)
}

// put attaches a mount, of which ids are mapped if userns is not nil.
func (RootMount) put(tree, dir *os.File, o Options, userns *os.File) error {
	if userns != nil {
		if err := mapIDs(tree, userns, false); err != nil {
			return err
		}
	}
	if err := attach(tree, dir); err != nil {
		return err
	}
	return propagate(tree, o)
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
