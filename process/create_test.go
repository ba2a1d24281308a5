package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/spec"
)

// What Create refuses: the error says which field is to blame, and TestMain
// finds what is left behind.
func TestCreateFails(t *testing.T) {
	add := func(m specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
	}
	namespace := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			for i, ns := range s.Linux.Namespaces {
				if ns.Type == kind {
					s.Linux.Namespaces[i].Path = path
				}
			}
		}
	}
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		want   string // in the error
		kind   error
	}{
		"missing program": {func(s *specs.Spec) { s.Process.Args = []string{"nope"} }, `exec: "nope": executable file not found in $PATH`, unix.ENOENT},
		"missing path":    {func(s *specs.Spec) { s.Process.Args = []string{"/no/pe"} }, `exec: "/no/pe": stat /no/pe: no such file or directory`, unix.ENOENT},
		"directory":       {func(s *specs.Spec) { s.Process.Args = []string{"/proc"} }, `exec: "/proc": is a directory`, unix.EISDIR},
		"not executable":  {func(s *specs.Spec) { s.Process.Args = []string{"/proc/cpuinfo"} }, "permission denied", unix.EACCES},
		"bind source":     {add(specs.Mount{Destination: "/x", Source: "/does/not/exist", Options: []string{"rbind"}}), "mount /x (mounts[7], bind /does/not/exist): source does not exist", unix.ENOENT},
		"bind data":       {add(specs.Mount{Destination: "/x", Source: "/", Options: []string{"rbind", "size=1"}}), "mounts[7]: options", spec.ErrInvalid},
		"over the root":   {add(specs.Mount{Destination: "/", Type: "tmpfs"}), "mounts[7].destination", spec.ErrInvalid},
		"no file system":  {add(specs.Mount{Destination: "/x", Type: "nofs"}), `mount /x (mounts[7], nofs): this kernel has no file system "nofs"`, nil},
		"tmpfs option":    {add(specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"size=lots"}}), "Bad value for 'size'", unix.EINVAL},
		"option in init":  {add(specs.Mount{Destination: "/x", Type: "mqueue", Options: []string{"nonsense"}}), "mounts[7]: step", unix.EINVAL},
		"inside proc":     {add(specs.Mount{Destination: "/proc/self/attr", Type: "tmpfs"}), "is inside /proc", spec.ErrInvalid},
		"fake proc":       {add(specs.Mount{Destination: "/proc", Type: "tmpfs"}), "not of type proc", spec.ErrInvalid},
		"dir over file":   {add(specs.Mount{Destination: "/proc/cpuinfo", Source: "/etc", Options: []string{"bind"}}), "a directory does not go onto a file: not a directory", unix.ENOTDIR},
		"file over dir":   {add(specs.Mount{Destination: "/dev", Source: "/etc/hostname", Options: []string{"bind"}}), "a file does not go onto a directory: not a directory", unix.ENOTDIR},
		"namespace":       {namespace(specs.NetworkNamespace, "/no/netns"), "linux.namespaces[4].path: open /no/netns: no such file", spec.ErrInvalid},
		"other namespace": {namespace(specs.NetworkNamespace, "/proc/self/ns/ipc"), "/proc/self/ns/ipc is not a namespace of type network", spec.ErrInvalid},
		"not a namespace": {namespace(specs.IPCNamespace, "/dev/null"), "/dev/null is not a namespace of type ipc", spec.ErrInvalid},
		"cgroup":          {func(s *specs.Spec) { s.Linux.CgroupsPath = "/x/../../y" }, "linux.cgroupsPath", spec.ErrInvalid},
		"sysctl":          {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.nope": "1"} }, "linux.sysctl[net.ipv4.nope]", unix.ENOENT},
		"cwd":             {func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/3" }, "process.cwd", nil},
		"cwd is a file":   {func(s *specs.Spec) { s.Process.Cwd = "/test" }, "process.cwd", unix.ENOTDIR},
		"terminal":        {func(s *specs.Spec) { s.Mounts = append(s.Mounts[:2], s.Mounts[3:]...) }, "process.terminal: there is no devpts", unix.ENOENT},
		"seccomp":         {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NOPE"} }, "linux.seccomp.defaultAction", spec.ErrInvalid},
		"device": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/test", Type: "c", Major: 1, Minor: 3}}
		}, "make device /test (linux.devices[0]): there is something else", nil},
		"memory limit": {func(s *specs.Spec) {
			limit := int64(-5)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		}, "linux.resources.memory.limit", unix.EINVAL},
		"rlimit": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
		}, "process.rlimits[0]", unix.EPERM},
		"hook":          {func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}} }, "hooks.createRuntime[0] /bin/false: exit status 1", nil},
		"masked self":   {func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/self"} }, "mask /proc/self (linux.maskedPaths[0]): /proc/self is another one", nil},
		"pid namespace": {namespace(specs.PIDNamespace, "/proc/self/ns/pid_for_children_"), "linux.namespaces", spec.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, events := config(t, test.change, "true")
			cfg.Stdio.Terminal = name == "terminal"
			before, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			c, err := Create(t.Context(), cfg)
			if err == nil {
				_ = c.Destroy(context.Background())
				t.Fatal("it is created")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q", err, test.want)
			}
			if test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("error %q is no %v", err, test.kind)
			}
			if events.String() != "" {
				t.Errorf("events: %s", events)
			}
			if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
				t.Error("the host's mounts are others now")
			}
			for _, left := range []string{recordName, pidName} {
				if _, err := os.Stat(filepath.Join(cfg.Bundle, left)); err == nil {
					t.Errorf("%s is left in the bundle", left)
				}
			}
		})
	}
}

