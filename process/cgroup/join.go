package cgroup

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Join is how a new process gets into the group without waiting for a grace
// period of the kernel (~10 ms on an idle machine, see the package comment).
// First, still single-threaded, it writes "0" to each of Tasks; then it is
// cloned with CLONE_INTO_CGROUP and Dir. v2 has no Tasks, v1 no Dir, a hybrid
// both.
//
// CLONE_NEWCGROUP belongs into the same clone3: only there is the group the one
// of all hierarchies, which becomes the root of the namespace.
//
// Dir is a detached mount of the group: inside the container, where it would be
// seen for a moment, ".." of it leads nowhere (CVE-2024-21626).
type Join struct {
	Tasks []*os.File
	Dir   *os.File

	release func()
}

// Close must be called, once, when the process has joined: Delete waits for
// nobody, but the descriptors stay open until then.
func (j Join) Close() { j.release() }

// Join opens the group's files for joining once; later calls get the same.
func (g *Group) Join() (Join, error) {
	if err := g.use(); err != nil {
		return Join{}, err
	}
	j, err := g.openJoin()
	if err != nil {
		g.done()
		return Join{}, fmt.Errorf("join cgroup: %w", err)
	}
	j.release = func() {
		g.holdNoMore()
		g.done()
	}
	return j, nil
}

// JoinProcess is for the exec that cannot join with Join: clone3 said EBUSY
// because the container, on v2, moved its processes to groups below and has
// controllers there, or the group is gone because it moved to another one. Dir
// is then the group of the process.
func (g *Group) JoinProcess(pid int) (Join, error) {
	j, err := g.Join()
	if err != nil || j.Dir == nil {
		return j, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	var own dir
	if err == nil {
		own, err = openDir(Dir{Mount: g.dir("").Mount, Path: parseProcCgroup(string(text))[""]})
	}
	if err != nil {
		j.Close()
		return Join{}, fmt.Errorf("join cgroup of process %d: %w", pid, err)
	}
	defer unix.Close(own.fd)
	dir, err := own.detach()
	if err != nil {
		j.Close()
		return Join{}, fmt.Errorf("join cgroup of process %d: %w", pid, err)
	}
	shared := j.release
	return Join{Tasks: j.Tasks, Dir: dir, release: func() { dir.Close(); shared() }}, nil
}

func (g *Group) openJoin() (Join, error) {
	g.mu.Lock()
	known := g.join
	g.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	j, err := openJoin(g.dirs)
	if err != nil {
		return Join{}, err
	}
	g.mu.Lock()
	if g.join == nil {
		g.join = &j
	}
	known = g.join
	g.mu.Unlock()
	if known != &j { // another call was quicker
		j.close()
	}
	return *known, nil
}

func openJoin(dirs []dir) (j Join, err error) {
	for _, d := range dirs {
		if d.v2() {
			j.Dir, err = d.detach()
		} else {
			var fd int
			if fd, err = d.open("tasks", unix.O_WRONLY); err == nil {
				j.Tasks = append(j.Tasks, os.NewFile(uintptr(fd), d.absolute()+"/tasks"))
			}
		}
		if err != nil {
			j.close()
			return Join{}, err
		}
	}
	return j, nil
}

func (j Join) close() {
	for _, f := range j.Tasks {
		f.Close()
	}
	if j.Dir != nil {
		j.Dir.Close()
	}
}

// detach opens the directory as a mount of its own that is attached nowhere.
func (d dir) detach() (*os.File, error) {
	fd, err := d.retry("open_tree", "", func() (int, error) {
		return unix.OpenTree(d.fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.absolute()), nil
}
