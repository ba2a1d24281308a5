package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// A Request is what a client of containerd asks for one process
// (CreateTaskRequest, ExecProcessRequest).
type Request struct {
	// Absolute paths of FIFOs or files; fifo:// is the same; Stdout and Stderr
	// also file://, binary:// and binary-v2://. Empty is /dev/null. A log in
	// Stdout takes stderr too if Stderr is empty. A terminal ignores Stderr.
	Stdin, Stdout, Stderr string

	Terminal bool

	// Copy keeps the client's FIFOs from the process, which gets pipes. It is
	// for processes that a security module would not let use a file of the
	// host: with an SELinux label, or an AppArmor profile that is not known
	// to allow it.
	Copy bool

	// CopyOutput does so with the outputs: Close is their end then, even if
	// something still holds them that the process has started.
	CopyOutput bool

	// UID and GID, of the host, become the owner of the FIFOs and pipes that
	// the process gets, so that it can open /dev/stdout. -1 leaves them.
	UID, GID int

	ContainerID, Namespace string // environment of a logger
}

// Streams are descriptors 0, 1 and 2 of one process. All methods may be called
// in any order and at the same time.
type Streams struct {
	req Request
	log *log.Entry

	files [3]*os.File // of the process, until Started
	stdin *os.File    // the write end held of stdin's FIFO, until CloseStdin

	in    *os.File // terminal: what is copied to it, or nil
	out   *os.File // terminal: what it is copied to
	spare *os.File // terminal: stderr of its logger, at its end when out is; or nil

	logger *logger     // or nil
	pipes  [2]*os.File // of the logger; read ends
	exited atomic.Bool

	mu     sync.Mutex
	all    []*os.File        // guarded by mu; what Close closes
	copies []<-chan struct{} // guarded by mu; closed when an output is delivered
	master *os.File          // guarded by mu; terminal, once attached
	size   *unix.Winsize     // guarded by mu; as last asked for
	closed bool              // guarded by mu

	closing  sync.Once
	closeErr error
}

// Open opens what r asks for, and starts its logger. A bad request is
// ErrInvalid, and nothing was touched if a URI was bad; other errors are
// those of the files. It waits up to readerTimeout for the client of each
// output FIFO, and as long as ctx and readyTimeout allow for a logger.
func Open(ctx context.Context, r Request) (*Streams, error) {
	in, out, err, bad := targets(r)
	if bad != nil {
		return nil, bad
	}
	s := &Streams{req: r, log: log.G(ctx).WithField("container", r.ContainerID)}
	if err := s.open(ctx, in, out, err); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open opens the logger last, so that it need not be ended for another error.
func (s *Streams) open(ctx context.Context, in, out, err target) error {
	if err := s.openInput(in); err != nil {
		return fmt.Errorf("stdin %.200q: %w", s.req.Stdin, err)
	}
	if out.kind != binary {
		if err := s.openOutput(1, out); err != nil {
			return fmt.Errorf("stdout %.200q: %w", s.req.Stdout, err)
		}
	}
	switch {
	case s.req.Terminal || err.kind == binary:
	case out.kind == err.kind && out.path == err.path:
		s.files[2] = s.files[1]
	default:
		if err := s.openOutput(2, err); err != nil {
			return fmt.Errorf("stderr %.200q: %w", s.req.Stderr, err)
		}
	}
	if out.kind == binary {
		if err := s.openLogger(ctx, out, err); err != nil {
			return fmt.Errorf("stdout %.200q: %w", s.req.Stdout, err)
		}
	}
	return nil
}

func (s *Streams) openInput(t target) error {
	if t.kind == null {
		if s.req.Terminal {
			return nil
		}
		return s.openNull(0)
	}
	r, w, err := source(t)
	if err != nil {
		return err
	}
	if w != -1 {
		s.stdin = s.hold(w, t.path)
		if !s.req.Terminal && !s.req.Copy {
			return s.give(0, r, t.path)
		}
	}
	src, err := s.poll(r, t.path)
	if err != nil {
		return err
	}
	if s.req.Terminal {
		s.in = src
		return nil
	}
	r, w, err = pipe()
	if err != nil {
		return err
	}
	dst, err := s.poll(w, "stdin")
	if err := errors.Join(err, s.give(0, r, "stdin")); err != nil {
		return err
	}
	go func() {
		_ = move(dst, src, nil, nil)
		dst.Close()
		src.Close()
	}()
	return nil
}

func (s *Streams) openOutput(i int, t target) error {
	if t.kind == null {
		return s.openNull(i)
	}
	r, w, err := sink(t)
	if err != nil {
		return err
	}
	if r != -1 {
		s.hold(r, t.path)
		if !s.req.Terminal && !s.req.Copy && !s.req.CopyOutput {
			return s.give(i, w, t.path)
		}
	}
	dst, err := s.poll(w, t.path)
	if err != nil {
		return err
	}
	if s.req.Terminal {
		s.out = dst
		return nil
	}
	r, w, err = pipe()
	if err != nil {
		return err
	}
	src, err := s.poll(r, "output")
	if err := errors.Join(err, s.give(i, w, "output")); err != nil {
		return err
	}
	s.copyOutput(src, dst, nil)
	return nil
}

// openLogger starts the logger. It always gets two pipes: one that nobody
// writes to is at its end at once, or with a terminal when the other one is.
func (s *Streams) openLogger(ctx context.Context, out, err target) error {
	for i := range s.pipes {
		r, w, perr := pipe()
		if perr != nil {
			return perr
		}
		s.pipes[i] = blocking(r, "logger")
		switch {
		case s.req.Terminal && i == 0:
			s.out, perr = s.poll(w, "logger")
		case s.req.Terminal:
			s.spare = s.hold(w, "logger")
		case i == 0 || err.kind == binary:
			perr = s.give(i+1, w, "logger")
		default:
			unix.Close(w)
		}
		if perr != nil {
			return perr
		}
	}
	l, lerr := startLogger(ctx, out, s.req, s.pipes)
	s.logger = l
	return lerr
}

func (s *Streams) openNull(i int) error {
	fd, err := openNull()
	if err != nil {
		return fmt.Errorf("/dev/null: %w", err)
	}
	f := s.hold(fd, "/dev/null")
	if s.req.Terminal {
		s.out = f
	} else {
		s.files[i] = f
	}
	return nil
}

// give makes fd descriptor i of the process. The capacity is only ever
// raised, and an unprivileged user's limits may refuse that.
func (s *Streams) give(i, fd int, name string) error {
	s.files[i] = s.hold(fd, name)
	if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil && n < pipeSize {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
	}
	if s.req.UID == -1 && s.req.GID == -1 {
		return nil
	}
	if err := unix.Fchown(fd, s.req.UID, s.req.GID); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", s.req.UID, s.req.GID, err)
	}
	return nil
}

