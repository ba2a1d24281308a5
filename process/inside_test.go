package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/stdio"
)

// output runs a container to its end and returns what it wrote.
func output(t *testing.T, change func(*specs.Spec), args ...string) string {
	t.Helper()
	cfg, _ := config(t, change, args...)
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out}
	c := create(t, cfg)
	start(t, c)
	code := wait(t, c.Init)
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(out)
	if err != nil || code != 0 {
		t.Fatalf("exit %d, output %q (%v)", code, text, err)
	}
	return string(text)
}

// inside execs in the container, and returns what the program wrote.
func execOutput(t *testing.T, c *Container, p *specs.Process) string {
	t.Helper()
	serial++
	out := filepath.Join(t.TempDir(), "out")
	id := "e" + filepath.Base(t.TempDir()) + string(rune('a'+serial%26))
	process, err := c.Exec(id, p, stdio.Request{Stdout: "file://" + out})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartExec(t.Context(), process); err != nil {
		t.Fatal(err)
	}
	code := wait(t, process)
	if err := c.DeleteExec(t.Context(), process); err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(out)
	if code != 0 {
		t.Fatalf("exit %d, output %q", code, text)
	}
	return string(text)
}

func plainUser(s *specs.Spec) {
	s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}}
	caps := []string{"CAP_NET_BIND_SERVICE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: append(caps, "CAP_CHOWN"), Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps}
}

func TestUser(t *testing.T) {
	if got := output(t, plainUser, "id"); got != "1000 1001 [5 6]\n" {
		t.Errorf("id: %q", got)
	}
	got := output(t, plainUser, "status", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Umask", "SigBlk")
	want := "Umask 0022\nSigBlk 0000000000000000\nCapInh 0000000000000400\nCapPrm 0000000000000400\nCapEff 0000000000000400\nCapBnd 0000000000000401\nCapAmb 0000000000000400\nNoNewPrivs 1\n"
	if got != want {
		t.Errorf("status:\n%swant:\n%s", got, want)
	}
}

func TestDescriptors(t *testing.T) {
	if got := output(t, nil, "fds"); !strings.HasPrefix(got, "0 /dev/null\n1 pipe:[") || strings.Count(got, "\n") != 3 {
		t.Errorf("descriptors:\n%s", got)
	}
}

// userNamespace maps the root of the container to user 100000.
func userNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
}

func TestUserNamespace(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) {
		userNamespace(s)
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	}, "sleep")
	c := create(t, cfg)
	start(t, c)
	run := func(uid uint32, args ...string) string {
		return execOutput(t, c, &specs.Process{
			Cwd: "/", Args: append([]string{"/test"}, args...), Env: []string{"INSIDE=1"}, User: specs.User{UID: uid, GID: 7},
		})
	}
	if got := run(0, "id"); got != "0 7 []\n" {
		t.Errorf("id: %q", got)
	}
	if got := run(12, "id"); got != "12 7 []\n" {
		t.Errorf("id: %q", got)
	}
	if got := strings.Fields(run(0, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != "0 100000 65536" {
		t.Errorf("uid_map: %q", got)
	}
	if got := run(0, "cat", "/proc/sys/net/ipv4/ip_forward"); got != "1\n" {
		t.Errorf("ip_forward: %q", got)
	}
	// What the shim made belongs to the container's root.
	for _, dir := range []string{"proc", "dev"} {
		info, err := os.Stat(filepath.Join(cfg.Bundle, "rootfs", dir))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != 100000 {
			t.Errorf("%s belongs to %v (%v)", dir, info.Sys(), err)
		}
	}
}

func TestTimeNamespace(t *testing.T) {
	const day = 86400
	change := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100 * day}}
	}
	var uptime float64
	if _, err := fmt.Sscan(output(t, change, "cat", "/proc/uptime"), &uptime); err != nil || uptime < 100*day {
		t.Errorf("uptime %v (%v)", uptime, err)
	}
}

func TestTerminal(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Width: 91, Height: 33} }, "tty")
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out, Terminal: true}
	c := create(t, cfg)
	start(t, c)
	wait(t, c.Init)
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(out)
	if got := string(text); got != "/dev/pts/0 <nil> 91 33 <nil> true\r\nconsole\r\n" {
		t.Errorf("output %q", got)
	}
}

