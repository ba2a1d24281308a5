package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/script"
)

// Init is a process of the tiny init that walks a script, or several: a script
// may clone, and then its first process ends and the clone goes on. All of them
// are children of the shim, and speak through one socket.
type Init struct {
	script  *script.Script
	process *kernel.Process // that walks it now
	taken   bool            // it is somebody else's to end and to wait for, or was waited for
	control *os.File        // SOCK_SEQPACKET; its EOF is a successful execve, or death

	clones int    // that are to come, each of which may be dead when it is known
	known  func() // see kernel.ExpectClone
}

// Start makes the first process of a script. It has stdio as descriptors 0 to
// 2, and extra from script.FirstFD on; everything else the script opens itself.
func Start(s *script.Script, stdio [3]int, extra []int) (_ *Init, err error) {
	program, err := program()
	if err != nil {
		return nil, err
	}
	image, err := s.Encode()
	if err != nil {
		return nil, err
	}
	// A file and not a message on the socket: a message has a limit (the
	// socket's buffer), and a stream would have to be read in a loop.
	memory, err := unix.MemfdCreate("myshim-script", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(memory)
	if err := writeAll(memory, image); err != nil {
		return nil, fmt.Errorf("write the script: %w", err)
	}

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	// Nonblocking is only this end, for the poller. With every message the
	// kernel tells who sent it.
	err = errors.Join(unix.SetNonblock(pair[0], true), unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	if err != nil {
		return nil, errors.Join(err, unix.Close(pair[0]))
	}
	control := os.NewFile(uintptr(pair[0]), "control")

	files := make([]uintptr, 0, script.FirstFD+len(extra))
	for _, fd := range append(append(stdio[:], pair[1], memory), extra...) {
		files = append(files, uintptr(fd))
	}
	// By the shim's own number in /proc, and not as /proc/self/fd/N, since the
	// child may have put one of its files onto N by then.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program.Fd())
	// In a session of its own: whoever takes over a process that is in a container
	// by now could signal the shim's process group.
	known := kernel.ExpectClone()
	process, err := kernel.Start(path, []string{"myshim-init"}, &syscall.ProcAttr{
		Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		known()
		return nil, errors.Join(fmt.Errorf("start the init: %w", err), control.Close())
	}
	i := &Init{script: s, process: process, control: control, clones: s.Clones(), known: known}
	if i.clones == 0 {
		i.known()
	}
	return i, nil
}

// Process is the one that walks the script, as far as it is known: that of the
// last report, or the first one. It is closed when a clone goes on.
func (i *Init) Process() *kernel.Process { return i.process }

// Next waits for the next report of the init and returns it. A step that failed
// is a *StepError, and the init then waits for its end. io.EOF means that the
// init holds the socket no more: it has become another program, or is dead. An
// init that was not waited for to the end cannot be waited for again.
func (i *Init) Next(ctx context.Context) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = i.control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	report := make([]byte, script.ReportSize+1)
	n, sender, err := i.receive(report)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, ctx.Err()
	case errors.Is(err, unix.ECONNRESET), err == nil && n == 0: // or without having read all we sent
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("read from the init: %w", err)
	case n != script.ReportSize:
		return nil, fmt.Errorf("read from the init: %d bytes, not %d", n, script.ReportSize)
	}
	if sender != i.process.PID {
		if err := i.follow(sender); err != nil {
			return nil, err
		}
	}
	report = report[:n]
	if address, errno, failed := script.Failure(report); failed {
		step, index := i.script.Step(address)
		if step == nil {
			return nil, fmt.Errorf("the init failed at %#x, where there is no step", address)
		}
		return report, &StepError{Step: step, Index: index, Err: errno}
	}
	return report, nil
}

// follow goes on with a clone. Who cloned ends at once. Anybody else may have got
// hold of the socket only: with CAP_SYS_PTRACE in a pid namespace that the
// process is in, for one.
func (i *Init) follow(clone int) error {
	if i.taken || !isChild(clone) {
		return fmt.Errorf("read from the init: process %d wrote to its socket, and is no part of it, or dead", clone)
	}
	process, err := kernel.OpenChild(clone)
	if err != nil {
		return err
	}
	previous := i.process
	i.process = process
	if i.clones--; i.clones <= 0 {
		i.known()
	}
	return end(previous)
}

// end kills a process, and waits for it. One that has cloned is at its end, but may
// be kept from it by a tracer.
func end(p *kernel.Process) error {
	err := p.Signal(unix.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_, waited := p.Wait()
	return errors.Join(err, waited, p.Close())
}

// receive reads one message, and who sent it.
func (i *Init) receive(b []byte) (n, sender int, err error) {
	conn, err := i.control.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var oobn int
	var received error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, _, _, received = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(received, unix.EAGAIN) && !errors.Is(received, unix.EINTR)
	})
	if err = errors.Join(err, received); err != nil || n == 0 {
		return n, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, 0, err
	}
	if len(messages) != 1 {
		return 0, 0, errors.New("a message without a sender")
	}
	credentials, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return 0, 0, err
	}
	return n, int(credentials.Pid), nil
}

// Go lets the init walk on after a report, and hands it a message and files.
func (i *Init) Go(message []byte, files ...int) error {
	conn, err := i.control.SyscallConn()
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), message, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("release the init: %w", err)
	}
	return nil
}

// Take leaves it to the caller to end the process, to wait for it, and to close it.
func (i *Init) Take() *kernel.Process {
	i.taken = true
	return i.process
}

// Kill ends the process, if it was not taken, and closes the socket.
func (i *Init) Kill() error {
	i.known()
	if i.taken {
		return i.control.Close()
	}
	i.taken = true
	return errors.Join(end(i.process), i.control.Close())
}

// Close gives the socket back. An init that is not yet another program exits.
func (i *Init) Close() error {
	i.known()
	return i.control.Close()
}

// StepError is a step of a script that the kernel refused.
type StepError struct {
	Step  *script.Step
	Index int
	Err   unix.Errno
}

func (e *StepError) Error() string { return e.Step.Failure(e.Index, e.Err) }

func (e *StepError) Unwrap() error { return e.Err }

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// isChild says whether a process is a child of this one that nobody has waited
// for.
func isChild(pid int) bool {
	return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}
