package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// Variables for the tests; they do not change otherwise.
var (
	readyTimeout = 30 * time.Second // for a logger to say that it is ready
	eofGrace     = 2 * time.Second  // for it to end by itself after all output
	termGrace    = 10 * time.Second // to end after SIGTERM, before SIGKILL

	// A logger that dies while there is output to come is started again:
	// restarts times in a row, after restartDelay, then twice that, and so on.
	// One that ran for longer than steady has the count start again.
	restarts     = 5
	restartDelay = 100 * time.Millisecond
	steady       = time.Minute
)

// A logger is a program that reads what a process writes: containerd's
// binary:// logging contract. It is a child of the shim, outside the
// container's cgroup, in a process group of its own, with pipes for stdout
// and stderr as descriptors 3 and 4 and one to say that it is ready as 5,
// and with nothing in its environment but the container's name.
type logger struct {
	target target
	env    []string
	pipes  [2]*os.File // read ends; held, so that they outlive a process

	ctx    context.Context // its end is SIGTERM
	cancel context.CancelFunc
	ended  chan struct{} // closed when there is no process any more
}

// startLogger returns when the logger is ready. pipes remain the caller's.
func startLogger(ctx context.Context, t target, r Request, pipes [2]*os.File) (*logger, error) {
	l := &logger{
		target: t,
		env:    []string{"CONTAINER_ID=" + r.ContainerID, "CONTAINER_NAMESPACE=" + r.Namespace},
		pipes:  pipes,
		ended:  make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p, err := l.launch(ctx)
	if err != nil {
		l.cancel()
		return nil, err
	}
	go l.supervise(p)
	return l, nil
}

// launch starts a process and waits until it is ready: with binary-v2 it has
// written a byte to descriptor 5, with binary it may also just have closed it.
func (l *logger) launch(ctx context.Context) (*kernel.Process, error) {
	r, w, err := pipe()
	if err != nil {
		return nil, err
	}
	child := blocking(w, "ready")
	defer child.Close()
	ready, err := polled(r, "ready")
	if err != nil {
		return nil, err
	}
	defer ready.Close()

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var files []uintptr
	for _, f := range []*os.File{null, null, null, l.pipes[0], l.pipes[1], child} {
		files = append(files, f.Fd())
	}
	p, err := kernel.Start(l.target.path, append([]string{l.target.path}, l.target.args...), &syscall.ProcAttr{
		Env: l.env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("logger: %w", err)
	}
	child.Close()
	_ = ready.SetReadDeadline(time.Now().Add(readyTimeout))
	defer context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })()
	_, err = ready.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, io.EOF) && !l.target.strict:
		return p, nil
	case errors.Is(err, io.EOF):
		err = errors.New("it closed descriptor 5, or exited, without saying that it is ready")
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("not ready after %s: %w", readyTimeout, err)
	}
	_ = p.Signal(unix.SIGKILL)
	go func() { _ = l.wait(p) }()
	return nil, fmt.Errorf("wait for logger: %w", err)
}

// supervise waits for the logger, and starts it again if it ends too early. In
// the end it reads the pipes itself: the container must not stand still.
func (l *logger) supervise(p *kernel.Process) {
	defer close(l.ended)
	defer l.cancel()
	logg := log.G(l.ctx).WithField("logger", l.target.path)
	var err error
	for try := 0; ; try++ {
		began := time.Now()
		if p != nil {
			err = l.wait(p)
		}
		if l.ctx.Err() != nil || l.delivered() {
			return
		}
		if time.Since(began) > steady {
			try = 0
		}
		if try == restarts {
			break
		}
		logg.WithError(err).Warn("stdio: the logger ended before the container did; it is started again")
		select {
		case <-time.After(restartDelay << try):
		case <-l.ctx.Done():
			return
		}
		p, err = l.launch(l.ctx)
	}
	logg.WithError(err).Error("stdio: the logger keeps ending; output is being lost")
	l.discard()
}

// wait waits for the end of a process. When the logger is to end it gets SIGTERM,
// and some time after that SIGKILL.
func (l *logger) wait(p *kernel.Process) error {
	defer p.Close()
	ended := make(chan struct{})
	defer close(ended)
	defer context.AfterFunc(l.ctx, func() {
		_ = p.Signal(unix.SIGTERM)
		select {
		case <-time.After(termGrace):
			_ = p.Signal(unix.SIGKILL)
		case <-ended:
		}
	})()
	status, err := p.Wait()
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return err
}

// discard reads the pipes to their end, or until l.ctx is done.
func (l *logger) discard() {
	var wg sync.WaitGroup
	for _, p := range l.pipes {
		fd, err := dup(p)
		if err != nil {
			continue // closed
		}
		f, err := polled(fd, p.Name())
		if err != nil {
			continue
		}
		stop := context.AfterFunc(l.ctx, func() { f.Close() })
		wg.Go(func() {
			_ = move(io.Discard, f, nil, nil)
			stop()
			f.Close()
		})
	}
	wg.Wait()
}

// delivered says whether the pipes are at their end, and empty.
func (l *logger) delivered() bool {
	for _, p := range l.pipes {
		raw, err := p.SyscallConn()
		if err != nil {
			continue
		}
		done := true
		_ = raw.Control(func(fd uintptr) { done = readable(int(fd)) == unix.POLLHUP })
		if !done {
			return false
		}
	}
	return true
}

// readable polls fd, and returns at once.
func readable(fd int) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(p, 0)
	return p[0].Revents
}

// drain waits until the logger has read everything, which no event tells.
func (l *logger) drain(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !l.delivered() {
		select {
		case <-tick.C:
		case <-l.ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("deliver output to logger: %w", ctx.Err())
		}
	}
	return nil
}

// stop ends the logger. The shim has closed the write ends of its pipes.
func (l *logger) stop() error {
	select {
	case <-l.ended:
		return nil
	case <-time.After(eofGrace):
	}
	l.cancel()
	select {
	case <-l.ended:
		return nil
	case <-time.After(termGrace):
		log.G(l.ctx).WithField("logger", l.target.path).Warn("stdio: the logger does not end; it is killed")
	}
	select {
	case <-l.ended:
		return nil
	case <-time.After(time.Second):
		return fmt.Errorf("kill logger %s: it does not end", l.target.path)
	}
}
