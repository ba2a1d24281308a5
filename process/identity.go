package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// identity tells a process from all others that ever have its pid. It is for
// processes that are no children of this one.
type identity struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // see kernel.StartTime
}

func identify(pid int) identity { return identity{pid, kernel.StartTime(pid)} }

func (i identity) alive() bool { return i.Start != "" && kernel.StartTime(i.PID) == i.Start }

// open returns a pidfd of the process, -1 if it has ended.
func (i identity) open() (int, error) {
	if i.PID == 0 {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd_open(%d): %w", i.PID, err)
	}
	// Only now: whoever has the pid afterwards is not who the pidfd is of.
	if !i.alive() {
		return -1, os.NewSyscallError("close", unix.Close(fd))
	}
	return fd, nil
}

// kill ends the process, if it lives.
func (i identity) kill() error {
	fd, err := i.open()
	if fd == -1 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", i.PID, err)
	}
	return nil
}

// await waits until the process has ended, for so long, and says whether it has.
func (i identity) await(ctx context.Context, patience time.Duration) (bool, error) {
	fd, err := i.open()
	if fd == -1 {
		return err == nil, err
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(patience); ctx.Err() == nil; {
		n, err := unix.Poll(poll, max(0, int(time.Until(end).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, os.NewSyscallError("poll", err)
	}
	return false, ctx.Err()
}
