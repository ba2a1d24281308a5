package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/stdio"
)

// create makes a container that is destroyed at the end of the test. As that of a
// request, the context is over when it is answered.
func create(t testing.TB, c Config) *Container {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	container, err := Create(ctx, c)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := container.Destroy(context.Background()); err != nil && !errors.Is(err, ErrState) {
			t.Error(err)
		}
	})
	return container
}

func start(t testing.TB, c *Container) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func wait(t testing.TB, p *Process) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	exit, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit.Code
}

func TestLife(t *testing.T) {
	cfg, events := config(t, nil, "echo", "hello")
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out}
	c := create(t, cfg)
	if s := c.Init.State(); s.Status != Created || s.PID == 0 {
		t.Errorf("created: %+v", s)
	}
	if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(c.Init.State().PID), "exe")); !strings.HasPrefix(exe, "/memfd:myshim-init") {
		t.Errorf("the waiting init is %s (%v)", exe, err)
	}
	start(t, c)
	if code := wait(t, c.Init); code != 0 {
		t.Errorf("exit %d", code)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
	text, err := os.ReadFile(out)
	if string(text) != "hello\n" {
		t.Errorf("output %q (%v)", text, err)
	}
	if got := events.String(); got != "create start exit delete" {
		t.Errorf("events: %s", got)
	}
}

func TestExec(t *testing.T) {
	cfg, events := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	out := filepath.Join(t.TempDir(), "out")
	p, err := c.Exec("e", &specs.Process{Cwd: "/dev", Args: []string{"test", "env"}, Env: []string{"INSIDE=1", "PATH=/bin:/"}},
		stdio.Request{Stdout: "file://" + out})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartExec(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 0 {
		t.Errorf("exit %d", code)
	}
	if err := c.DeleteExec(t.Context(), p); err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(out)
	if got := string(text); got != "INSIDE=1\nPATH=/bin:/\nHOME=/\n" {
		t.Errorf("environment %q", got)
	}
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Error(err)
	}
	if code := wait(t, c.Init); code != 137 {
		t.Errorf("exit %d", code)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := events.String(); got != "create start exec/e start/e exit/e exit delete" {
		t.Errorf("events: %s", got)
	}
}

// What `delete` has removed stays so if the exit that it brought about is seen
// later.
func TestExitAfterCleanup(t *testing.T) {
	cfg, _ := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	if err := errors.Join(c.record.remove(), c.Kill(unix.SIGKILL, false)); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init)
	if _, err := os.Stat(recordPath(c.Bundle)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
}

// A client whose input is empty closes it before it starts the process.
func TestCloseStdinBeforeStart(t *testing.T) {
	cfg, _ := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	in := filepath.Join(t.TempDir(), "in")
	if err := unix.Mkfifo(in, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "swallow"}, Env: []string{"INSIDE=1"}}, stdio.Request{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.CloseStdin(), c.StartExec(t.Context(), p)); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, p); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// BenchmarkLife measures what a container costs without shim and containerd.
func BenchmarkLife(b *testing.B) {
	times := map[string]time.Duration{}
	phase := func(name string, f func() error) {
		began := time.Now()
		if err := f(); err != nil {
			b.Fatal(name, err)
		}
		times[name] += time.Since(began)
	}
	for range b.N {
		cfg, _ := config(b, nil, "true")
		var c *Container
		time.Sleep(20 * time.Millisecond) // idle, so that grace periods are paid
		phase("create", func() (err error) { c, err = Create(b.Context(), cfg); return err })
		phase("start", func() error { return c.Start(b.Context()) })
		phase("exit", func() error { _, err := c.Init.Wait(b.Context()); return err })
		phase("delete", func() error { return c.Delete(b.Context()) })
	}
	for name, d := range times {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N), "us-"+name)
	}
}

// A program that cannot be executed after all: what is asked for is Start's
// error, and everything can be taken away.
func TestStartFails(t *testing.T) {
	cfg, events := config(t, func(s *specs.Spec) { s.Process.Args = []string{"/script"} }, "")
	if err := os.WriteFile(filepath.Join(cfg.Bundle, "rootfs/script"), []byte("#!/no/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := create(t, cfg)
	err := c.Start(t.Context())
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), `exec "/script"`) {
		t.Errorf("start: %v", err)
	}
	if code := wait(t, c.Init); code != 127 {
		t.Errorf("exit %d", code)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrState) {
		t.Errorf("start again: %v", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := events.String(); got != "create delete" {
		t.Errorf("events: %s", got)
	}
}

// An init that has left its cgroup is of the container still: containerd would
// take one without processes for dead, and after the death nothing is left.
func TestInitLeavesCgroup(t *testing.T) {
	for name, end := range map[string]func(*Container) error{
		"kill all": func(c *Container) error { return c.Kill(unix.SIGKILL, true) },
		"destroy":  func(c *Container) error { return c.Destroy(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := config(t, nil, "sleep")
			c := create(t, cfg)
			start(t, c)
			pid := c.Init.State().PID
			leaveCgroup(t, c, pid)
			if inside, err := c.group.Pids(); err != nil || len(inside) > 0 {
				t.Fatalf("in the cgroup: %v (%v)", inside, err)
			}
			if pids, err := c.Pids(); err != nil || len(pids) != 1 || pids[pid] != "" {
				t.Errorf("pids %v (%v), want %d", pids, err, pid)
			}
			defer time.AfterFunc(10*time.Second, func() { _ = c.Init.Signal(unix.SIGTERM) }).Stop()
			if err := end(c); err != nil {
				t.Error(err)
			}
			if code := wait(t, c.Init); code != 137 {
				t.Errorf("exit %d", code)
			}
		})
	}
}

// leaveCgroup moves a process next to its container's cgroup.
func leaveCgroup(t *testing.T, c *Container, pid int) {
	t.Helper()
	for _, d := range c.group.Dirs {
		next := filepath.Join(filepath.Dir(d.Mount+d.Path), "next")
		if err := os.Mkdir(next, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(next); err != nil {
				t.Error(err)
			}
		})
		err := os.WriteFile(next+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, unix.ENOSPC) { // of v1's cpuset, which has no CPUs yet
			t.Fatal(err)
		}
	}
}
