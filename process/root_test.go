package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// noMountNamespace takes away what needs one, as whoever edits a spec by hand has
// to.
func noMountNamespace(s *specs.Spec) {
	var rest []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != specs.MountNamespace {
			rest = append(rest, ns)
		}
	}
	s.Linux.Namespaces, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = rest, nil, nil
}

// below are the mounts of this process at and below a directory.
func below(t *testing.T, dir string) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found
}

// hostMounts are the mounts at the place of a container's root on the host.
func hostMounts(t *testing.T, bundle string) []string {
	return below(t, filepath.Join(bundle, "rootfs"))
}

func TestNoMountNamespace(t *testing.T) {
	cfg, _ := config(t, noMountNamespace, "sleep")
	c := create(t, cfg)
	start(t, c)
	// The root is a mount with the others below it.
	if got := hostMounts(t, cfg.Bundle); len(got) != 8 {
		t.Errorf("mounts on the host: %q", got)
	}
	ps := &specs.Process{Cwd: "/", Args: []string{"/test", "cat", "/proc/self/mountinfo", "/proc/1/comm"}, Env: []string{"INSIDE=1"}}
	got := execOutput(t, c, ps)
	if strings.Count(got, "\n") != 9 || !strings.Contains(got, " / / ") && !strings.Contains(got, " / rw") || !strings.HasSuffix(got, "test\n") {
		t.Errorf("inside:\n%s", got)
	}
	if err := c.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hostMounts(t, cfg.Bundle); len(got) != 0 {
		t.Errorf("left on the host: %q", got)
	}
}

// A container that shares all namespaces with the host is one all the same.
func TestNoNamespaces(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "hook")
	cfg, _ := config(t, func(s *specs.Spec) {
		noMountNamespace(s)
		s.Linux.Namespaces = nil
		s.Mounts = []specs.Mount{s.Mounts[0], s.Mounts[len(s.Mounts)-1]} // /proc, and the program
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo > " + mark}}}}
	}, "sleep")
	c := create(t, cfg)
	start(t, c)
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the hook: %v", err)
	}
	ps := &specs.Process{Cwd: "/", Args: []string{"/test", "cat", "/proc/self/mountinfo"}, Env: []string{"INSIDE=1"}}
	if got := execOutput(t, c, ps); strings.Count(got, "\n") != 3 {
		t.Errorf("inside:\n%s", got)
	}
	if err := c.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hostMounts(t, cfg.Bundle); len(got) != 0 {
		t.Errorf("left on the host: %q", got)
	}
}

func TestNoMountNamespaceRefuses(t *testing.T) {
	for field, change := range map[string]func(*specs.Spec){
		"linux.maskedPaths":       func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/kcore"} },
		"linux.readonlyPaths":     func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys"} },
		"linux.rootfsPropagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" },
		"linux.namespaces":        userNamespace,
	} {
		cfg, _ := config(t, func(s *specs.Spec) { noMountNamespace(s); change(s) }, "true")
		_, err := Create(t.Context(), cfg)
		if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), "mount namespace") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// A container without a mount namespace that cannot be made leaves none of its
// mounts behind.
func TestNoMountNamespaceFails(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"a mount": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/missing", Options: []string{"bind"}})
		},
		"the program": func(s *specs.Spec) { s.Process.Args = []string{"/missing"} },
	} {
		cfg, _ := config(t, func(s *specs.Spec) { noMountNamespace(s); change(s) }, "true")
		if _, err := Create(t.Context(), cfg); err == nil {
			t.Errorf("%s: created", name)
		}
		if got := hostMounts(t, cfg.Bundle); len(got) != 0 {
			t.Errorf("%s: left on the host: %q", name, got)
		}
	}
}

// A root of several mounts, seen at rootfs in the bundle.
func visibleRoot(t *testing.T, cfg *Config) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"lower/etc", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower/etc/from"), []byte("the layer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// An overlay's upper layer must be on another file system than an overlay.
	if err := unix.Mount("tmpfs", dir+"/upper", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/upper", unix.MNT_DETACH) })
	for _, name := range []string{"upper/u", "upper/w"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg.VisibleRootfs = true
	cfg.RootMounts = []mounts.RootMount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper/u", "workdir=" + dir + "/upper/w",
	}}}
}

func TestVisibleRootfs(t *testing.T) {
	cfg, _ := config(t, nil, "cat", "/etc/from", "/late")
	visibleRoot(t, &cfg)
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out}
	c := create(t, cfg)
	if got := hostMounts(t, cfg.Bundle); len(got) != 1 {
		t.Errorf("mounts on the host: %q", got)
	}
	// What is written there between Create and Start is the container's.
	if err := os.WriteFile(filepath.Join(cfg.Bundle, "rootfs", "late"), []byte("late\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, c)
	if code := wait(t, c.Init); code != 0 {
		t.Errorf("exit %d", code)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(out); string(text) != "the layer\nlate\n" {
		t.Errorf("output %q", text)
	}
	if got := hostMounts(t, cfg.Bundle); len(got) != 0 {
		t.Errorf("left on the host: %q", got)
	}
}

// What a shim process that was killed has mounted, `delete` unmounts.
func TestCleanupHides(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){"visible": nil, "no mount namespace": noMountNamespace} {
		cfg, _ := config(t, change, "sleep")
		visibleRoot(t, &cfg)
		c := create(t, cfg)
		start(t, c)
		if got := hostMounts(t, cfg.Bundle); len(got) == 0 {
			t.Errorf("%s: nothing is visible", name)
		}
		r, err := readRecord(recordPath(cfg.Bundle))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.kill(), r.cleanup(context.Background())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := hostMounts(t, cfg.Bundle); len(got) != 0 {
			t.Errorf("%s: left on the host: %q", name, got)
		}
		wait(t, c.Init)
		if err := c.Delete(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
