package mounts

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bind is a file or directory of the host.
type bind struct {
	field    string
	source   string // path on the host
	dest     string
	options  Options
	mappings *Mappings // of an idmapped mount, nil for the container's
}

// Line describes the operation.
func (b *bind) Line() Line {
	return Line{Field: b.field, Action: "bind", Source: b.source, Dest: b.dest, Options: b.options.String()}
}

func (b *bind) do(t *tree) error {
	if err := b.place(t); err != nil {
		return b.explain(err)
	}
	return nil
}

func (b *bind) explain(err error) error {
	return fmt.Errorf("mount %s (%s, bind %s): %w", b.dest, b.field, b.source, err)
}

func (b *bind) place(t *tree) error {
	tree, err := b.tree(t)
	if err != nil {
		return err
	}
	defer tree.Close()
	dest, err := b.destination(t, tree)
	if err != nil {
		return err
	}
	defer dest.Close()
	// Flags are set before anyone can see the mount.
	if err := setFlags(tree, b.options.Attrs); err != nil {
		return err
	}
	if err := setRecursively(tree, b.options); err != nil {
		return err
	}
	if b.options.IDMap {
		userns, err := t.UserNS(b.mappings)
		if err != nil {
			return err
		}
		defer userns.Close()
		if err := mapIDs(tree, userns, b.options.RIDMap); err != nil {
			return err
		}
	}
	if err := attach(tree, dest); err != nil {
		return err
	}
	return propagate(tree, b.options)
}

// tree is the source as a detached tree of mounts. It is cloned in the
// container's mount namespace: a clone made in the host's would not have the
// locks that keep a container with a user namespace from clearing, say, the
// read-only flag of a host's mount.
func (b *bind) tree(t *tree) (*os.File, error) {
	if tree, ok := t.sources[b]; ok {
		delete(t.sources, b)
		return tree, nil
	}
	tree, err := openTree(unix.AT_FDCWD, b.source, 0, b.options.Recursive)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("source does not exist: %w", err)
	}
	return tree, err
}

// destination opens what the source is mounted on: a directory for a directory,
// a file for everything else. It is made if it is missing.
func (b *bind) destination(t *tree, source *os.File) (*os.File, error) {
	info, err := source.Stat()
	if err != nil {
		return nil, err
	}
	dest, err := t.root.Open(b.dest, unix.O_PATH)
	switch {
	case errors.Is(err, unix.ENOENT) && info.IsDir():
		dest, err = t.root.MkdirMissing(b.dest)
	case errors.Is(err, unix.ENOENT):
		dest, err = t.root.CreateFile(b.dest)
	}
	if err != nil {
		return nil, err
	}
	if err := checkKind(info, dest); err != nil {
		return nil, errors.Join(err, dest.Close())
	}
	if err := t.checkProc(dest, "bind", source); err != nil {
		return nil, errors.Join(err, dest.Close())
	}
	return dest, nil
}

// CheckKind avoids the text "is a directory": Docker Engine, which goes by texts,
// takes an error with it for a program that can't be executed.
func checkKind(source os.FileInfo, dest *os.File) error {
	info, err := dest.Stat()
	switch {
	case err != nil:
		return err
	case source.IsDir() && !info.IsDir():
		return fmt.Errorf("a directory does not go onto a file: %w", unix.ENOTDIR)
	case !source.IsDir() && info.IsDir():
		return fmt.Errorf("a file does not go onto a directory: %w", unix.ENOTDIR)
	}
	return nil
}

// flagAttrs are the attributes that are plain flags of a mount.
const flagAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
	unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW

// setFlags gives a bind mount the flags that were asked for. As with mount(8)
// and runc, a bind with any flag has just those, and one with none has the
// source's. Access times are as in the source unless something is said of them.
func setFlags(tree *os.File, a Attrs) error {
	if a.empty() {
		return nil
	}
	asked := a.Clear
	a.Clear |= flagAttrs &^ a.Set
	err := setattr(tree, unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear}, false)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// In a user namespace, flags of the host's mounts are locked: they are kept,
	// unless it is them that should be cleared.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(tree.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	kept := statfsAttrs(fs.Flags) & flagAttrs
	if asked&kept != 0 {
		return fmt.Errorf("cannot clear locked flags: %w", err)
	}
	a.Clear &^= kept
	return setattr(tree, unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear}, false)
}

// statfsAttrs are the flags of a mount, as statfs(2) tells them, in the bits of
// mount_setattr(2).
func statfsAttrs(flags int64) (attrs uint64) {
	const stNoSymFollow = 0x2000
	for _, f := range []struct {
		st   int64
		attr uint64
	}{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{stNoSymFollow, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&f.st != 0 {
			attrs |= f.attr
		}
	}
	return attrs
}

// mapIDs makes the owners of files appear as the user namespace maps them
// (MOUNT_ATTR_IDMAP, Linux 5.12).
func mapIDs(tree, userns *os.File, recursive bool) error {
	return setattr(tree, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}, recursive)
}
