package cgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Kill kills every process of the group and below: the frozen ones, those
// being born and fork bombs, too. It does not wait until they are gone; Delete
// does. The group can not be frozen any more.
func (g *Group) Kill() error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	g.endFreeze(errKilled)
	if err := g.kill(); err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return nil
}

// Without cgroup.kill, a group is killed in rounds. In each, the processes have
// killTime to freeze, and again to end.
const (
	killRounds = 20
	killTime   = 20 * time.Millisecond
)

func (g *Group) kill() error {
	// cgroup.kill (Linux 5.14) is one step for all. A hybrid has it, too.
	killed := false
	if d := g.dir(""); d != nil {
		killed = d.write("cgroup.kill", "1") == nil
		if killed && g.V2() {
			return nil
		}
	}
	// Otherwise who is frozen cannot fork, so a list of the frozen is complete.
	// Several rounds, for those that did not freeze in time. v1 lets nobody die
	// before it is thawed.
	freezer := g.freezer()
	for range killRounds {
		complete := killed
		if !killed && freezer != nil {
			ctx, cancel := context.WithTimeout(context.Background(), killTime)
			complete = freezer.freeze(ctx) == nil
			cancel()
		}
		pids, err := g.pids()
		if err == nil {
			err = g.signal(pids, unix.SIGKILL)
		}
		if freezer != nil {
			err = errors.Join(err, freezer.thaw())
		}
		if err != nil || complete || len(pids) == 0 {
			return err
		}
		time.Sleep(killTime)
	}
	pids, err := g.pids()
	if err != nil || len(pids) == 0 {
		return err
	}
	return fmt.Errorf("%s: after %d rounds there are still processes %v", g.members().absolute(), killRounds, pids)
}

// Signal sends a signal to every process of the group and below. SIGKILL is
// Kill.
func (g *Group) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return g.Kill()
	}
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	pids, err := g.pids()
	if err == nil {
		err = g.signal(pids, sig)
	}
	if err != nil {
		return fmt.Errorf("signal cgroup: %w", err)
	}
	return nil
}

// signal sends to processes that were seen in the group. A pid may have gone to
// another process since: so first a pidfd is taken, and then the group must
// still list that pid. Who has it now is a member; if the pidfd is of somebody
// before, he is dead and gets nothing.
func (g *Group) signal(pids []int, sig unix.Signal) error {
	for batch := range slices.Chunk(pids, 256) {
		if err := g.signalBatch(batch, sig); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) signalBatch(pids []int, sig unix.Signal) error {
	pidfds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range pidfds {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch err {
		case nil:
			pidfds[pid] = fd
		case unix.ESRCH, unix.EINVAL: // it has ended; it is a thread
		default:
			return fmt.Errorf("pidfd_open(%d): %w", pid, err)
		}
	}
	members, err := g.pids()
	if err != nil {
		return err
	}
	for _, pid := range members {
		fd, ok := pidfds[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal %d to process %d: %w", sig, pid, err)
		}
	}
	return nil
}
