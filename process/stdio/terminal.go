package stdio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Attach starts copying from and to the master of the process's terminal,
// and owns master from now on, also after an error. Only the process may have
// the other side open: with the shim having it, the end would never be seen.
func (s *Streams) Attach(master *os.File) error {
	fd, err := dup(master)
	master.Close()
	if err != nil {
		return fmt.Errorf("attach terminal: %w", err)
	}
	m, err := polled(fd, "terminal")
	if err != nil {
		return fmt.Errorf("attach terminal: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.req.Terminal || s.master != nil {
		m.Close()
		return errors.New("attach terminal: not asked for, or closed")
	}
	s.master = m
	s.all = append(s.all, m)
	s.copyOutput(m, s.out, s.exited.Load)
	if s.in != nil {
		go s.copyInput(m)
	}
	return s.resize()
}

// copyInput types stdin, and at its end a ^D, as a person would. runc's shim
// hangs up instead, which loses output.
func (s *Streams) copyInput(master *os.File) {
	if move(keyboard{master}, s.in, nil, nil) == nil {
		_, _ = keyboard{master}.Write([]byte{4})
	}
	s.in.Close()
}

// A keyboard writes to a terminal's master. What is typed while no process
// has the terminal open, and more than it can hold, is gone: waiting would be
// a busy loop, as the hangup wakes both the reader and the writer, and each
// write wakes them again.
type keyboard struct{ master *os.File }

func (k keyboard) Write(b []byte) (written int, err error) {
	raw, err := k.master.SyscallConn()
	if err != nil {
		return 0, err
	}
	for written < len(b) {
		var n int
		closed := raw.Write(func(fd uintptr) bool {
			n, err = unix.Write(int(fd), b[written:])
			return !errors.Is(err, unix.EAGAIN) || readable(int(fd))&unix.POLLHUP != 0
		})
		switch {
		case closed != nil:
			return written, os.ErrClosed
		case err == nil:
			written += n
		case !errors.Is(err, unix.EINTR):
			return written, err
		}
	}
	return written, nil
}

// Resize sets the size of the terminal, in characters. Before Attach it is
// remembered; after the exit, or without a terminal, it does nothing.
func (s *Streams) Resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = &unix.Winsize{Col: width, Row: height}
	return s.resize()
}

// resize is called with s.mu held, so that the last size asked for stays; the
// ioctl does not wait.
func (s *Streams) resize() error {
	if s.master == nil || s.size == nil {
		return nil
	}
	raw, err := s.master.SyscallConn()
	if err != nil {
		return nil // closed
	}
	// Control itself fails only if master is closed.
	_ = raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, s.size)
	})
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
