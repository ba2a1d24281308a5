package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/stdio"
)

// Attacks that have worked on some runtime. Each is also made where it must
// succeed, so that a test that does not attack at all fails.

func init() {
	inside["spy"] = spy
	inside["nap"] = func([]string) int { time.Sleep(30 * time.Millisecond); return 0 }
	inside["groups"] = func([]string) int {
		groups, _ := os.Getgroups()
		fmt.Println(groups)
		return 0
	}
	inside["escape"] = func([]string) int { // to wherever the working directory is
		entries, err := os.ReadDir(".")
		fmt.Println(len(entries), err)
		return 0
	}
}

// spy looks over and over at all other processes it can see, for so many
// milliseconds, and prints what it got of them. Those that are not the test's
// program yet are the runtime's. The second argument is a path that only the host
// has.
func spy(args []string) int {
	millis, _ := strconv.Atoi(args[0])
	seen := map[string]int{}
	for end := time.Now().Add(time.Duration(millis) * time.Millisecond); time.Now().Before(end); {
		dir, err := os.Open("/proc")
		if err != nil {
			return 1
		}
		names, _ := dir.Readdirnames(-1)
		dir.Close()
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
				probe(pid, args[1], seen)
			}
		}
	}
	for _, line := range slices.Sorted(maps.Keys(seen)) {
		fmt.Println(line)
	}
	return 0
}

