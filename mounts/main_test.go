package mounts

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

var raceTime = flag.Duration("racetime", 2*time.Second, "how long the tests of races try")

func init() {
	// As main does; see kernel.Apart.
	runtime.LockOSThread()
}

// apart calls f in a mount namespace of its own: the thread is not the test's,
// so f returns its failure. Nothing of what f mounts is seen on the machine.
func apart(t testing.TB, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	err := kernel.Apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		t.Error(err)
	}
}

// container is a spec with /proc and nothing else.
func container(change ...func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func mounting(list ...specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, list...) }
}

// build makes the container's file system at rootfs, in the calling thread's
// mount namespace. The test is its init.
func build(s *specs.Spec, rootfs string, hierarchies ...Hierarchy) (*os.File, error) {
	p, err := Compile(Config{Spec: s, Bundle: filepath.Dir(rootfs), Rootfs: rootfs, Cgroup: hierarchies})
	if err != nil {
		return nil, err
	}
	var b Builder
	for _, super := range p.Supers {
		m, err := newMount(super)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		b.Supers = append(b.Supers, m)
	}
	root, err := p.Build(b)
	if err != nil {
		return nil, err
	}
	if err := p.Finish(b, root, nil); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// tryBuild builds and closes the root.
func tryBuild(s *specs.Spec, rootfs string) error {
	root, err := build(s, rootfs)
	if err == nil {
		err = root.Close()
	}
	return err
}

// image makes a root file system: names that end with a slash are directories,
// "a -> b" links, others files that hold their name. It is below a directory of
// its own, "host", which stands for the host.
func image(t testing.TB, names ...string) (host, rootfs string) {
	t.Helper()
	host = t.TempDir()
	rootfs = filepath.Join(host, "bundle", "rootfs")
	for _, name := range append([]string{"/"}, names...) {
		name, link, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(rootfs, name)
		if strings.HasPrefix(name, "host:") {
			path = filepath.Join(host, strings.TrimPrefix(name, "host:"))
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(strings.ReplaceAll(link, "HOST", host), path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(name+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return host, rootfs
}

// inventory is everything below a directory, with its kind.
func inventory(dir string) string {
	var all []string
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			all = append(all, strings.TrimPrefix(path, dir)+" "+d.Type().String())
		}
		return err
	})
	return strings.Join(all, "\n")
}

// fileSystem is the type of that at a path.
func fileSystem(path string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0
	}
	return st.Type
}

// mounted are the places of the thread's mounts, but for those below a directory.
func mountedOutside(dir string) (string, error) {
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return "", err
	}
	var places []string
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; at != dir && !strings.HasPrefix(at, dir+"/") {
			places = append(places, at)
		}
	}
	return strings.Join(places, "\n"), nil
}

// attack runs the naive implementation and the real one. succeeded says whether
// the attack did; it must with the first, or the test shows nothing.
func attack(t *testing.T, naive, real func() (succeeded bool, err error)) {
	t.Helper()
	apart(t, func() error {
		ok, err := naive()
		if err != nil {
			return fmt.Errorf("naive: %w", err)
		}
		if !ok {
			return errors.New("the attack does not even work on a naive implementation")
		}
		return nil
	})
	apart(t, func() error {
		ok, err := real()
		if ok {
			return errors.Join(errors.New("the attack works"), err)
		}
		return err
	})
}