func TestPauseAndKill(t *testing.T) {
	cfg, events := config(t, nil, "sleep")
	c := create(t, cfg)
	if err := c.Pause(t.Context()); !errors.Is(err, ErrState) {
		t.Errorf("pause before start: %v", err)
	}
	start(t, c)
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := c.Init.State(); s.Status != Paused {
		t.Errorf("status %v", s.Status)
	}
	if _, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"x"}}, stdio.Request{}); !errors.Is(err, ErrState) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := c.Delete(t.Context()); !errors.Is(err, ErrState) {
		t.Errorf("delete while paused: %v", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, c.Init); code != 137 {
		t.Errorf("exit %d", code)
	}
	if err := c.Kill(unix.SIGKILL, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("kill again: %v", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := events.String(); got != "create start pause resume pause exit delete" {
		t.Errorf("events: %s", got)
	}
}

// Who pauses and who resumes at the same time take turns, and what they tell is
// over when the container is.
func TestPauseRaces(t *testing.T) {
	for range 5 {
		cfg, events := config(t, nil, "sleep")
		c := create(t, cfg)
		start(t, c)
		var wg sync.WaitGroup
		for range 4 {
			for _, do := range []func() error{func() error { return c.Pause(t.Context()) }, c.Resume} {
				wg.Go(func() {
					for c.Init.State().Status != Stopped {
						_ = do() // mostly refused
					}
				})
			}
		}
		for deadline := time.Now().Add(10 * time.Second); strings.Count(events.String(), "resume") < 20; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("events: %s", events)
			}
		}
		if err := c.Kill(unix.SIGKILL, false); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		rest := strings.ReplaceAll(strings.TrimPrefix(events.String(), "create start "), "pause resume ", "")
		if rest != "exit delete" && rest != "pause exit delete" {
			t.Fatalf("events: %s", events)
		}
	}
}

// A container that is killed while it is paused has exited when its execs have.
func TestKillPausedExec(t *testing.T) {
	cfg, events := config(t, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "sleep")
	c := create(t, cfg)
	start(t, c)
	p, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "sleep"}, Env: []string{"INSIDE=1"}}, stdio.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.StartExec(t.Context(), p), c.Pause(t.Context()), c.Kill(unix.SIGKILL, false)); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init)
	wait(t, p)
	if got := events.String(); got != "create start exec/e start/e pause exit/e exit" {
		t.Errorf("events: %s", got)
	}
}

// A container without a pid namespace of its own leaves nothing running.
func TestHostPIDs(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "sleep")
	c := create(t, cfg)
	start(t, c)
	p, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "sleep"}, Env: []string{"INSIDE=1"}}, stdio.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartExec(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	pids, err := c.Pids()
	if err != nil || len(pids) != 2 || pids[p.State().PID] != "e" {
		t.Errorf("pids %v (%v)", pids, err)
	}
	if err := c.Init.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if wait(t, c.Init) != 137 || wait(t, p) != 137 {
		t.Error("not killed")
	}
}

// A container in the pid namespace of another one is in there only when it is
// made, and all that comes of it is as anywhere.
func TestJoinedPIDs(t *testing.T) {
	cfg, _ := config(t, nil, "sleep")
	first := create(t, cfg)
	start(t, first)
	host := fmt.Sprintf("/proc/%d/", first.Init.State().PID)
	for cmdline := []byte{}; len(cmdline) == 0; cmdline, _ = os.ReadFile(host + "cmdline") {
		time.Sleep(time.Millisecond) // Start returns in the middle of execve
	}
	path := host + "ns/pid"
	pids, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	join := func(s *specs.Spec) {
		for i, ns := range s.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace {
				s.Linux.Namespaces[i].Path = path
			}
		}
	}
	for name, prepare := range map[string]func(*testing.T){"this kernel": func(*testing.T) {}, "old kernel": onOldKernel} {
		t.Run(name, func(t *testing.T) {
			prepare(t)
			log := filepath.Join(t.TempDir(), "log")
			cfg, events := config(t, func(s *specs.Spec) {
				join(s)
				s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
				s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "readlink /proc/self/ns/pid >" + log}}}}
			}, "sleep")
			c := create(t, cfg)
			pid := c.Init.State().PID
			if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); got != pids {
				t.Errorf("the init is in %s, not %s (%v)", got, pids, err)
			}
			if got, err := os.ReadFile(filepath.Join(cfg.Bundle, pidName)); string(got) != fmt.Sprint(pid) {
				t.Errorf("%s: %q, not %d (%v)", pidName, got, pid, err)
			}
			// Others could take over a hook of the host that is in there.
			own, _ := os.Readlink("/proc/self/ns/pid")
			if got, err := os.ReadFile(log); string(got) != own+"\n" {
				t.Errorf("the hook was in %q, not %s (%v)", got, own, err)
			}
			start(t, c)
			p := &specs.Process{Cwd: "/", Env: []string{"INSIDE=1"}, Args: []string{"/test", "cat", "/proc/1/cmdline"}}
			if got := execOutput(t, c, p); got != "/test\x00sleep\x00" {
				t.Errorf("process 1 is %q", got)
			}
			if err := c.Kill(unix.SIGTERM, false); err != nil {
				t.Error(err)
			}
			if code := wait(t, c.Init); code != 128+15 {
				t.Errorf("exit %d", code)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			if got := events.String(); !strings.HasPrefix(got, "create start ") || !strings.HasSuffix(got, " exit delete") {
				t.Errorf("events: %s", got)
			}
			cfg, _ = config(t, func(s *specs.Spec) {
				join(s)
				s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Priority: 1}
			}, "sleep")
			if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "process.scheduler") {
				t.Errorf("a policy that the kernel refuses: %v", err)
			}
		})
	}
	if first.Init.State().Status != Running {
		t.Error("the first container has ended")
	}
}