// probe tries what leads from a process to what it has.
func probe(pid int, host string, seen map[string]int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	payload := func() bool {
		text, _ := os.ReadFile(dir + "comm")
		return string(text) == "test\n"
	}
	// What is refused was refused by what there was before, what was got is of
	// what there is still after it.
	try := func(what string, do func() error) {
		before := payload()
		err := do()
		after := payload()
		if _, gone := os.Stat(dir + "comm"); gone != nil {
			return
		}
		switch {
		case err == nil && after == before:
		case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
			what = "no " + what
			after = before
		default:
			return
		}
		if after {
			seen["payload "+what]++
		} else {
			seen["runtime "+what]++
		}
	}
	for _, name := range []string{"mem", "exe", "environ", "cwd", "ns/mnt"} {
		try(name, func() error {
			fd, err := unix.Open(dir+name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}
	try("root", func() error { _, err := os.Stat(dir + "root/"); return err })
	try("root of the host", func() error { _, err := os.Stat(dir + "root" + host); return err })
	try("more rights", func() error { // which everybody may know of
		permitted, filter := rights(dir)
		own, _ := rights("/proc/self/")
		if permitted&^own == 0 || filter == unix.SECCOMP_MODE_FILTER {
			return os.ErrNotExist
		}
		return nil
	})
	try("unfiltered", func() error {
		if _, filter := rights(dir); filter == unix.SECCOMP_MODE_FILTER {
			return os.ErrNotExist
		}
		return nil
	})
	for fd := range 20 {
		link := fmt.Sprintf("%sfd/%d", dir, fd)
		before := payload()
		if to, err := os.Readlink(link); err == nil && payload() == before {
			to, _, _ = strings.Cut(to, ":[")
			try("fd "+to, func() error { return nil })
		}
	}
	try("ptrace", func() error {
		err := unix.PtraceSeize(pid)
		if err == nil {
			_ = unix.PtraceDetach(pid)
		}
		return err
	})
}

// rights are the permitted capabilities of a process, and its mode of seccomp.
func rights(dir string) (permitted uint64, filter int) {
	status, _ := os.ReadFile(dir + "status")
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "CapPrm: %x", &permitted)
		_, _ = fmt.Sscanf(line, "Seccomp: %d", &filter)
	}
	return permitted, filter
}

// spied runs a spy, with these capabilities, while something is done to its
// container, and returns what it has seen.
func spied(t *testing.T, caps []string, do func(c *Container)) []string {
	t.Helper()
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"acct"}, Action: specs.ActErrno}}}
	}, "spy", "1000", t.TempDir())
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out}
	c := create(t, cfg)
	start(t, c)
	for began := time.Now(); time.Since(began) < 800*time.Millisecond; {
		do(c)
	}
	if code := wait(t, c.Init); code != 0 {
		t.Errorf("the spy: exit %d", code)
	}
	if err := c.Delete(t.Context()); err != nil { // with all that it wrote
		t.Error(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func sleepBriefly(t *testing.T, c *Container) {
	t.Helper()
	serial++
	// The process waits for its policy in the container's pid namespace: without
	// one it is a matter of luck to see it there.
	plain := &specs.Scheduler{Policy: specs.SchedOther}
	p, err := c.Exec(fmt.Sprint("s", serial), &specs.Process{Cwd: "/", Args: []string{"/test", "nap"}, Env: []string{"INSIDE=1"}, NoNewPrivileges: true, Scheduler: plain}, stdio.Request{})
	if err == nil {
		err = c.StartExec(t.Context(), p)
	}
	if errors.Is(err, ErrState) {
		return // the spy has ended
	}
	if err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 0 && code != 137 { // it ends with the spy
		t.Errorf("the nap: exit %d", code)
	}
	if err := c.DeleteExec(t.Context(), p); err != nil {
		t.Error(err)
	}
}

// CVE-2016-9962, and ptrace at every step: a process of the container sees an
// exec, or a container that joins its pid namespace, while it is made.
func TestSpy(t *testing.T) {
	check := func(t *testing.T, seen []string, allowed ...string) {
		t.Helper()
		for _, line := range seen {
			if what, ok := strings.CutPrefix(line, "runtime "); ok && !strings.HasPrefix(what, "no ") && !slices.Contains(allowed, what) {
				t.Errorf("the spy got %q of a process of the runtime", what)
			}
		}
	}
	// Spying takes luck: it goes on until all of this is seen.
	until := func(t *testing.T, caps []string, do func(*Container), want ...string) []string {
		t.Helper()
		seen := map[string]bool{}
		for began := time.Now(); time.Since(began) < 2*time.Minute; {
			for _, line := range spied(t, caps, do) {
				seen[line] = true
			}
			if !slices.ContainsFunc(want, func(what string) bool { return !seen[what] }) {
				return slices.Sorted(maps.Keys(seen))
			}
		}
		t.Errorf("the spy does not spy: %q", slices.Sorted(maps.Keys(seen)))
		return nil
	}
	// A process of the runtime, and of what is not protected all there is.
	spy := func(t *testing.T, caps []string, do func(*Container)) []string {
		t.Helper()
		runtime := "runtime no mem"
		if caps != nil {
			runtime = "runtime mem"
		}
		return until(t, caps, do, runtime, "payload mem", "payload root", "payload fd /dev/null")
	}
	join := func(c *Container) {
		cfg, _ := config(t, func(s *specs.Spec) {
			for i, ns := range s.Linux.Namespaces {
				if ns.Type == specs.PIDNamespace {
					s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", c.Init.State().PID)
				}
			}
			s.Linux.Seccomp = c.spec.Linux.Seccomp
		}, "sleep")
		member, err := Create(t.Context(), cfg)
		if err != nil {
			t.Log(err) // the namespace may have ended
			return
		}
		if err := errors.Join(member.Start(t.Context()), member.Destroy(context.Background())); err != nil && c.Init.State().Status == Running {
			t.Error(err)
		}
	}
	t.Run("exec", func(t *testing.T) {
		check(t, spy(t, nil, func(c *Container) { sleepBriefly(t, c) }))
	})
	// With CAP_SYS_PTRACE it may trace what it likes in there: what has no more
	// than the container, and nothing of the host's.
	tracer, traced := []string{"CAP_SYS_PTRACE"}, []string{"mem", "exe", "environ", "cwd", "ns/mnt", "root", "ptrace", "fd /", "fd /dev/null", "fd socket", "fd pipe"}
	t.Run("exec, CAP_SYS_PTRACE", func(t *testing.T) {
		check(t, spy(t, tracer, func(c *Container) { sleepBriefly(t, c) }), traced...)
	})
	joinAndExec := func(c *Container) {
		join(c)
		sleepBriefly(t, c)
	}
	t.Run("create", func(t *testing.T) { check(t, spy(t, nil, joinAndExec)) })
	t.Run("create, CAP_SYS_PTRACE", func(t *testing.T) { check(t, spy(t, tracer, joinAndExec), traced...) })
	t.Run("create on an old kernel, CAP_SYS_PTRACE", func(t *testing.T) {
		onOldKernel(t)
		check(t, spy(t, tracer, joinAndExec), append(traced, "fd anon_inode")...)
	})
	// What enters the namespace first, and then makes the container.
	t.Run("naive", func(t *testing.T) {
		until(t, tracer, func(c *Container) { enterEarly(t, c) }, "runtime root of the host", "runtime more rights", "runtime unfiltered")
	})
}

// onOldKernel makes procfs have no option pidns.
func onOldKernel(t *testing.T) {
	openProc = func(string) (*os.File, error) { return nil, errors.ErrUnsupported }
	t.Cleanup(func() { openProc = kernel.OpenProc })
}

// enterEarly has a process with all rights in the pid namespace of a container.
func enterEarly(t *testing.T, c *Container) {
	t.Helper()
	pids, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", c.Init.State().PID))
	if err != nil {
		return // it has ended
	}
	defer pids.Close()
	s := script.New()
	pid, child, zero := s.Cell("pid"), s.Label("child"), script.Int(0)
	s.Add(script.Prctl, script.Flags(unix.PR_SET_DUMPABLE, ""), zero)
	s.Add(script.Setns, script.Int(script.FirstFD), script.Flags(unix.CLONE_NEWPID, ""))
	s.Add(script.Clone, script.Flags(unix.CLONE_PARENT, ""), zero, zero, zero, zero).Into(pid)
	s.Jump(pid.Arg(), zero, child)
	s.Add(script.Exit, zero)
	s.Place(child)
	s.Report()
	s.Wait()
	s.End()
	null := openNull(t)
	in, err := launch.Start(s, [3]int{null, null, null}, []int{int(pids.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Next(t.Context()); err == nil {
		time.Sleep(20 * time.Millisecond)
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
}

func openNull(t *testing.T) int {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return int(null.Fd())
}

// CVE-2024-21626: the shim leaks directories of the host, and the working
// directory is one of them.
func TestLeakedDirectories(t *testing.T) {
	var first int
	for i := range 50 {
		fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // not close-on-exec
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if i == 0 {
			first = fd
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	naive := exec.Command(self, "fds") // as any child that does not close them
	naive.Env = []string{"INSIDE=1"}
	if out, err := naive.Output(); err != nil || !strings.Contains(string(out), fmt.Sprintf("\n%d /\n", first)) {
		t.Fatalf("nothing is leaked: %v\n%s", err, out)
	}
	if got := output(t, nil, "fds"); strings.Count(got, "\n") != 3 {
		t.Errorf("descriptors of the init:\n%s", got)
	}
	cfg, _ := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	if got := execOutput(t, c, &specs.Process{Cwd: "/", Args: []string{"/test", "fds"}, Env: []string{"INSIDE=1"}}); strings.Count(got, "\n") != 3 {
		t.Errorf("descriptors of the exec:\n%s", got)
	}
	for fd := 3; fd < 64; fd++ {
		for _, dir := range []string{"/proc/self/fd/", "/proc/thread-self/fd/", "/proc/1/fd/", "/dev/fd/"} {
			p := &specs.Process{Cwd: dir + strconv.Itoa(fd), Args: []string{"/test", "escape"}, Env: []string{"INSIDE=1"}}
			serial++
			e, err := c.Exec(fmt.Sprint("l", serial), p, stdio.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.StartExec(t.Context(), e); err == nil || !strings.Contains(err.Error(), "process.cwd") {
				t.Errorf("exec in %s: %v", p.Cwd, err)
			}
			if err := c.DeleteExec(t.Context(), e); err != nil {
				t.Error(err)
			}
		}
		cfg, _ := config(t, func(s *specs.Spec) { s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd) }, "true")
		if c, err := Create(t.Context(), cfg); err == nil {
			t.Errorf("created in %s", "/proc/self/fd/"+strconv.Itoa(fd))
			_ = c.Destroy(context.Background())
		}
		cfg, _ = config(t, func(s *specs.Spec) {
			s.Process.Args = []string{fmt.Sprintf("/proc/self/fd/%d/../../../../../../bin/sh", fd), "-c", "true"}
		}, "true")
		if c, err := Create(t.Context(), cfg); err == nil {
			t.Errorf("a program of the host is found through descriptor %d", fd)
			_ = c.Destroy(context.Background())
		}
	}
}

// setresuid(2) takes -1 for "as it is": crun ran such a container as root.
func TestUserMinusOne(t *testing.T) {
	const none = 1<<32 - 1
	naive := func() string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		self, _ := os.Executable()
		s := script.New()
		uid := script.Int(uint32(none))
		s.Add(script.Setresuid, uid, uid, uid)
		s.Add(script.Execve, s.CString(self), s.Strings([]string{"test", "id"}, ""), s.Strings([]string{"INSIDE=1"}, ""))
		s.End()
		in, err := launch.Start(s, [3]int{int(w.Fd()), int(w.Fd()), int(w.Fd())}, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		buf := make([]byte, 100)
		n, _ := r.Read(buf)
		if err := in.Kill(); err != nil {
			t.Error(err)
		}
		return string(buf[:n])
	}()
	if !strings.HasPrefix(naive, "0 ") {
		t.Fatalf("setresuid(-1) is not what it was: %q", naive)
	}
	for _, u := range []specs.User{{UID: none}, {GID: none}, {AdditionalGids: []uint32{none}}} {
		cfg, _ := config(t, func(s *specs.Spec) { s.Process.User = u }, "id")
		if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "process.user.") {
			t.Errorf("%+v: %v", u, err)
		}
	}
	if got := output(t, func(s *specs.Spec) { s.Process.User = specs.User{UID: none - 1, GID: none - 1} }, "id"); got != "4294967294 4294967294 []\n" {
		t.Errorf("the last user there is: %q", got)
	}
}

// CVE-2022-29162: nothing is inheritable that is not asked for. CVE-2023-25173:
// the shim's own groups are nobody else's.
func TestInheritedRights(t *testing.T) {
	before, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setgroups([]int{0, 4711}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setgroups(before); err != nil {
			t.Error(err)
		}
	}()
	self, _ := os.Executable()
	naive := exec.Command(self, "groups")
	naive.Env = []string{"INSIDE=1"}
	if out, err := naive.Output(); err != nil || !strings.Contains(string(out), "4711") {
		t.Fatalf("a child has not the groups of this process: %q, %v", out, err)
	}
	some := []string{"CAP_CHOWN", "CAP_NET_RAW"}
	user := specs.User{UID: 1000, GID: 1000}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Process.User, s.Process.Capabilities = user, &specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some}
	}, "sleep")
	c := create(t, cfg)
	start(t, c)
	more := append(slices.Clone(some), "CAP_KILL", "CAP_SYS_ADMIN")
	run := func(inheritable []string, args ...string) string {
		return execOutput(t, c, &specs.Process{
			Cwd: "/", Args: append([]string{"/test"}, args...), Env: []string{"INSIDE=1"}, User: user,
			Capabilities: &specs.LinuxCapabilities{Bounding: more, Permitted: more, Effective: more, Inheritable: inheritable},
		})
	}
	if got := run(nil, "groups"); got != "[]\n" {
		t.Errorf("groups of an exec: %q", got)
	}
	if got := run(nil, "status", "CapInh", "CapAmb"); got != "CapInh 0000000000000000\nCapAmb 0000000000000000\n" {
		t.Errorf("an exec with more capabilities: %s", got)
	}
	if got := run([]string{"CAP_KILL"}, "status", "CapInh"); got != "CapInh 0000000000000020\n" {
		t.Errorf("what is asked for: %s", got)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Init.State().PID))
	if err != nil || !strings.Contains(string(text), "CapInh:\t0000000000000000\n") || !strings.Contains(string(text), "Groups:\t \n") {
		t.Errorf("the init (%v): %s", err, text)
	}
}

// CVE-2026-47262: an image's /etc/passwd without end, or that never begins.
func TestHostilePasswd(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"sparse": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 2<<30))
		},
		"one line": func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("x", 8<<20)), 0o644)
		},
		"FIFO":     func(path string) error { return unix.Mkfifo(path, 0o666) },
		"a link":   func(path string) error { return os.Symlink("/proc/kmsg", path) },
		"a device": func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 77))) },
		"a loop":   func(path string) error { return os.Symlink("passwd", path) },
		"a dir":    func(path string) error { return os.Mkdir(path, 0o755) },
		"outside":  func(path string) error { return os.Symlink("../../../../../../../../etc/passwd", path) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := config(t, func(s *specs.Spec) { s.Process.User.UID = 33 }, "env")
			etc := filepath.Join(cfg.Bundle, "rootfs/etc")
			if err := errors.Join(os.Mkdir(etc, 0o755), make(filepath.Join(etc, "passwd"))); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out")
			cfg.Stdio = stdio.Request{Stdout: "file://" + out}
			began := time.Now()
			c := create(t, cfg)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("create took %v", took)
			}
			start(t, c)
			wait(t, c.Init)
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			if text, _ := os.ReadFile(out); !strings.HasSuffix(string(text), "HOME=/\n") {
				t.Errorf("environment %q", text)
			}
			// Who opens that node has the kernel make a loop device.
			if _, err := os.Stat("/sys/block/loop77"); err == nil {
				t.Error("the device is opened")
			}
		})
	}
	// Who opens the device as one opens files makes a loop device, unless the kernel
	// has no such thing.
	node := filepath.Join(t.TempDir(), "passwd")
	if err := unix.Mknod(node, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 77))); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
	if _, err := os.Stat("/sys/block/loop77"); err != nil {
		t.Log("no loop device comes of its node here")
	} else if control, err := os.Open("/dev/loop-control"); err == nil {
		const loopRemove = 0x4c81
		if err := unix.IoctlSetInt(int(control.Fd()), loopRemove, 77); err != nil {
			t.Error(err)
		}
		control.Close()
	}
	// Who reads it as one reads files waits for ever.
	fifo := filepath.Join(t.TempDir(), "passwd")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(fifo)
		read <- err
	}()
	select {
	case err := <-read:
		t.Errorf("a FIFO can be read: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // lets the reader go
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	<-read
}

// A container whose files do not open, as those on its own FUSE do not if it likes,
// holds only so many threads of the shim, and only its own execs back.
func TestUnansweringFiles(t *testing.T) {
	cfg, _ := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	for range maxOpening {
		c.opening <- struct{}{}
	}
	p, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "true"}, Env: []string{"INSIDE=1"}}, stdio.Request{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.StartExec(ctx, p); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("start: %v", err)
	}
	if err := c.DeleteExec(t.Context(), p); err != nil {
		t.Error(err)
	}
	<-c.opening
	if got := execOutput(t, c, &specs.Process{Cwd: "/", Args: []string{"/test", "id"}, Env: []string{"INSIDE=1"}}); got != "0 0 []\n" {
		t.Errorf("output %q", got)
	}
}

