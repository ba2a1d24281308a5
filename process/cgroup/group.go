package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Group is a container's cgroup in all hierarchies. Its methods may be called
// at the same time; none holds a lock while it waits.
type Group struct {
	Location
	dirs []dir // cgroup v2 first; those of Location that could be opened

	mu    sync.Mutex
	users int   // calls in progress, and Joins; guarded by mu
	gone  bool  // deleted; guarded by mu
	join  *Join // guarded by mu
	// release ends the process of Hold; guarded by mu
	release func()
	// warm ends when Thaw or Kill are called; guarded by mu
	warm    context.Context
	endWarm context.CancelCauseFunc

	oom oomCount
}

// ErrDeleted is the answer of a group after Delete.
var ErrDeleted = fmt.Errorf("the cgroup is deleted: %w", os.ErrNotExist)

func newGroup(l Location) *Group {
	g := &Group{Location: l}
	g.warm, g.endWarm = context.WithCancelCause(context.Background())
	return g
}

// Open opens a group that Create made, in another process maybe. Directories
// that are missing are done without.
func Open(l Location) (*Group, error) {
	g := newGroup(l)
	for _, where := range l.Dirs {
		d, err := openDir(where)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			g.Close()
			return nil, err
		}
		g.dirs = append(g.dirs, d)
	}
	return g, nil
}

// dir returns the directory in the hierarchy of a controller, nil if there is
// none. "" is cgroup v2, which has all of them when there is nothing else.
func (g *Group) dir(controller string) *dir {
	for i := range g.dirs {
		d := &g.dirs[i]
		if d.v2() && (controller == "" || g.V2()) || slices.Contains(d.Controllers, controller) {
			return d
		}
	}
	return nil
}

// use keeps the descriptors open until done is called.
func (g *Group) use() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return ErrDeleted
	}
	g.users++
	return nil
}

func (g *Group) done() {
	g.mu.Lock()
	g.users--
	last := g.gone && g.users == 0
	g.mu.Unlock()
	if last {
		g.Close()
	}
}

// Close gives the descriptors of a group back that nobody uses any more. The group
// stays.
func (g *Group) Close() {
	for _, d := range g.dirs {
		_ = unix.Close(d.fd)
	}
	g.dirs = nil
	if g.join != nil {
		g.join.close()
	}
}

// deleteTime is how long Delete waits for processes that are about to end.
const deleteTime = 2 * time.Second

// Delete removes the group with all below it. Processes on their way out are
// waited for, two seconds at most; those that stay are an error that names
// them, after which everything can be called again. The second Delete of a
// group does nothing.
func (g *Group) Delete(ctx context.Context) error {
	if g.use() != nil {
		return nil
	}
	defer g.done()
	g.holdNoMore()
	// cgroup v2 first: it can tell when the last process is gone, and then the
	// others are free as well.
	soon, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	var errs []error
	for _, d := range g.dirs {
		errs = append(errs, d.remove(soon))
	}
	err := errors.Join(errs...)
	if err == nil && g.Unit != "" {
		err = g.deleteUnit(ctx)
	}
	if err != nil {
		return fmt.Errorf("delete cgroup: %w", err)
	}
	g.unwatch()
	g.mu.Lock()
	g.gone = true
	g.mu.Unlock()
	return nil
}

// Pids returns the processes of the group and of all groups below it, as our
// pid namespace numbers them.
func (g *Group) Pids() ([]int, error) {
	if err := g.use(); err != nil {
		return nil, err
	}
	defer g.done()
	return g.pids()
}

func (g *Group) pids() ([]int, error) {
	if d := g.members(); d != nil {
		return d.pids()
	}
	return nil, nil
}

// members is the directory that says who is in the group: with v1 that of
// devices, as for runc, the one controller that a container needs. A privileged
// container may have moved processes elsewhere in another one.
func (g *Group) members() *dir {
	for _, c := range []string{"devices", "pids", "freezer", ""} {
		if d := g.dir(c); d != nil {
			return d
		}
	}
	return nil
}

// Delegate gives a v2 group to a user, who can make groups below it then: see
// cgroups(7), "Cgroup delegation".
func (g *Group) Delegate(uid int) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	d := g.dir("")
	if d == nil || !g.V2() {
		return nil
	}
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if text, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
		files = strings.Fields(string(text))
	}
	for _, file := range append(files, "") {
		// The list names files of controllers which the group may not have.
		if err := unix.Fchownat(d.fd, file, uid, -1, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "chown", Path: d.absolute() + "/" + file, Err: err}
		}
	}
	return nil
}