// hold is blocking, and poll is polled, for what Close closes.
func (s *Streams) hold(fd int, name string) *os.File {
	f := blocking(fd, name)
	s.all = append(s.all, f)
	return f
}

func (s *Streams) poll(fd int, name string) (*os.File, error) {
	f, err := polled(fd, name)
	if err == nil {
		s.all = append(s.all, f)
	}
	return f, err
}

// copyOutput starts the copy of src to dst, whose reader sees its end when src
// is at its own. s.mu is held, or s not yet known to anyone.
func (s *Streams) copyOutput(src, dst *os.File, over func() bool) {
	delivered := make(chan struct{})
	s.copies = append(s.copies, delivered)
	go func() {
		defer close(delivered)
		err := move(dst, src, over, func(err error) {
			s.log.WithError(err).Warn("stdio: output is being lost")
		})
		if err != nil && !errors.Is(err, os.ErrClosed) {
			s.log.WithError(err).Warn("stdio: output ended")
		}
		src.Close()
		dst.Close()
		s.spare.Close()
	}()
}

// Files are descriptors 0, 1 and 2 of the process; one file may be there more
// than once. They are blocking, and close-on-exec. Their descriptors must not be
// used after Started, Exited, Drain or Close. With a terminal all are nil.
func (s *Streams) Files() [3]*os.File { return s.files }

// Started says that the process has its descriptors: the shim's are closed,
// so that readers see the end when the processes of the container have closed
// theirs.
func (s *Streams) Started() {
	for _, f := range s.files {
		f.Close() // no harm if it is closed, or nil
	}
}

// CloseStdin lets the process see the end of stdin, once the client has closed
// its end too. (CloseIO)
func (s *Streams) CloseStdin() error {
	if s.stdin == nil {
		return nil
	}
	if err := s.stdin.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Exited says that the process is gone, or never came: its terminal is at its
// end once everything is read. Before, another process may open it yet.
func (s *Streams) Exited() {
	s.Started()
	s.exited.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.master != nil:
		_ = s.master.SetReadDeadline(time.Unix(1, 0)) // wakes move, once
	case s.req.Terminal:
		s.out.Close()
		s.spare.Close()
	}
}

// Drain waits until all output has been delivered: copied, and read by the
// logger. It implies Exited. What a client has not read of its FIFO is not
// waited for, as it stays there. Without ctx it would wait for background
// processes that hold the descriptors, and for readers that are gone.
func (s *Streams) Drain(ctx context.Context) error {
	s.Exited()
	s.mu.Lock()
	copies := s.copies
	s.mu.Unlock()
	for _, delivered := range copies {
		select {
		case <-delivered:
		case <-ctx.Done():
			return fmt.Errorf("deliver output: %w", ctx.Err())
		}
	}
	if s.logger != nil {
		return s.logger.drain(ctx)
	}
	return nil
}

// Close ends everything. Output that has not been drained is lost, except for
// what a FIFO still holds for a client that has it open. It may have to wait
// for a logger, at most eofGrace + termGrace and a second. A second Close
// waits for the first and returns the same.
func (s *Streams) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		all := s.all
		s.mu.Unlock()
		for _, f := range slices.Backward(all) {
			f.Close() // ends the copies too
		}
		if s.logger != nil {
			s.closeErr = s.logger.stop()
		}
		for _, f := range s.pipes {
			f.Close() // not before: a logger just starting may yet get it
		}
	})
	return s.closeErr
}