// Somebody kills the process that waits for Start.
func TestWaitingInitKilled(t *testing.T) {
	cfg, events := config(t, nil, "true")
	c := create(t, cfg)
	if err := unix.Kill(c.Init.State().PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, c.Init); code != 137 {
		t.Errorf("exit %d", code)
	}
	if err := c.Start(t.Context()); err == nil {
		t.Error("it is started")
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := events.String(); got != "create exit delete" {
		t.Errorf("events: %s", got)
	}
}

// A volume at /dev has something else as null: it is not opened with the rights of
// the runtime for a process that has none.
func TestNullOfAVolume(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a link":    func(path string) error { return os.Symlink("/proc/kallsyms", path) },
		"a file":    func(path string) error { return os.WriteFile(path, []byte("secret"), 0o600) },
		"a FIFO":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device":  func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))) },
		"nothing":   func(string) error { return nil },
		"the right": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
	} {
		volume := t.TempDir()
		if err := make(filepath.Join(volume, "null")); err != nil {
			t.Fatal(err)
		}
		change := func(s *specs.Spec) {
			plainUser(s)
			for i := range s.Mounts {
				if s.Mounts[i].Destination == "/dev" {
					s.Mounts[i] = specs.Mount{Destination: "/dev", Type: "bind", Source: volume, Options: []string{"bind"}}
				}
			}
		}
		if got := output(t, change, "stdin"); got != "device 1:3\n" {
			t.Errorf("%s: stdin is %s", name, got)
		}
	}
}

