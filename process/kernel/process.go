package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Process is a child of this process. It is waited for and signalled through a
// pidfd, so never mistaken for another one that got its pid later.
type Process struct {
	PID   int
	pidfd *os.File // in Go's poller

	waited bool // the pid may be another process's
}

// OpenChild returns the child with this pid. It must not have been waited for,
// so the pid cannot have gone to another process: only a parent can ask so.
func OpenChild(pid int) (*Process, error) {
	// PIDFD_NONBLOCK (Linux 5.10) lets os.NewFile put it into the poller.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open(%d): %w", pid, err)
	}
	children.Store(pid, struct{}{})
	return &Process{PID: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Wait blocks until the process has ended, takes it off the process table and
// returns how it ended. It is called once; no thread waits meanwhile.
func (p *Process) Wait() (unix.WaitStatus, error) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var status unix.WaitStatus
	var waited error
	err = conn.Read(func(uintptr) bool {
		var pid int
		for {
			// The pid is still this child's: nobody else waits for it.
			pid, waited = unix.Wait4(p.PID, &status, unix.WNOHANG, nil)
			if errors.Is(waited, unix.EINTR) {
				continue
			}
			// One that has made this process its tracer (PTRACE_TRACEME) is also
			// told of when it has only stopped.
			return waited != nil || pid == p.PID && (status.Exited() || status.Signaled())
		}
	})
	children.Delete(p.PID)
	p.waited = true
	if err = errors.Join(err, waited); err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	return status, nil
}

// Signal sends a signal; os.ErrProcessDone if the process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.Use(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// KillGroup ends the process and its process group, which it leads.
func (p *Process) KillGroup() error {
	const processGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
	err := p.Use(func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, processGroup) })
	if errors.Is(err, unix.EINVAL) {
		err = unix.Kill(-p.PID, unix.SIGKILL)
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Duplicate returns a descriptor of the pidfd, for a child to inherit.
func (p *Process) Duplicate() (*os.File, error) {
	var fd int
	err := p.Use(func(pidfd int) (err error) {
		fd, err = unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate the pidfd of process %d: %w", p.PID, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Descriptor takes a copy of a descriptor of the process (pidfd_getfd(2), Linux
// 5.6). The copy is close-on-exec.
func (p *Process) Descriptor(fd int, name string) (*os.File, error) {
	var got int
	err := p.Use(func(pidfd int) (err error) {
		got, err = unix.PidfdGetfd(pidfd, fd, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take descriptor %d (%s) of process %d: %w", fd, name, p.PID, err)
	}
	return os.NewFile(uintptr(got), name), nil
}

// PIDNamespace is where the pid namespace can be opened that the children of the
// process are in, until the process has been waited for.
func (p *Process) PIDNamespace() string { return fmt.Sprintf("/proc/%d/ns/pid_for_children", p.PID) }

// Close gives the pidfd back. The process goes on.
func (p *Process) Close() error {
	if !p.waited {
		children.Delete(p.PID)
	}
	return p.pidfd.Close()
}

// Use calls f with the pidfd, which stays open meanwhile.
func (p *Process) Use(f func(pidfd int) error) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	if err := conn.Control(func(fd uintptr) { called = f(int(fd)) }); err != nil {
		return err
	}
	return called
}
