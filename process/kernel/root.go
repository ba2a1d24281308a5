package kernel

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a directory below which paths are resolved as a process with that
// root directory would: whatever symbolic links the image made, and whoever
// changes them meanwhile, nothing outside of it is reached (openat2(2) with
// RESOLVE_IN_ROOT, Linux 5.6). Magic links of /proc are not followed: they lead
// out of every root.
type Root struct{ *os.File }

// maxLinks is how many symbolic links are followed, as in path_resolution(7).
const maxLinks = 40

// Open opens a path that exists. flags are those of open(2).
func (r Root) Open(name string, flags int) (*os.File, error) {
	return r.open(name, flags, 0, 0)
}

func (r Root) open(name string, flags int, mode uint32, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	// EAGAIN: something was renamed or mounted while ".." was resolved, and
	// the kernel could not tell whether that led out.
	for range 128 {
		fd, err := unix.Openat2(int(r.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: fmt.Errorf("it is being renamed all the time: %w", unix.EAGAIN)}
}

// OpenRegular opens a regular file for reading. Nothing else is opened, which for
// a device, a FIFO or a file of the kernel's (as /proc/kmsg is, which takes what it
// gives from others) may do something, or never return.
func (r Root) OpenRegular(name string) (*os.File, error) {
	node, err := r.Open(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(node.Fd()), &st), unix.Fstatfs(int(node.Fd()), &fs)); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC {
		return nil, &os.PathError{Op: "open", Path: name, Err: errors.New("it is no regular file")}
	}
	return os.Open(fmt.Sprintf("/proc/thread-self/fd/%d", node.Fd()))
}

// openPlain opens a path that must have no symbolic links in it.
func (r Root) openPlain(name string) (*os.File, error) {
	return r.open(name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_SYMLINKS)
}

// MkdirAll opens a directory (O_PATH), after making what is missing of its path
// with mode 0755. Dangling symbolic links lead to directories that are made.
func (r Root) MkdirAll(name string) (*os.File, error) {
	dir, err := r.Open(name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return dir, err
	}
	return r.MkdirMissing(name)
}

// MkdirMissing is MkdirAll for a path that Open has just not found.
func (r Root) MkdirMissing(name string) (*os.File, error) {
	if dir := r.mkdirLast(name); dir != nil {
		return dir, nil
	}
	name, err := r.resolve(name)
	if err != nil {
		return nil, err
	}
	dir, err := r.openPlain("/")
	if err != nil {
		return nil, err
	}
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		at = path.Join(at, part)
		err := unix.Mkdirat(int(dir.Fd()), part, 0o755)
		dir.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mkdir", Path: at, Err: err}
		}
		// Somebody may have put a link in its place: openPlain refuses that.
		if dir, err = r.openPlain(at); err != nil {
			return nil, err
		}
	}
	return dir, nil
}

// mkdirLast makes a directory of which only the last component is missing, which
// is the usual case: nil if it is another one.
func (r Root) mkdirLast(name string) *os.File {
	name = strings.TrimRight(name, "/")
	parent, err := r.Open(name[:strings.LastIndexByte(name, '/')+1]+".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer parent.Close()
	last := path.Base(name)
	// A dangling link, or "..", exists.
	if unix.Mkdirat(int(parent.Fd()), last, 0o755) != nil {
		return nil
	}
	fd, err := unix.Openat(int(parent.Fd()), last, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // somebody has put something else in its place
	}
	return os.NewFile(uintptr(fd), name)
}

// Parent opens the directory of a path (O_PATH), made if missing, and returns
// it with the last component of the path, which is not looked at.
func (r Root) Parent(name string) (*os.File, string, error) {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil, "", fmt.Errorf("%s has no name below the root", name)
	}
	dir, err := r.MkdirAll(path.Dir(name))
	return dir, path.Base(name), err
}

// CreateFile makes an empty regular file of mode 0644 at a path where nothing
// is, with the directories above it, and opens it (O_PATH). A dangling link as
// the last component is followed.
func (r Root) CreateFile(name string) (*os.File, error) {
	name, err := r.resolve(name)
	if err != nil {
		return nil, err
	}
	dir, base, err := r.Parent(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), base, flags, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	defer unix.Close(fd)
	// Opened again: O_PATH is what mounts are placed on, and needs no O_EXCL.
	return r.openPlain(name)
}

// resolve returns the path with all its symbolic links replaced, also where
// what they lead to does not exist. The answer is only a guess of where to
// create: what is done with it must not follow links.
func (r Root) resolve(name string) (string, error) {
	at, links := "/", 0
	rest := strings.Split(path.Clean("/"+name), "/")
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		target, err := r.readlink(next)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // not there, or no link
			at = next
			continue
		}
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "resolve", Path: name, Err: unix.ELOOP}
		}
		if strings.HasPrefix(target, "/") {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

func (r Root) readlink(name string) (string, error) {
	// RESOLVE_NO_SYMLINKS lets O_PATH|O_NOFOLLOW open a link as last component.
	link, err := r.openPlain(name)
	if err != nil {
		return "", err
	}
	defer link.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if errors.Is(err, unix.ENOENT) { // what readlinkat says of an O_PATH that is no link
		err = unix.EINVAL
	}
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}