// successor is a process that has the pid of one that is gone. It answers all that
// it is told.
func successor(t *testing.T, pid int) *launch.Init {
	t.Helper()
	s := script.New()
	clone, child := s.Cell("clone"), s.Label("child")
	// struct clone_args of clone(2): flags, and set_tid with its size
	args := make([]byte, 88)
	binary.NativeEndian.PutUint64(args, unix.CLONE_PARENT)
	binary.NativeEndian.PutUint64(args[64:], s.Bytes(binary.NativeEndian.AppendUint32(nil, uint32(pid)), "").Value())
	binary.NativeEndian.PutUint64(args[72:], 1)
	s.Add(script.Clone3, s.Bytes(args, ""), script.Int(len(args))).Into(clone)
	s.Jump(clone.Arg(), script.Int(0), child)
	s.Add(script.Exit, script.Int(0))
	s.Place(child)
	s.Report()
	s.Wait()
	s.Goto(child)
	s.End()
	null := openNull(t)
	in, err := launch.Start(s, [3]int{null, null, null}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Kill(); err != nil {
			t.Error(err)
		}
	})
	if _, err := in.Next(t.Context()); err != nil || in.Process().PID != pid {
		t.Fatalf("process %d, not %d: %v", in.Process().PID, pid, err)
	}
	return in
}