func TestCreateCancelled(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "60"}}}}
	}, "true")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Create(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// overdue is a context that ends when nothing waits for it any more.
type overdue struct{ context.Context }

func (overdue) Err() error { return context.DeadlineExceeded }

// Nobody would know of a container that is there after its time.
func TestCreateTooLate(t *testing.T) {
	cfg, events := config(t, nil, "true")
	c, err := Create(overdue{t.Context()}, cfg)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err == nil {
		_ = c.Destroy(context.Background())
	}
	if events.String() != "" {
		t.Errorf("events: %s", events)
	}
}

// The root of a Create request is mounted where only the container sees it.
func TestRootMounts(t *testing.T) {
	cfg, _ := config(t, func(s *specs.Spec) { s.Process.Args = []string{"/x/test", "true"} }, "true")
	dir := t.TempDir()
	for _, sub := range []string{"l", "u", "w", "vol"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "vol/test"), program(t), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.RootMounts = []mounts.RootMount{
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + dir + "/l", "upperdir=" + dir + "/u", "workdir=" + dir + "/w"}},
		{Type: "bind", Source: dir + "/vol", Target: "/x", Options: []string{"rbind", "ro"}},
	}
	before, _ := os.ReadFile("/proc/self/mountinfo")
	c := create(t, cfg)
	start(t, c)
	if code := wait(t, c.Init); code != 0 {
		t.Errorf("exit %d", code)
	}
	if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
		t.Error("the host's mounts are others now")
	}
	if _, err := os.Stat(filepath.Join(dir, "u/dev")); err != nil {
		t.Errorf("the upper layer: %v", err)
	}
}

func program(t *testing.T) []byte {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// A cgroup is handed to a process's user only if that can see no other one, and is
// meant to write to it.
func TestDelegates(t *testing.T) {
	userns, cgroupns := specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace}
	mount := func(options ...string) []specs.Mount {
		return []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: options}}
	}
	for name, test := range map[string]struct {
		namespaces []specs.LinuxNamespace
		mounts     []specs.Mount
		want       bool
	}{
		"all of it":            {[]specs.LinuxNamespace{userns, cgroupns}, mount("rw"), true},
		"no user namespace":    {[]specs.LinuxNamespace{cgroupns}, mount("rw"), true},
		"at last writable":     {[]specs.LinuxNamespace{cgroupns}, mount("ro", "nosuid", "rw"), true},
		"elsewhere":            {[]specs.LinuxNamespace{cgroupns}, []specs.Mount{{Destination: "/cgroup", Type: "cgroup"}}, false},
		"no cgroup namespace":  {[]specs.LinuxNamespace{userns}, mount("rw"), false},
		"somebody else's":      {[]specs.LinuxNamespace{userns, {Type: specs.CgroupNamespace, Path: "/x"}}, mount("rw"), false},
		"a read-only mount":    {[]specs.LinuxNamespace{userns, cgroupns}, mount("ro"), false},
		"no mount of a cgroup": {[]specs.LinuxNamespace{userns, cgroupns}, nil, false},
	} {
		s := &specs.Spec{Mounts: test.mounts, Linux: &specs.Linux{Namespaces: test.namespaces}}
		m := &making{Container: &Container{spec: &spec.Container{Spec: s}}}
		if got := m.delegates(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
