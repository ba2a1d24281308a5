package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// oomCount is what a group knows of processes killed for want of memory.
type oomCount struct {
	mu     sync.Mutex // makes a report one with the reading it is made of
	file   int        // that has the count
	event  int        // v1's eventfd; the same as file on v2
	v2     bool
	kills  uint64
	report func(kills uint64) // nil: not watched
}

// WatchOOM calls report whenever the kernel has killed processes of the group
// because it reached its limit, with the number of them since the last call.
// report must not block, nor call the group.
//
// Calls come from one goroutine for all groups of this program, or from
// CheckOOM. Without a memory controller, nothing is ever reported.
func (g *Group) WatchOOM(report func(kills uint64)) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.done()
	d := g.dir("memory")
	if d == nil {
		return nil
	}
	o := &g.oom
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.report != nil {
		return fmt.Errorf("watch cgroup for OOM: it is watched already")
	}
	if err := o.open(*d); err != nil {
		return fmt.Errorf("watch cgroup for OOM: %w", err)
	}
	if o.file < 0 {
		return nil
	}
	o.kills, _ = o.count()
	if err := watcher.add(o); err != nil {
		o.close()
		return fmt.Errorf("watch cgroup for OOM: %w", err)
	}
	o.report = report
	return nil
}

// CheckOOM looks now. The kernel counts a kill before it sends it: when the
// exit of a killed process has been seen, CheckOOM makes sure that it has been
// reported.
func (g *Group) CheckOOM() {
	g.oom.check()
}

// OOMKilled says whether the kernel has ever killed a process of the group for want
// of memory.
func (g *Group) OOMKilled() bool {
	if g.use() != nil {
		return false
	}
	defer g.done()
	file := "memory.oom_control"
	if g.V2() {
		file = "memory.events"
	}
	text, err := g.read("memory", file)
	kills, _ := oomKills(text)
	return err == nil && kills > 0
}

func (g *Group) unwatch() {
	o := &g.oom
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.report != nil {
		watcher.remove(o)
		o.close()
		o.report = nil
	}
}

// check reports what is new.
func (o *oomCount) check() (found bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.report == nil {
		return true
	}
	kills, ok := o.count()
	if !ok || kills <= o.kills {
		return !ok
	}
	n := kills - o.kills
	o.kills = kills
	o.report(n)
	return true
}

func (o *oomCount) open(d dir) (err error) {
	o.file, o.event, o.v2 = -1, -1, d.v2()
	if o.v2 {
		o.file, err = d.open("memory.events", unix.O_RDONLY)
		o.event = o.file
		if gone(err) { // the group was not given the controller
			err = nil
		}
		return err
	}
	if o.file, err = d.open("memory.oom_control", unix.O_RDONLY); err != nil {
		return err
	}
	if o.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = d.write("cgroup.event_control", fmt.Sprintf("%d %d", o.event, o.file))
	}
	if err != nil {
		o.close()
	}
	return err
}

func (o *oomCount) close() {
	if o.event != o.file && o.event >= 0 {
		unix.Close(o.event)
	}
	unix.Close(o.file)
}

// count reads the kills so far; false if the group is gone.
func (o *oomCount) count() (uint64, bool) {
	buf := make([]byte, 512)
	n, err := unix.Pread(o.file, buf, 0)
	if err != nil {
		return 0, false
	}
	return oomKills(string(buf[:n]))
}

// oomKills reads memory.events of v2, or memory.oom_control.
func oomKills(text string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if text, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			return kills, err == nil
		}
	}
	return 0, false
}

// oomWatcher waits for all groups of the program with one goroutine: an epoll
// descriptor is itself something that Go's poller can wait for. There is no
// goroutine while nothing is watched.
type oomWatcher struct {
	mu     sync.Mutex
	epoll  *os.File            // guarded by mu
	groups map[int32]*oomCount // guarded by mu
	next   int32               // a number that no removed group had; guarded by mu
}

var watcher oomWatcher

func (w *oomWatcher) add(o *oomCount) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoll == nil {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err == nil {
			err = unix.SetNonblock(fd, true) // which tells os.NewFile to poll it
		}
		if err != nil {
			return os.NewSyscallError("epoll_create1", err)
		}
		w.epoll = os.NewFile(uintptr(fd), "epoll")
		w.groups = make(map[int32]*oomCount)
		go w.run(w.epoll)
	}
	w.next++
	// Edge-triggered: neither has to be read to be quiet again. kernfs says
	// EPOLLPRI, and EPOLLERR as well.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: w.next}
	if o.v2 {
		event.Events = unix.EPOLLPRI | unix.EPOLLET
	}
	err := w.control(unix.EPOLL_CTL_ADD, o.event, &event)
	if err == nil {
		w.groups[w.next] = o
	} else {
		w.stopIfIdle()
	}
	return os.NewSyscallError("epoll_ctl", err)
}

func (w *oomWatcher) remove(o *oomCount) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, other := range w.groups {
		if other == o {
			delete(w.groups, n)
		}
	}
	_ = w.control(unix.EPOLL_CTL_DEL, o.event, nil)
	w.stopIfIdle()
}

func (w *oomWatcher) control(op, fd int, event *unix.EpollEvent) error {
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	if e := conn.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) }); e != nil {
		return e
	}
	return err
}

func (w *oomWatcher) stopIfIdle() {
	if len(w.groups) == 0 {
		w.epoll.Close() // ends run
		w.epoll = nil
	}
}

func (w *oomWatcher) run(epoll *os.File) {
	conn, err := epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 16)
	for {
		var n int
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n > 0 || failed != nil && failed != unix.EINTR
		})
		if err != nil || failed != nil { // closed
			return
		}
		for _, e := range events[:n] {
			w.mu.Lock()
			o := w.groups[e.Fd]
			w.mu.Unlock()
			if o != nil {
				o.happened(0)
			}
		}
	}
}

// happened follows an event. v1 tells of it before it kills, and so before it
// counts: then it is looked at again for a while. It may be that nobody is killed
// at all; and a group above has the same event.
func (o *oomCount) happened(tries int) {
	if !o.check() && !o.v2 && tries < 10 {
		time.AfterFunc(time.Millisecond<<tries, func() { o.happened(tries + 1) })
	}
}
