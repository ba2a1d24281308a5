package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/stdio"
)

func TestHooks(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `read state; echo "` + name + ` $A $(echo "$state" | grep -o '"status":"[a-z]*"')" >> ` + log}, Env: []string{"A=1", "PATH=/bin:/usr/bin"}}}
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), //nolint:staticcheck // deprecated, and used
			StartContainer: []specs.Hook{{Path: "/test", Args: []string{"test", "true"}, Env: []string{"INSIDE=1"}}},
			Poststart:      hook("poststart"), Poststop: hook("poststop"),
		}
	}, "true")
	c := create(t, cfg)
	start(t, c)
	wait(t, c.Init)
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	want := `prestart 1 "status":"creating"
createRuntime 1 "status":"creating"
createContainer 1 "status":"creating"
poststart 1 "status":"running"
poststop 1 "status":"stopped"
`
	if got, _ := os.ReadFile(log); string(got) != want {
		t.Errorf("hooks:\n%swant:\n%s", got, want)
	}
}

// What a hook writes is no more than the reason why it failed.
func TestHookFloods(t *testing.T) {
	flood := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "head -c 100000000 /dev/zero | tr '\\0' x; exit 3"}, Env: []string{"PATH=/bin:/usr/bin"}}
	cfg, _ := config(t, func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{flood}} }, "true")
	if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "exit status 3: xxx") || len(err.Error()) > maxOutput+200 {
		t.Errorf("%d bytes: %.200v", len(err.Error()), err)
	}
	cfg, _ = config(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/test", Args: []string{"test", "flood"}, Env: []string{"INSIDE=1"}}}}
	}, "true")
	c := create(t, cfg)
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3: xxx") || len(err.Error()) > maxOutput+200 {
		t.Errorf("%d bytes: %.200v", len(err.Error()), err)
	}
}

// A hook of a container whose init ends does not keep its exit back.
func TestHookOutlivesInit(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/test", Args: []string{"test", "sleep"}, Env: []string{"INSIDE=1"}}}}
	}, "true")
	c := create(t, cfg)
	started := make(chan error, 1)
	go func() { started <- c.Start(t.Context()) }()
	for !c.Init.starting() {
		time.Sleep(time.Millisecond)
	}
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init)
	if err := <-started; err == nil {
		t.Error("it is started")
	}
}

func TestHookTimeout(t *testing.T) {
	second := 1
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 60 & sleep 60"}, Timeout: &second}}}
	}, "true")
	began := time.Now()
	_, err := Create(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "it took more than 1 seconds") || time.Since(began) > 20*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Hooks add to a container before anything of it is read-only, masked or made for
// its process.
func TestHooksBeforeReadonly(t *testing.T) {
	shell := func(command string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", command}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Process.Cwd = "/brought/cwd"
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/brought/secret")
		s.Hooks = &specs.Hooks{
			CreateContainer: shell("mkdir brought && mount -t tmpfs none brought && echo secret >brought/secret && echo hook >brought/file"),
		}
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/dev" {
				s.Mounts[i].Options = append(s.Mounts[i].Options, "ro")
			}
		}
	}, "cat", "/brought/file", "/brought/secret")
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out, Terminal: true} // which is bound in /dev
	c := create(t, cfg)
	start(t, c)
	wait(t, c.Init)
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(out); string(text) != "hook\r\n" {
		t.Errorf("output %q (%v)", text, err)
	}
}

// Where a createContainer hook runs, and as whom.
func TestCreateContainerHook(t *testing.T) {
	for name, userns := range map[string]bool{"": false, "user namespace": true} {
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(log, 0o666); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		for dir := filepath.Dir(log); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cfg, _ := config(t, func(s *specs.Spec) {
			if userns {
				userNamespace(s)
			}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			command := "{ pwd; id -u; cat /proc/self/cgroup; for ns in pid mnt net ipc uts user; do readlink /proc/self/ns/$ns; done; cat; } >>" + log
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", command}, Env: []string{"PATH=/bin:/usr/bin"}}}}
		}, "sleep")
		c := create(t, cfg)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		got := string(text)
		want := []string{"/rootfs\n", "\n0\n", "/" + cgroupParent() + "/" + c.ID + "\n", `"status":"creating"`, `"pid":1,`}
		for _, ns := range []string{"mnt", "net", "ipc", "uts", "user"} { // by a procfs of the host
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Init.State().PID, ns))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, link)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %s", name, w, got)
			}
		}
	}
}
