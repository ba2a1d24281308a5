package cgroup

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// base is the parent of all groups that the tests make, in every hierarchy.
var base = "/myshim-test-" + strconv.Itoa(os.Getpid())

// TestMain is also the program inside of the groups.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1][0] != '-' {
		role(os.Args[1:])
		os.Exit(0)
	}
	_, _ = os.ReadFile("/proc/self/cgroup")
	runtime.GC() // opens files of our own cgroup, once
	before := footprint()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // its workers stay until then
	}
	var after string
	for range 100 {
		if after = footprint(); after == before {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if after != before {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "left behind:\n%s\nbefore:\n%s\n%s\n", after, before, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	if os.Getuid() == 0 {
		all, err := hierarchies(false)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		for _, h := range all {
			if err := unix.Rmdir(h.mount + base); err != nil && err != unix.ENOENT {
				left, _ := filepath.Glob(h.mount + base + "/*/")
				fmt.Fprintln(os.Stderr, "left behind:", h.mount+base, left, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// footprint is this process's descriptors, goroutines and children.
func footprint() string {
	var b strings.Builder
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") {
			fmt.Fprintln(&b, to) // Go's poller has one of each
		}
	}
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, c := range children {
		pids, _ := os.ReadFile(c)
		b.Write(pids)
	}
	fmt.Fprintln(&b, runtime.NumGoroutine(), "goroutines")
	return b.String()
}

func role(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(9)
		}
	}
	switch args[0] {
	case "sleep":
		time.Sleep(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "hog": // takes memory until it is killed
		size, _ := strconv.Atoi(args[1])
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		fail(err)
		for i := 0; i < len(mem); i += 4096 {
			mem[i] = 1
		}
		os.Exit(7)
	case "hold": // takes memory and keeps it
		size, _ := strconv.Atoi(args[1])
		mem := make([]byte, size)
		for i := 0; i < len(mem); i += 4096 {
			mem[i] = 1
		}
		for {
			time.Sleep(time.Hour)
			mem[0]++
		}
	case "count": // file
		f, err := os.Create(args[1])
		fail(err)
		for i := 0; ; i++ {
			_, err := f.WriteAt(fmt.Append(nil, i), 0)
			fail(err)
		}
	case "hang":
		fail(hang())
	case "spin":
		for {
			os.Getpid()
		}
	case "open": // path flags
		flags := map[string]int{"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR}[args[2]]
		_, err := unix.Open(args[1], flags|unix.O_NONBLOCK, 0)
		if err == unix.EPERM {
			os.Exit(1)
		}
		fail(err)
	case "mknod": // path major minor
		major, _ := strconv.Atoi(args[2])
		minor, _ := strconv.Atoi(args[3])
		err := unix.Mknod(args[1], unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(major), uint32(minor))))
		if err == unix.EPERM {
			os.Exit(1)
		}
		fail(err)
		os.Remove(args[1])
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within 10s", what)
}

// cpus is the list of a machine's CPUs, and lastCPU the last of them: there may
// be one only.
func cpus() string {
	if lastCPU() == "0" {
		return "0"
	}
	return "0-" + lastCPU()
}

func lastCPU() string { return strconv.Itoa(runtime.NumCPU() - 1) }

func location(t testing.TB, name string) Location {
	t.Helper()
	l, err := Resolve(base+"/"+name, "id", false)
	ok(t, err)
	return l
}

// newTestGroup makes a group that is gone after the test, with its processes.
func newTestGroup(t testing.TB) *Group {
	t.Helper()
	needRoot(t)
	g, err := Create(location(t, filepath.Base(t.Name())), nil)
	ok(t, err)
	cleanUp(t, g)
	return g
}

// fakeGroup is a group of one hierarchy that is a plain directory with the files:
// a kernel that does not do as it is told.
func fakeGroup(t *testing.T, where Dir, files map[string]string) *Group {
	t.Helper()
	where.Mount, where.Path = t.TempDir(), "/fake"
	ok(t, os.Mkdir(where.absolute(), 0o755))
	for name, text := range files {
		ok(t, os.WriteFile(filepath.Join(where.absolute(), name), []byte(text), 0o644))
	}
	g, err := Open(Location{Dirs: []Dir{where}})
	ok(t, err)
	t.Cleanup(g.Close)
	return g
}

func cleanUp(t testing.TB, g *Group) {
	t.Cleanup(func() {
		if err := g.Kill(); err != nil && !errors.Is(err, ErrDeleted) {
			t.Error(err)
		}
		if err := g.Delete(context.Background()); err != nil {
			t.Error(err)
		}
		for _, d := range g.Dirs {
			if _, err := os.Stat(d.absolute()); err == nil {
				t.Errorf("%s is left behind", d.absolute())
			}
		}
	})
}

// command is this program in a role, or another one, which joins the group as
// the launch package does it: v1 by its own hand, v2 at birth.
func command(t testing.TB, j Join, args ...string) *exec.Cmd {
	t.Helper()
	if !strings.Contains(args[0], "/") {
		exe, err := os.Executable()
		ok(t, err)
		args = append([]string{exe}, args...)
	}
	var script strings.Builder
	for i := range j.Tasks {
		fmt.Fprintf(&script, "echo 0 >&%d && exec %d>&- || exit 99\n", 3+i, 3+i)
	}
	// bash: others know no descriptor above 9
	c := exec.Command("/bin/bash", append([]string{"-c", script.String() + `exec "$@"`, "join"}, args...)...)
	c.Stderr = os.Stderr
	c.ExtraFiles = j.Tasks
	if j.Dir != nil {
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(j.Dir.Fd())}
	}
	return c
}

// start starts a process in the group, and returns when it has joined.
func start(t testing.TB, g *Group, args ...string) *exec.Cmd {
	t.Helper()
	j, err := g.Join()
	ok(t, err)
	defer j.Close()
	joined, w, err := os.Pipe()
	ok(t, err)
	defer joined.Close()
	c := command(t, j, args...)
	c.ExtraFiles = append(c.ExtraFiles, w)
	c.Args[2] = strings.Replace(c.Args[2], "exec \"$@\"", fmt.Sprintf("exec %d>&-; exec \"$@\"", 2+len(c.ExtraFiles)), 1)
	err = c.Start()
	w.Close()
	ok(t, err)
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = g.Thaw()
		_ = c.Wait()
	})
	_, _ = joined.Read(make([]byte, 1))
	return c
}

// result runs to the end and returns the exit code, or minus the signal.
func result(t testing.TB, g *Group, args ...string) int {
	t.Helper()
	j, err := g.Join()
	ok(t, err)
	defer j.Close()
	c := command(t, j, args...)
	_ = c.Run()
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return -int(s.Signal())
	}
	return c.ProcessState.ExitCode()
}

// file reads a file of the group; on v1 of the controller's hierarchy.
func file(t testing.TB, g *Group, controller, name string) string {
	t.Helper()
	d := g.dir(controller)
	if d == nil {
		t.Fatalf("no %s", controller)
	}
	text, err := d.read(name)
	ok(t, err)
	return strings.TrimSpace(text)
}

// everything is what all files of the group say, but those that change by
// themselves.
func everything(t testing.TB, g *Group) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, d := range g.dirs {
		entries, err := os.ReadDir(d.absolute())
		ok(t, err)
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			text, err := d.read(e.Name())
			if err != nil {
				text = reason(err).Error()
			}
			for _, moving := range []string{"stat", "usage", "current", "peak", "pressure", "procs", "tasks", "threads", "kmem.slabinfo", "events", "io_service", "prioidx"} {
				if strings.Contains(e.Name(), moving) {
					text = ""
				}
			}
			if e.Name() == "devices.list" { // systemd has another order
				lines := strings.Split(text, "\n")
				slices.Sort(lines)
				text = strings.Join(lines, "\n")
			}
			all[d.absolute()+"/"+e.Name()] = text
		}
	}
	return all
}

func sameFiles(t testing.TB, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s: got %q, want %q", name, got[name], text)
		}
	}
}
