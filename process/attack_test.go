package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	inside["clear-readonly"] = clearReadonly
	inside["attach"] = attachInherited
	inside["join"] = joinCgroup
}

// clearReadonly tries to make mounts writable, and to write there.
func clearReadonly(dirs []string) int {
	for _, dir := range dirs {
		remount := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		write := os.WriteFile(filepath.Join(dir, "written"), nil, 0o644)
		fmt.Printf("%s: %v, %v\n", dir, remount, errors.Is(write, unix.EROFS))
	}
	return 0
}

// attachInherited is the naive implementation: the mount that is inherited as
// descriptor 3 was cloned in the host's mount namespace.
func attachInherited(args []string) int {
	at, err := os.Open(args[0])
	if err == nil {
		err = unix.MoveMount(3, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return clearReadonly(args)
}

// joinCgroup tries to get into cgroups that are seen at the paths.
func joinCgroup(patterns []string) int {
	for _, pattern := range patterns {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			fmt.Println(err)
		}
	}
	return 0
}

// CVE-2023-25809: with no cgroup namespace, the container's cgroups are read-only
// if the mount is. Without that option they are not, which shows that it is what
// keeps them so; in a user namespace it is also that they are the host's root's.
func TestCgroupsOfTheHost(t *testing.T) {
	try := func(change func(*specs.Spec), options ...string) string {
		return output(t, func(s *specs.Spec) {
			change(s)
			privileged(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/cgroup", Type: "cgroup", Source: "cgroup", Options: append(options, "nosuid")})
		}, "join", "/dev/cgroup/cgroup.procs", "/dev/cgroup/*/cgroup.procs")
	}
	all := func(got, want string) bool {
		return got != "" && strings.Count(got, want+"\n") == strings.Count(got, "\n")
	}
	host := func(*specs.Spec) {}
	if got := try(host); !all(got, "<nil>") {
		t.Fatalf("the attack does not work anyway: %q", got)
	}
	if got := try(host, "ro"); !all(got, "read-only file system") {
		t.Errorf("read-only: %q", got)
	}
	if got := try(userNamespace, "ro"); !all(got, "permission denied") && !all(got, "read-only file system") {
		t.Errorf("read-only, in a user namespace: %q", got)
	}
}

// Runc issue 5258: a mount of cgroup2 that is made in the host's cgroup namespace
// takes its options along to the host's own, which loses nsdelegate so.
func TestOptionsOfTheHostsCgroups(t *testing.T) {
	if os.Getenv("MYSHIM_VM") == "" {
		t.Skip("*** THE OPTIONS OF CGROUP2 NOT TESTED: the attack changes the machine, so it is only tried in make test-vm ***")
	}
	options := func() string {
		t.Helper()
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); fields[4] == "/sys/fs/cgroup" {
				return strings.TrimPrefix(fields[len(fields)-1], "rw,")
			}
		}
		t.Fatal("no mount at /sys/fs/cgroup")
		return ""
	}
	naive := func(data string) {
		t.Helper()
		place := t.TempDir()
		if err := errors.Join(unix.Mount("cgroup", place, "cgroup2", 0, data), unix.Unmount(place, unix.MNT_DETACH)); err != nil {
			t.Fatal(err)
		}
	}
	before := options()
	defer func() {
		naive(before)
		if now := options(); now != before {
			t.Errorf("not restored: %q, was %q", now, before)
		}
	}()
	naive("nsdelegate,memory_recursiveprot")
	want := options()
	for _, data := range []string{"", "memory_localevents"} {
		naive(data)
		if got := options(); got == want {
			t.Fatalf("the attack does not work anyway: %q", got)
		}
	}
	naive(want)
	private := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	for _, c := range []struct {
		name    string
		changes []func(*specs.Spec)
	}{
		{"the host's namespace", nil},
		{"its own namespace", []func(*specs.Spec){private}},
		{"the host's namespace, in a user namespace", []func(*specs.Spec){userNamespace}},
		{"its own namespace, in a user namespace", []func(*specs.Spec){userNamespace, private}},
	} {
		for _, data := range []string{"ro", "rw", "memory_localevents", "nsdelegate"} {
			output(t, func(s *specs.Spec) {
				for _, change := range c.changes {
					change(s)
				}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", data}})
			}, "cat", "/dev/cgroup/cgroup.controllers")
			if got := options(); got != want {
				t.Errorf("%s, %s: the host's options are %q, were %q", c.name, data, got, want)
				naive(want)
			}
		}
	}
}

