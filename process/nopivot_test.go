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

	"github.com/myshim/myshim/process/stdio"
)

func init() {
	inside["escape"] = escape
	inside["new-proc"] = newProc
	inside["mount-proc"] = mountProc
	inside["move-root"] = moveRoot
}

// escape tries the second chroot: a process that is outside of its root goes up
// to that of the mount namespace. It says what comes of a path of the host then.
func escape(paths []string) int {
	err := errors.Join(os.MkdirAll("/dev/jail", 0o755), unix.Chdir("/"), unix.Chroot("/dev/jail"))
	for range 64 {
		err = errors.Join(err, unix.Chdir(".."))
	}
	if err = errors.Join(err, unix.Chroot(".")); err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = os.Lstat(paths[0])
	fmt.Println("escaped:", err == nil)
	return 0
}

// newProc tries to get a proc without masks, in a user namespace.
func newProc([]string) int {
	cmd := exec.Command("/proc/self/exe", "mount-proc")
	cmd.Env = []string{"INSIDE=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stdout
	ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1}}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func mountProc([]string) int {
	if err := os.MkdirAll("/dev/new", 0o755); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("new proc:", unix.Mount("proc", "/dev/new", "proc", 0, ""))
	return 0
}

// moveRoot is the naive implementation: the new root is moved over the old one,
// with a proc in it that has a mask, and the host's proc stays where it is.
func moveRoot(args []string) int {
	root := args[0]
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("tmpfs", root, "tmpfs", 0, ""),
		os.Mkdir(root+"/proc", 0o755), os.Mkdir(root+"/dev", 0o755),
		unix.Mount("proc", root+"/proc", "proc", 0, ""),
		unix.Mount("tmpfs", root+"/proc/sys", "tmpfs", 0, ""),
		unix.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/"),
	)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return newProc(nil)
}

// privileged may do what the tests of this file try.
func privileged(s *specs.Spec) {
	all := []string{"CAP_SYS_CHROOT", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP", "CAP_DAC_OVERRIDE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
}

func outputWith(t *testing.T, edit func(*Config), change func(*specs.Spec), args ...string) string {
	t.Helper()
	cfg, _ := config(t, change, args...)
	edit(&cfg)
	out := filepath.Join(t.TempDir(), "out")
	cfg.Stdio = stdio.Request{Stdout: "file://" + out}
	c := create(t, cfg)
	start(t, c)
	wait(t, c.Init)
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func noPivotRoot(c *Config) { c.NoPivotRoot = true }

// A second chroot leads out of a root that is only one by chroot, as it is
// without a mount namespace, and not out of one that was moved over the old one.
func TestSecondChroot(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "of the host")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		edit   func(*Config)
		change func(*specs.Spec)
		want   string
	}{
		{"chroot", func(*Config) {}, func(s *specs.Spec) { noMountNamespace(s); privileged(s) }, "escaped: true\n"},
		{"pivot_root", func(*Config) {}, privileged, "escaped: false\n"},
		{"no pivot_root", noPivotRoot, privileged, "escaped: false\n"},
		{"no pivot_root, user namespace", noPivotRoot, func(s *specs.Spec) { userNamespace(s); privileged(s) }, "escaped: false\n"},
	} {
		if got := outputWith(t, test.edit, test.change, "escape", marker); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// A proc without masks in the old tree lets a user namespace mount a new one.
func TestMovedRootHasNoOldProc(t *testing.T) {
	naive := exec.Command("/proc/self/exe", "move-root", t.TempDir())
	naive.Env = []string{"INSIDE=1"}
	naive.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := naive.CombinedOutput()
	if err != nil || string(out) != "new proc: <nil>\n" {
		t.Fatalf("the attack does not work anyway: %q (%v)", out, err)
	}
	// As on a host with systemd, where an umount can get out of the container.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") }()
	for _, propagation := range []string{"", "shared", "rprivate"} {
		change := func(s *specs.Spec) {
			privileged(s)
			s.Linux.RootfsPropagation = propagation
		}
		before := strings.Join(below(t, "/proc"), " ") + strings.Join(below(t, "/sys"), " ")
		if got := outputWith(t, noPivotRoot, change, "new-proc"); got != "new proc: operation not permitted\n" {
			t.Errorf("propagation %q: %q", propagation, got)
		}
		if after := strings.Join(below(t, "/proc"), " ") + strings.Join(below(t, "/sys"), " "); after != before {
			t.Errorf("propagation %q: the host had %s, has %s", propagation, before, after)
		}
	}
}
