package mounts

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is one that must exist; it is made with those above it.
type directory struct{ field, path string }

// Line describes the operation.
func (d *directory) Line() Line { return Line{Field: d.field, Action: "directory", Dest: d.path} }

func (d *directory) do(t *tree) error {
	dir, err := t.root.MkdirAll(d.path)
	switch {
	case err == nil:
		return dir.Close()
	case errors.Is(err, unix.EACCES): // root may not, on NFS; the user may
		return nil
	}
	return fmt.Errorf("make directory %s (%s): %w", d.path, d.field, err)
}

// rootReadonly makes the root read-only; what is mounted below it is not.
type rootReadonly struct{}

// Line describes the operation.
func (*rootReadonly) Line() Line { return Line{Field: "root.readonly", Action: "read-only", Dest: "/"} }

func (*rootReadonly) do(t *tree) error {
	err := setattr(t.root.File, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
	if err != nil {
		return fmt.Errorf("make the root read-only (root.readonly): %w", err)
	}
	return nil
}

// readonly makes a path read-only. Like runc it leaves out mounts below it, and
// paths that do not exist.
type readonly struct{ field, path string }

// Line describes the operation.
func (r *readonly) Line() Line { return Line{Field: r.field, Action: "read-only", Dest: r.path} }

func (r *readonly) do(t *tree) error {
	if err := r.place(t); err != nil {
		return fmt.Errorf("make %s read-only (%s): %w", r.path, r.field, err)
	}
	return nil
}

func (r *readonly) place(t *tree) error {
	dest, err := t.openTarget(r.path)
	if dest == nil {
		return err
	}
	defer dest.Close()
	tree, err := clone(dest, true)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := setattr(tree, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
		return err
	}
	return attach(tree, dest)
}

// mask hides a path: a directory behind an empty one with that SELinux context, a
// file behind /dev/null.
type mask struct{ field, path, label string }

// Line describes the operation.
func (m *mask) Line() Line { return Line{Field: m.field, Action: "mask", Dest: m.path} }

func (m *mask) do(t *tree) error {
	if err := m.place(t); err != nil {
		return fmt.Errorf("mask %s (%s): %w", m.path, m.field, err)
	}
	return nil
}

func (m *mask) place(t *tree) error {
	dest, err := t.openTarget(m.path)
	if dest == nil {
		return err
	}
	defer dest.Close()
	cover, err := t.cover(dest, m.label)
	if err != nil {
		return err
	}
	if cover != t.empty {
		defer cover.Close()
	}
	return attach(cover, dest)
}

// openTarget opens a path to be masked or made read-only, nil if it does not
// exist. A link is followed, as under runc, but for those of procfs, which lead each
// process to something else.
func (t *tree) openTarget(name string) (*os.File, error) {
	if of := ownLink(name); of != "" {
		return nil, fmt.Errorf("%s is another one for every process", of)
	}
	f, err := t.root.Open(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return f, err
}

// ownLink is the link of procfs, if any, that a path leads through.
func ownLink(name string) string {
	for _, link := range []string{"/proc/self", "/proc/thread-self", "/proc/mounts", "/proc/net"} {
		if strings.HasPrefix(name+"/", link+"/") {
			return link
		}
	}
	return ""
}

// cover is a detached mount to hide a file or directory behind.
func (t *tree) cover(hidden *os.File, label string) (*os.File, error) {
	info, err := hidden.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nullFile()
	case t.empty != nil:
		return clone(t.empty, false)
	}
	// One file system for all masked directories of the container, as every
	// superblock costs time when the container is gone. The first use attaches
	// it; a mount that is not attached could not be cloned before Linux 6.15.
	s := EmptyDirectory
	s.Params = append(slices.Clone(s.Params), contextOption(label)...)
	t.empty, err = newMount(s)
	return t.empty, err
}

// EmptyDirectory is a file system with nothing in it.
var EmptyDirectory = Super{Type: "tmpfs", Attrs: unix.MOUNT_ATTR_RDONLY, Params: []Param{
	{Key: "source", Value: "tmpfs"}, {Key: "ro", Flag: true},
	{Key: "nr_blocks", Value: "1"}, {Key: "nr_inodes", Value: "1"},
}}

// nullFile is a detached mount of /dev/null: the host's, not that in the
// container, which may have been made by the image (CVE-2025-31133).
func nullFile() (*os.File, error) {
	null, err := openTree(unix.AT_FDCWD, "/dev/null", 0, false)
	if err != nil {
		return nil, err
	}
	err = nullDevice.verify(null)
	if err == nil {
		const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
		err = setattr(null, unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE}, false)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the host's /dev/null: %w", err), null.Close())
	}
	return null, nil
}