// A read-only mount of the host stays read-only in a user namespace whose root
// may mount. That it is, is a lock of the kernel's, which a clone has only if it
// was made in the container's mount namespace.
func TestReadonlyMountOfTheHost(t *testing.T) {
	source, place := t.TempDir(), t.TempDir()
	if err := os.Chmod(source, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount(source, source, "", unix.MS_BIND, ""), unix.Mount("", source, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(source, unix.MNT_DETACH) }()

	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	clone := os.NewFile(uintptr(fd), source)
	defer clone.Close()
	naive := exec.Command("/proc/self/exe", "attach", place)
	naive.Env = []string{"INSIDE=1"}
	naive.ExtraFiles = []*os.File{clone}
	ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1}}
	naive.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	out, err := naive.CombinedOutput()
	if want := place + ": <nil>, false\n"; err != nil || string(out) != want {
		t.Fatalf("the attack does not work anyway: %q (%v), want %q", out, err, want)
	}

	got := output(t, func(s *specs.Spec) {
		userNamespace(s)
		privileged(s)
		for dest, options := range map[string]string{"/plain": "bind", "/recursive": "rbind", "/nosuid": "bind,nosuid,rprivate"} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev" + dest, Source: source, Options: strings.Split(options, ",")})
		}
	}, "clear-readonly", "/dev/plain", "/dev/recursive", "/dev/nosuid")
	for line := range strings.Lines(got) {
		if !strings.HasSuffix(line, ": operation not permitted, true\n") {
			t.Errorf("inside: %s", line)
		}
	}
	if strings.Count(got, "\n") != 3 {
		t.Errorf("inside: %q", got)
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		userNamespace(s)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/rw", Source: source, Options: []string{"rbind", "rw"}})
	}, "true")
	if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "cannot clear locked flags") {
		t.Errorf("rw: %v", err)
	}
}

// CVE-2025-52881: what is written to /proc goes somewhere else, since the image,
// or a volume, has files in its place.
func TestSysctlOfAFakedProc(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	fake := func(rootfs string) string {
		if err := os.WriteFile(canary, []byte("alive"), 0o666); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(rootfs, "proc/sys/net/ipv4")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(canary, dir+"/ip_forward")); err != nil {
			t.Fatal(err)
		}
		return dir + "/ip_forward"
	}
	if err := os.WriteFile(fake(t.TempDir()), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(canary); string(text) != "1" {
		t.Fatalf("the attack does not work anyway: %q", text)
	}
	for name, mounted := range map[string]bool{"proc of the container": true, "no proc at all": false} {
		cfg, _ := config(t, func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			if !mounted {
				s.Mounts = s.Mounts[1:]
				s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			}
		}, "sleep")
		fake(filepath.Join(cfg.Bundle, "rootfs"))
		c := create(t, cfg)
		start(t, c)
		if text, _ := os.ReadFile(canary); string(text) != "alive" {
			t.Errorf("%s: the attack works", name)
		}
		if mounted {
			ps := &specs.Process{Cwd: "/", Args: []string{"/test", "cat", "/proc/sys/net/ipv4/ip_forward"}, Env: []string{"INSIDE=1"}}
			if got := execOutput(t, c, ps); got != "1\n" {
				t.Errorf("%s: %q", name, got)
			}
		}
		if err := c.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
