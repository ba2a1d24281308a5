package mounts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// copying fills a new file system, not yet placed, with what is in the directory
// that it will cover. Others may change that meanwhile, who share a volume with the
// container: every file is looked up below the directory again, and links are
// copied, not followed (CVE-2022-23648).
type copying struct {
	from kernel.Root
	to   *os.File

	// left is how many bytes may still be copied. They are charged to the cgroup
	// of the shim, and not to the container's, whose limit has to be kept here.
	left int64
}

// fileCost is about what a file in a tmpfs takes beside its content, in bytes.
const fileCost = 1 << 10

// copyUp copies what is in the directory from, at most so many bytes if memory is
// a limit.
func copyUp(from, to *os.File, memory int64) error {
	if memory <= 0 {
		memory = 1 << 62
	}
	c := copying{from: kernel.Root{File: from}, to: to, left: memory}
	return c.directory(".")
}

var errCopyTooMuch = errors.New("it is more than the container's memory (linux.resources.memory.limit)")

// directory copies what is in a directory, which exists in the new file system.
func (c *copying) directory(name string) error {
	dir, err := c.from.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := c.file(path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) file(name string) error {
	f, err := c.from.Open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if c.left -= fileCost; c.left < 0 {
		return errCopyTooMuch
	}
	to := int(c.to.Fd())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = unix.Mkdirat(to, name, 0o700)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(int(f.Fd()), "", buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), to, name)
		}
	case unix.S_IFREG:
		err = c.content(name)
	default:
		err = unix.Mknodat(to, name, st.Mode, int(st.Rdev))
	}
	if err == nil {
		err = unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK { // which after it, as it clears bits
		err = unix.Fchmodat(to, name, st.Mode&0o7777, 0)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.directory(name)
	}
	return nil
}

// content copies a regular file, without its mode.
func (c *copying) content(name string) error {
	from, err := c.from.OpenRegular(name)
	if err != nil {
		return err
	}
	defer from.Close()
	fd, err := unix.Openat(int(c.to.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(fd), name)
	n, err := io.Copy(to, io.LimitReader(from, c.left+1))
	if c.left -= n; err == nil && c.left < 0 {
		err = errCopyTooMuch
	}
	return errors.Join(err, to.Close())
}
