package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dir is a group's directory in one hierarchy, open (O_PATH): files are opened
// below the descriptor, so no path is resolved twice. The root of the hierarchy
// has no Path.
type dir struct {
	Dir
	fd int
}

// openRoot opens the root of a directory's hierarchy.
func openRoot(where Dir) (dir, error) {
	root := dir{Dir: Dir{Controllers: where.Controllers, Mount: where.Mount}}
	var err error
	root.fd, err = root.retry("open", "", func() (int, error) {
		return unix.Open(where.Mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	return root, err
}

// openBelow opens a directory of the hierarchy that has the root.
func openBelow(root dir, where Dir) (dir, error) {
	d := dir{Dir: where}
	var err error
	d.fd, err = d.retry("open", "", func() (int, error) {
		return unix.Openat2(root.fd, where.Path[1:], &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
	})
	return d, err
}

// openDir opens a group's directory that exists.
func openDir(where Dir) (dir, error) {
	root, err := openRoot(where)
	if err != nil {
		return dir{}, err
	}
	defer unix.Close(root.fd)
	return openBelow(root, where)
}

// retry repeats a system call that a signal interrupted; the Go run time sends
// itself many. An error is about the file, or the directory if that is "".
func (d dir) retry(op, file string, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: op, Path: path.Join(d.absolute(), file), Err: err}
		}
	}
}

// open opens a file of the group.
func (d dir) open(file string, flags int) (int, error) {
	return d.retry("open", file, func() (int, error) {
		return unix.Openat(d.fd, file, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
}

func (d dir) read(file string) (string, error) {
	fd, err := d.open(file, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text strings.Builder
	buf := make([]byte, 4096) // no cgroup file gives more at once
	for {
		n, err := d.retry("read", file, func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return "", err
		}
		if n == 0 {
			return text.String(), nil
		}
		text.Write(buf[:n])
	}
}

func (d dir) write(file, value string) error {
	fd, err := d.open(file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return d.writeTo(fd, file, value)
}

// writeTo writes a value to a file that is open. Where it has several lines, each
// is a write of its own, since that is what the kernel takes. An empty value is
// an empty line.
func (d dir) writeTo(fd int, file, value string) error {
	if value == "" {
		value = "\n"
	}
	for {
		line, rest, more := strings.Cut(value, "\n")
		if more {
			line += "\n"
		}
		if _, err := d.retry("write", file, func() (int, error) { return unix.Write(fd, []byte(line)) }); err != nil {
			return err
		}
		if value = rest; value == "" {
			return nil
		}
	}
}

func (d dir) has(file string) bool { return unix.Faccessat(d.fd, file, unix.F_OK, 0) == nil }

// children calls f for each sub-group with its name and its open directory, which
// f must not keep.
func (d dir) children(f func(name string, child dir) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.absolute(), Err: err}
	}
	if st.Nlink <= 2 { // kernfs counts the directories
		return nil
	}
	again, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	list := os.NewFile(uintptr(again), d.absolute())
	entries, err := list.ReadDir(-1)
	list.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		child := dir{Dir: d.Dir}
		child.Path = path.Join(d.Path, e.Name())
		child.fd, err = d.open(e.Name(), unix.O_PATH|unix.O_DIRECTORY)
		if gone(err) {
			continue
		}
		if err == nil {
			err = f(e.Name(), child)
			unix.Close(child.fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gone tells the errors of a group that was removed meanwhile.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

// pids returns the processes of the group and of all groups below it.
func (d dir) pids() ([]int, error) {
	all, err := d.pidsBelow(nil)
	slices.Sort(all)
	return slices.Compact(all), err // v1 does not promise to list each once
}

func (d dir) pidsBelow(all []int) ([]int, error) {
	text, err := d.read("cgroup.procs")
	if errors.Is(err, unix.EOPNOTSUPP) { // a threaded group
		text, err = d.read("cgroup.threads")
	}
	if gone(err) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	for line := range strings.Lines(text) {
		// 0 is a process that our pid namespace does not have.
		if pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil && pid > 0 {
			all = append(all, pid)
		}
	}
	err = d.children(func(_ string, child dir) (err error) {
		all, err = child.pidsBelow(all)
		return err
	})
	if gone(err) {
		err = nil
	}
	return all, err
}

// await waits until cgroup.events (v2) has a line. The file is in Go's poller,
// so that no thread waits: the kernel reports a change by EPOLLPRI|EPOLLERR,
// which the poller takes for readable.
func (d dir) await(ctx context.Context, line string) error {
	events, err := d.open("cgroup.events", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(events), path.Join(d.absolute(), "cgroup.events"))
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		buf := make([]byte, 256)
		n, err := unix.Pread(int(fd), buf, 0)
		failed = err
		return err != nil && err != unix.EINTR || err == nil && slices.Contains(strings.Split(string(buf[:n]), "\n"), line)
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(ctx)
	}
	return errors.Join(err, failed)
}

// remove removes the group with everything below it. A group that still has
// processes is waited for until ctx ends.
func (d dir) remove(ctx context.Context) error {
	told := false
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		err := d.rmdir()
		if errors.Is(err, unix.EBUSY) {
			if err := d.removeBelow(); err != nil && !gone(err) && !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("rmdir below %s: %w", d.absolute(), err)
			}
			err = d.rmdir()
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EBUSY):
			return &os.PathError{Op: "rmdir", Path: d.absolute(), Err: err}
		case ctx.Err() != nil:
			return d.busy()
		}
		// The last process may be on its way out. cgroup v2 says when it is
		// gone; v1 does not.
		if d.v2() && !told {
			told = true
			if err := d.await(ctx, "populated 0"); err != nil && !gone(err) && ctx.Err() == nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

func (d dir) rmdir() error {
	for {
		switch err := unix.Rmdir(d.absolute()); {
		case err == nil || gone(err):
			return nil
		case err != unix.EINTR:
			return err
		}
	}
}

func (d dir) busy() error {
	pids, err := d.pids()
	return errors.Join(fmt.Errorf("rmdir %s: %w: it has processes %v", d.absolute(), unix.EBUSY, pids), err)
}

// removeBelow removes the sub-groups, the deepest first. It goes on where one
// is busy.
func (d dir) removeBelow() error {
	var busy error
	err := d.children(func(name string, child dir) error {
		rmdir := func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) }
		err := rmdir()
		if errors.Is(err, unix.EBUSY) {
			if err = child.removeBelow(); err == nil {
				err = rmdir()
			}
		}
		switch {
		case err == nil || gone(err):
			return nil
		case errors.Is(err, unix.EBUSY):
			busy = err
			return nil
		}
		return err
	})
	return errors.Join(busy, err)
}
