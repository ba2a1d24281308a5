package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dir is a group's directory in one hierarchy, open (O_PATH): files are opened
// below the descriptor, so no path is resolved twice.
type dir struct {
	Dir
	fd int
}

// openMount opens the root of a hierarchy.
func openMount(d Dir) (int, error) {
	return retry("open", d.Mount, func() (int, error) {
		return unix.Open(d.Mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// openBelow opens a directory of the hierarchy whose root is mount.
func openBelow(mount int, d Dir) (int, error) {
	return retry("open", d.absolute(), func() (int, error) {
		return unix.Openat2(mount, d.Path[1:], &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
	})
}

// openDir opens a group's directory that exists.
func openDir(d Dir) (dir, error) {
	mount, err := openMount(d)
	if err != nil {
		return dir{}, err
	}
	defer unix.Close(mount)
	fd, err := openBelow(mount, d)
	return dir{d, fd}, err
}

// retry repeats a system call that a signal interrupted; the Go run time sends
// itself many.
func retry(op, name string, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: op, Path: name, Err: err}
		}
	}
}

// open opens a file of the group.
func (d dir) open(file string, flags int) (int, error) {
	return openat(d.fd, file, flags)
}

func openat(fd int, file string, flags int) (int, error) {
	return retry("open", file, func() (int, error) {
		return unix.Openat(fd, file, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
}

func (d dir) read(file string) (string, error) { return readAt(d.fd, file) }

func readAt(fd int, file string) (string, error) {
	f, err := openat(fd, file, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(f)
	return readAll(f, file)
}

func readAll(fd int, file string) (string, error) {
	var text strings.Builder
	buf := make([]byte, 4096) // no cgroup file gives more at once
	for {
		n, err := retry("read", file, func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return "", err
		}
		if n == 0 {
			return text.String(), nil
		}
		text.Write(buf[:n])
	}
}

func (d dir) write(file, value string) error { return writeAt(d.fd, file, value) }

func writeAt(fd int, file, value string) error {
	f, err := openat(fd, file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	return writeAll(f, file, value)
}

// writeAll writes a value. Where it has several lines, each is a write of its
// own, since that is what the kernel takes. An empty value is an empty line.
func writeAll(fd int, file, value string) error {
	if value == "" {
		value = "\n"
	}
	for {
		line, rest, more := strings.Cut(value, "\n")
		if more {
			line += "\n"
		}
		if _, err := retry("write", file, func() (int, error) { return unix.Write(fd, []byte(line)) }); err != nil {
			return err
		}
		if value = rest; value == "" {
			return nil
		}
	}
}

func (d dir) has(file string) bool { return unix.Faccessat(d.fd, file, unix.F_OK, 0) == nil }

// children calls f for each sub-group with its open directory, which f must
// not keep.
func children(fd int, f func(name string, fd int) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Nlink <= 2 { // kernfs counts the directories
		return nil
	}
	again, err := openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	list := os.NewFile(uintptr(again), ".")
	entries, err := list.ReadDir(-1)
	list.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		child, err := openat(fd, e.Name(), unix.O_PATH|unix.O_DIRECTORY)
		if gone(err) {
			continue
		}
		if err == nil {
			err = f(e.Name(), child)
			unix.Close(child)
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
	all, err := pidsBelow(nil, d.fd)
	slices.Sort(all)
	return slices.Compact(all), err // v1 does not promise to list each once
}

func pidsBelow(all []int, fd int) ([]int, error) {
	text, err := readAt(fd, "cgroup.procs")
	if errors.Is(err, unix.EOPNOTSUPP) { // a threaded group
		text, err = readAt(fd, "cgroup.threads")
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
	err = children(fd, func(_ string, child int) (err error) {
		all, err = pidsBelow(all, child)
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
func await(ctx context.Context, fd int, line string) error {
	events, err := openat(fd, "cgroup.events", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(events), "cgroup.events")
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
			if err := removeBelow(d.fd); err != nil && !gone(err) && !errors.Is(err, unix.EBUSY) {
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
			if err := await(ctx, d.fd, "populated 0"); err != nil && !gone(err) && ctx.Err() == nil {
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
func removeBelow(fd int) error {
	var busy error
	err := children(fd, func(name string, child int) error {
		err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.EBUSY) {
			if err = removeBelow(child); err == nil {
				err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
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
