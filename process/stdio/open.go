package stdio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is the capacity of the FIFOs and pipes of a process, in bytes.
// Against the default of 64 KiB, 256 KiB was measured to give 12-30 % more
// throughput with a third of the context switches, and a container runs on
// longer while containerd restarts; 1 MiB gave nothing more. What is in the
// pipe is charged to the container.
const pipeSize = 256 << 10

// handle opens path with O_PATH, which has no effect on it whatever it is. It
// may be a FIFO, a file, or a device like /dev/null: mode says which.
func handle(path string) (h int, mode uint32, err error) {
	h, err = open(path, unix.O_PATH)
	if err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	err = unix.Fstat(h, &st)
	switch mode = st.Mode & unix.S_IFMT; mode {
	case unix.S_IFIFO, unix.S_IFREG, unix.S_IFCHR:
	default:
		err = errors.Join(err, fmt.Errorf("%w: neither a FIFO nor a file", ErrInvalid))
	}
	if err != nil {
		unix.Close(h)
		return -1, 0, err
	}
	return h, mode, nil
}

// reopen opens what the descriptor h is, with a description (flags, offset)
// of its own.
func reopen(h int, flags int) (int, error) {
	return open(fmt.Sprintf("/proc/self/fd/%d", h), flags)
}

// open is not os.OpenFile: that one makes FIFOs non-blocking.
func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readerTimeout is how long a FIFO for output waits for its client. Clients
// start to open it before they call, and runc's shim waits for them without
// a limit of its own. Without this a client that is slow to come, on a busy
// machine, would miss a short process altogether.
var readerTimeout = 500 * time.Millisecond

// bothEnds opens both ends of the FIFO h; they are blocking. A client that
// waits in its own open for the other side gets it. Neither open waits: the
// write end is refused at first if there is no reader, and tried again until
// the deadline, and then we are the reader ourselves.
func bothEnds(h int, deadline time.Time) (r, w int, err error) {
	w, err = reopen(h, unix.O_WRONLY|unix.O_NONBLOCK)
	for errors.Is(err, unix.ENXIO) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
		w, err = reopen(h, unix.O_WRONLY|unix.O_NONBLOCK)
	}
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return -1, -1, err
	}
	r, err = reopen(h, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == nil && w == -1 {
		w, err = reopen(h, unix.O_WRONLY|unix.O_NONBLOCK)
	}
	for _, fd := range []int{r, w} {
		if err == nil {
			err = unix.SetNonblock(fd, false)
		}
	}
	if err != nil {
		unix.Close(r)
		unix.Close(w)
		return -1, -1, err
	}
	return r, w, nil
}

// pipe makes a pipe; both ends are blocking.
func pipe() (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("pipe: %w", err)
	}
	return p[0], p[1], nil
}

// source opens t for reading. w is the other end if it is a FIFO, else -1.
func source(t target) (r, w int, err error) {
	h, mode, err := handle(t.path)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(h)
	if mode == unix.S_IFIFO {
		return bothEnds(h, time.Time{})
	}
	r, err = reopen(h, unix.O_RDONLY|unix.O_NONBLOCK)
	return r, -1, err
}

// sink opens t for writing. r is the other end if it is a FIFO, else -1.
// As with runc, a plain path must exist: a file made in the place of a FIFO
// whose client has gone would fill /run unseen.
func sink(t target) (r, w int, err error) {
	if t.kind == file {
		if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
			return -1, -1, err
		}
		// mknod opens nothing, so it cannot hang on what is already there.
		if err := unix.Mknod(t.path, unix.S_IFREG|0o644, 0); err != nil && err != unix.EEXIST {
			return -1, -1, err
		}
	}
	h, mode, err := handle(t.path)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(h)
	if mode == unix.S_IFIFO {
		return bothEnds(h, time.Now().Add(readerTimeout))
	}
	w, err = reopen(h, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK)
	return -1, w, err
}

// devNull is an O_PATH descriptor of /dev/null, made at the first use.
var devNull atomic.Pointer[os.File]

// openNull opens /dev/null in a read-only mount of its own: root in a container
// could otherwise fchmod the host's device, for everyone. Writing to a device
// works in a read-only mount. Where mounting is not allowed, the container's
// root cannot be the host's.
func openNull() (int, error) {
	h := devNull.Load()
	if h == nil {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		switch {
		case err == nil:
			readonly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &readonly)
		case errors.Is(err, unix.EPERM):
			fd, err = open("/dev/null", unix.O_PATH)
		}
		h = blocking(fd, "/dev/null")
		if err != nil {
			h.Close()
			return -1, err
		}
		if !devNull.CompareAndSwap(nil, h) {
			h.Close()
			h = devNull.Load()
		}
	}
	return reopen(int(h.Fd()), unix.O_RDWR)
}

// blocking makes fd a file that is not in Go's poller, neither by its flags
// nor by being registered: for a process, or to be held.
func blocking(fd int, name string) *os.File {
	return os.NewFile(uintptr(fd), name)
}

// polled makes fd a file whose Read and Write sleep in Go's poller and end
// when it is closed. Files on disk cannot be polled; they are read and
// written as ever.
func polled(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// dup returns another descriptor of f.
func dup(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	})
	return fd, errors.Join(cerr, err)
}