// What is done to a container that has ended reaches nobody who has its pids now.
func TestRecycledPIDs(t *testing.T) {
	alive := func(p *launch.Init) bool {
		err := p.Go([]byte{1})
		if err == nil {
			_, err = p.Next(t.Context())
		}
		return err == nil
	}
	end := func(hostPIDs bool) (c *Container, exec *Process) {
		cfg, _ := config(t, func(s *specs.Spec) {
			if hostPIDs {
				s.Linux.Namespaces = s.Linux.Namespaces[1:]
			}
		}, "sleep")
		c = create(t, cfg)
		start(t, c)
		exec, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "sleep"}, Env: []string{"INSIDE=1"}}, stdio.Request{})
		if err == nil {
			err = c.StartExec(t.Context(), exec)
		}
		if err == nil {
			err = c.Kill(unix.SIGKILL, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		wait(t, exec)
		wait(t, c.Init)
		return c, exec
	}
	c, _ := end(false)
	naive := successor(t, c.Init.State().PID)
	if err := unix.Kill(c.Init.State().PID, unix.SIGKILL); err != nil || alive(naive) {
		t.Errorf("a signal to the pid does not reach who has it now: %v", err)
	}
	for _, hostPIDs := range []bool{false, true} {
		c, exec := end(hostPIDs)
		victims := []*launch.Init{successor(t, c.Init.State().PID), successor(t, exec.State().PID)}
		for what, do := range map[string]func() error{
			"kill":        func() error { return c.Kill(unix.SIGKILL, false) },
			"kill all":    func() error { return c.Kill(unix.SIGKILL, true) },
			"kill exec":   func() error { return exec.Signal(unix.SIGKILL) },
			"signal":      func() error { return c.Init.Signal(unix.SIGTERM) },
			"pause":       func() error { return c.Pause(t.Context()) },
			"resize":      func() error { return c.Init.Resize(1, 1) },
			"delete exec": func() error { return c.DeleteExec(t.Context(), exec) },
			"exec": func() error {
				_, err := c.Exec("late", &specs.Process{Cwd: "/", Args: []string{"/test", "true"}}, stdio.Request{})
				return err
			},
		} {
			_ = do() // most of them are refused
			for _, v := range victims {
				if !alive(v) {
					t.Fatalf("%s ends the process that has the pid now", what)
				}
			}
		}
		if pids, err := c.Pids(); err == nil {
			t.Errorf("it has processes: %v", pids)
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		// After the death of the shim the record has nothing but pids.
		r := &record{
			ID: c.ID, Namespace: "test", Daemon: c.ID, Cgroup: c.record.Cgroup, path: recordPath(c.Bundle),
			Init: identity{victims[0].Process().PID, "1"}, Shim: identity{victims[1].Process().PID, "1"},
		}
		if err := r.write(); err != nil {
			t.Fatal(err)
		}
		if err := Cleanup(t.Context(), c.Bundle); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(r.path); err == nil {
			t.Error("who has the shim's pid is taken for it: nothing is cleaned up")
		}
		for _, v := range victims {
			if !alive(v) {
				t.Error("the clean-up ends the process that has the pid now")
			}
		}
	}
}

// What the check for leaks is worth, which is made after all the creates that
// fail: it finds what one leaves that undoes nothing.
func TestLeaksAreFound(t *testing.T) {
	cfg, _ := config(t, nil, "true")
	c, location, p, err := compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors()
	if c.group, err = c.createGroup(t.Context(), location); err != nil {
		t.Fatal(err)
	}
	join, err := c.group.Join()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.launch(&p.Script, [3]*os.File{}, join, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Next(t.Context()); err != nil {
		t.Error(err)
	}
	for range 10 { // more than what is kept for good
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	got := leaks(before)
	for _, what := range []string{"children ", " descriptors", cfg.ID} {
		if !strings.Contains(got, what) {
			t.Errorf("no %q in %q", what, got)
		}
	}
	if err := errors.Join(in.Kill(), c.group.Delete(t.Context())); err != nil {
		t.Error(err)
	}
	join.Close()
}
