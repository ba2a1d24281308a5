package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
)

const (
	scheme           = "unix://"
	defaultSocketDir = "/run/containerd/s"
	maxSocketPath    = 107 // of sun_path, without its end; containerd allows for it
)

// socketPath is where the daemon of a group listens: containerd's own scheme,
// so that shims find each other's sockets when one replaces another.
func socketPath(dir, grpcAddress, namespace, group string) string {
	sum := sha256.Sum256([]byte(path.Join(grpcAddress, namespace, group)))
	return dir + "/" + hex.EncodeToString(sum[:])
}

// errTaken says that a daemon listens already: the one of the same group.
var errTaken = errors.New("a daemon listens already")

// listen makes the listening socket that the daemon inherits, or returns
// errTaken. One that nobody listens on any more is replaced.
func listen(file string) (fd int, err error) {
	dir := path.Dir(file)
	if len(file) > maxSocketPath {
		return -1, fmt.Errorf("socket directory %q is too long: at most %d bytes", dir, maxSocketPath-1-hex.EncodedLen(sha256.Size))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return -1, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return -1, err
	}
	defer unlock()

	fd, err = unixSocket()
	if err != nil {
		return -1, err
	}
	if err := bind(fd, file); err != nil {
		return -1, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}

// bind is called with the lock of the directory.
func bind(fd int, file string) error {
	// Set before bind, which gives the file the mode of the socket: after it,
	// there would be a moment with the mode of the umask.
	if err := syscall.Fchmod(fd, 0o600); err != nil {
		return fmt.Errorf("chmod socket: %w", err)
	}
	address := &syscall.SockaddrUnix{Name: file}
	err := syscall.Bind(fd, address)
	if err == syscall.EADDRINUSE {
		if accepts(file) {
			return errTaken
		}
		if err := remove(file); err != nil {
			return err
		}
		err = syscall.Bind(fd, address)
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", file, err)
	}
	if err := syscall.Listen(fd, syscall.SOMAXCONN); err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", file, err), os.Remove(file))
	}
	return nil
}

// lock is held from bind to listen, and from finding that nobody listens to
// unlinking the socket: without it, two that start at once would take each
// other's new socket for a stale one. The lock ends with the process, and what
// is done under it does not wait for anything.
func lock(dir string) (unlock func(), err error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(d.Fd()), &st); err != nil {
		d.Close()
		return nil, fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o002 != 0 {
		d.Close()
		return nil, fmt.Errorf("socket directory %s, of user %d with mode %#o, is open to others", dir, st.Uid, st.Mode&0o7777)
	}
	for {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

func unixSocket() (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// accepts tells whether somebody listens on a socket, without waiting: one
// whose queue is full is busy, not stale.
func accepts(file string) bool {
	conn, err := dial(file)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}

func dial(file string) (*os.File, error) {
	if _, err := os.Lstat(file); err != nil {
		return nil, err // without a socket for it: the rule in `delete`
	}
	fd, err := unixSocket()
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), file)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: file}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// removeStale unlinks a socket that nobody listens on any more.
func removeStale(file string) error {
	unlock, err := lock(path.Dir(file))
	if err != nil {
		return err
	}
	defer unlock()
	if accepts(file) {
		return nil
	}
	return remove(file)
}

func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// socketOf returns the path of the socket of the daemon that serves a bundle:
// the one that `start` or containerd wrote there, else the one it would have by
// default.
func socketOf(line Line) string {
	if b, err := os.ReadFile(path.Join(line.Bundle, addressFile)); err == nil {
		if file, ok := strings.CutPrefix(string(b), scheme); ok {
			return file
		}
	}
	// Members of a pod are attached to its daemon without running `start`.
	if f, err := os.Open(path.Join(line.Bundle, "bootstrap.json")); err == nil {
		defer f.Close()
		address := ""
		err := members(f, func(key string, s *scanner) bool {
			if key != "address" {
				s.skip()
				return true
			}
			address = s.text()
			return false
		})
		if file, ok := strings.CutPrefix(address, scheme); ok && err == nil {
			return file
		}
	}
	return socketPath(defaultSocketDir, line.Address, line.Namespace, line.ID)
}
