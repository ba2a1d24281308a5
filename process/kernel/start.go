package kernel

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// starting is held by those who start children, and by who reaps those that
// nobody has started.
var starting sync.RWMutex

// Start starts a program as a child (syscall.ForkExec) that is known by a pidfd.
// All children of this process have to be started by it: see ReapOrphans.
func Start(path string, args []string, attr *syscall.ProcAttr) (*Process, error) {
	starting.RLock()
	defer starting.RUnlock()
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p, err := OpenChild(pid)
	if err != nil {
		err = errors.Join(err, unix.Kill(pid, unix.SIGKILL)) // its pid is no other's before the wait
		_, waited := unix.Wait4(pid, nil, 0, nil)
		return nil, errors.Join(err, waited)
	}
	return p, nil
}
