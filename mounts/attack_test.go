package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
)

// The tests of this file are attacks that have worked on other runtimes. Each is
// first tried on a naive implementation, in the test, on which it must work.

// refused wants an error with the text; the attack has succeeded if there is none.
func refused(err error, text string) (bool, error) {
	if err == nil {
		return true, nil
	}
	if !strings.Contains(err.Error(), text) {
		return false, fmt.Errorf("refused for another reason than %q: %w", text, err)
	}
	return false, nil
}

// CVE-2019-16884: a volume at /proc takes what is written to /proc/self/attr.
func TestVolumeAtProc(t *testing.T) {
	for _, dest := range []string{"/proc", "/proc/self/task", "/x", "/x/self/task", "/../proc/./"} {
		host, rootfs := image(t, "proc/", "x -> /proc", "host:volume/fake")
		attack(t, func() (bool, error) {
			err := unix.Mount("proc", rootfs+"/proc", "proc", 0, "")
			at := filepath.Clean(strings.Replace(dest, "/x", "/proc", 1))
			err = errors.Join(err, unix.Mount(host+"/volume", filepath.Join(rootfs, at), "", unix.MS_BIND, ""))
			return fileSystem(filepath.Join(rootfs, at)) != unix.PROC_SUPER_MAGIC, err
		}, func() (bool, error) {
			volume := mounting(specs.Mount{Destination: dest, Source: host + "/volume", Options: []string{"bind"}})
			return refused(tryBuild(container(volume), rootfs), "cannot be mounted because it is")
		})
	}
	apart(t, func() error { // what lxcfs does
		host, rootfs := image(t, "proc/", "host:meminfo")
		return tryBuild(container(mounting(specs.Mount{Destination: "/proc/meminfo", Source: host + "/meminfo", Options: []string{"bind"}})), rootfs)
	})
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: where the image has a link as
// /proc or /sys, it is a directory of a volume that looks like one.
func TestProcIsALink(t *testing.T) {
	for _, kind := range []string{"proc", "sysfs"} {
		name := map[string]string{"proc": "/proc", "sysfs": "/sys"}[kind]
		for _, to := range []string{"/tmp", "tmp", "../../../tmp", "/missing"} {
			_, rootfs := image(t, "tmp/fake", name+" -> "+to)
			attack(t, func() (bool, error) {
				// Scoped to the root, and followed.
				err := os.MkdirAll(filepath.Join(rootfs, filepath.Clean("/"+to)), 0o755)
				err = errors.Join(err, unix.Mount(kind, filepath.Join(rootfs, filepath.Clean("/"+to)), kind, 0, ""))
				info, statErr := os.Lstat(rootfs + name)
				return info.Mode()&os.ModeSymlink != 0, errors.Join(err, statErr)
			}, func() (bool, error) {
				s := container()
				s.Mounts = []specs.Mount{{Destination: name, Type: kind, Source: kind}}
				return refused(tryBuild(s, rootfs), "must be mounted on ordinary directory")
			})
		}
	}
}

// untilItWorks is how long a naive implementation may take to lose a race: it
// mostly does at once, but not on a busy machine.
const untilItWorks = 2 * time.Minute

// swap exchanges two names until it is stopped, as a container with the volume can.
func swap(a, b string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// The same, while another container swaps the directory for a link.
func TestProcBecomesALink(t *testing.T) {
	race := func(limit time.Duration, one func(rootfs string) error) (bool, error) {
		built := 0
		for end := time.Now().Add(limit); time.Now().Before(end) || built == 0; {
			_, rootfs := image(t, "proc/", "tmp/", "link -> tmp")
			stop := swap(rootfs+"/proc", rootfs+"/link")
			err := one(rootfs)
			stop()
			if fileSystem(rootfs+"/tmp") == unix.PROC_SUPER_MAGIC {
				return true, nil
			}
			if err == nil {
				built++
			}
			_ = unix.Unmount(rootfs, unix.MNT_DETACH)
			if time.Since(end) > 10*time.Second {
				return false, errors.New("not a single container could be made")
			}
		}
		return false, nil
	}
	attack(t, func() (bool, error) {
		return race(untilItWorks, func(rootfs string) error {
			if info, err := os.Lstat(rootfs + "/proc"); err != nil || !info.IsDir() {
				return errors.New("no directory")
			}
			return unix.Mount("proc", rootfs+"/proc", "proc", 0, "")
		})
	}, func() (bool, error) {
		return race(*raceTime, func(rootfs string) error { return tryBuild(container(), rootfs) })
	})
}

// CVE-2019-18837: a destination leads out of the root.
func TestDestinationOutside(t *testing.T) {
	for _, dest := range []string{"/../../outside/x", "/up/outside/x", "/abs/x", "/dangling/x", "/a/../../../outside/x"} {
		host, rootfs := image(t, "proc/", "a/", "host:outside/", "up -> ../..", "abs -> HOST/outside", "dangling -> HOST/outside/missing")
		outside := host + "/outside"
		before := inventory(outside)
		attack(t, func() (bool, error) {
			defer func() { _ = os.RemoveAll(outside); _ = os.Mkdir(outside, 0o755) }()
			// filepath.Join would clean the dots, which is all that many do.
			path := rootfs + dest
			if strings.HasPrefix(dest, "/dangling") {
				_ = os.Mkdir(outside+"/missing", 0o755)
			}
			return inventory(outside) != before || fileExists(outside, func() error { return os.MkdirAll(path, 0o755) }), nil
		}, func() (bool, error) {
			tmpfs := mounting(specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"})
			if err := tryBuild(container(tmpfs), rootfs); err != nil {
				return false, err
			}
			if got := inventory(outside); got != before {
				return true, fmt.Errorf("outside: %s", got)
			}
			places, err := mountedOutside(rootfs)
			return strings.Contains(places, host), err
		})
	}
}

func fileExists(dir string, make func() error) bool {
	before := inventory(dir)
	_ = make()
	return inventory(dir) != before
}

// CVE-2021-30465 and CVE-2024-45310: while a destination in a shared volume is
// looked up, another container exchanges a directory of it for a link. Then a
// file system is mounted, or directories and files are made, on the host.
func TestDestinationSwapped(t *testing.T) {
	race := func(limit time.Duration, one func(rootfs, volume string) error) (bool, error) {
		host, rootfs := image(t, "proc/", "v/", "host:volume/m/", "host:outside/", "host:volume/link -> HOST/outside", "host:file")
		volume, outside := host+"/volume", host+"/outside"
		before := inventory(outside)
		places, err := mountedOutside(rootfs)
		if err != nil {
			return false, err
		}
		defer swap(volume+"/m", volume+"/link")()
		for end := time.Now().Add(limit); time.Now().Before(end); {
			_ = one(rootfs, volume) // it may fail, as long as it does nothing out there
			now, err := mountedOutside(rootfs)
			if err != nil {
				return false, err
			}
			if inventory(outside) != before || now != places {
				return true, nil
			}
			_ = unix.Unmount(rootfs, unix.MNT_DETACH)
			_ = os.RemoveAll(volume + "/m/a")
		}
		return false, nil
	}
	attack(t, func() (bool, error) {
		return race(untilItWorks, func(rootfs, volume string) error {
			err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND, "")
			err = errors.Join(err, unix.Mount(volume, rootfs+"/v", "", unix.MS_BIND, ""))
			// Checked, and then used by its name.
			if link, _ := filepath.EvalSymlinks(rootfs + "/v/m"); !strings.HasPrefix(link, rootfs) {
				return err
			}
			err = errors.Join(err, os.MkdirAll(rootfs+"/v/m/a/b", 0o755))
			return errors.Join(err, unix.Mount("tmpfs", rootfs+"/v/m/a/b", "tmpfs", 0, ""))
		})
	}, func() (bool, error) {
		return race(*raceTime, func(rootfs, volume string) error {
			return tryBuild(container(mounting(
				specs.Mount{Destination: "/v", Source: volume, Options: []string{"rbind"}},
				specs.Mount{Destination: "/v/m/a/b", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/v/m/a/c/file", Source: filepath.Dir(volume) + "/file", Options: []string{"bind"}},
			)), rootfs)
		})
	})
}

// CVE-2023-25809: the host's cgroups can be written to, though the mount is
// read-only by its options: mount(2) takes no notice of MS_RDONLY for a bind.
func TestCgroupIsReadonly(t *testing.T) {
	host, rootfs := image(t, "proc/", "sys/fs/cgroup/", "host:cgroup/memory/c/cgroup.procs")
	write := func(path string) (bool, error) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			if errors.Is(err, unix.EROFS) {
				err = nil
			}
			return false, err
		}
		return true, f.Close()
	}
	attack(t, func() (bool, error) {
		err := unix.Mount(host+"/cgroup/memory/c", rootfs+"/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_RDONLY, "")
		ok, writeErr := write(rootfs + "/sys/fs/cgroup/cgroup.procs")
		return ok, errors.Join(err, writeErr)
	}, func() (bool, error) {
		s := container(mounting(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}}))
		root, err := build(s, rootfs, Hierarchy{Name: "memory", Dir: host + "/cgroup/memory/c"})
		if err != nil {
			return false, err
		}
		ok, err := write(rootfs + "/sys/fs/cgroup/memory/cgroup.procs")
		return ok, errors.Join(err, root.Close())
	})
}

// CVE-2025-31133: the image, or a container with the same volume as /dev, has
// made something of its own of the file that masks are made of.
func TestMaskOfTheImage(t *testing.T) {
	for _, null := range []string{"dev/null -> HOST/target", "dev/null -> ../target", "dev/null"} {
		host, rootfs := image(t, "proc/", null, "secret", "target", "host:target")
		attack(t, func() (bool, error) {
			err := unix.Mount(rootfs+"/dev/null", rootfs+"/secret", "", unix.MS_BIND, "")
			return contains(rootfs+"/secret", "target") || contains(rootfs+"/secret", "null"), err
		}, func() (bool, error) {
			s := container(mounting(specs.Mount{Destination: "/dev", Source: rootfs + "/dev", Options: []string{"rbind"}}))
			s.Linux.MaskedPaths = []string{"/secret"}
			err := tryBuild(s, rootfs)
			f, openErr := os.Open(rootfs + "/secret")
			if err = errors.Join(err, openErr); err != nil {
				return false, err
			}
			defer f.Close()
			return nullDevice.verify(f) != nil, nil
		})
		// Without such a mount there must be a true null device in /dev.
		apart(t, func() error {
			_, err := refused(tryBuild(container(), rootfs), "there is something else")
			return errors.Join(err, expect(contains(host+"/target", "target")))
		})
	}
}

// A link to be masked is followed, in the root: what it leads to is hidden, and
// nothing of the host's.
func TestMaskOfALink(t *testing.T) {
	for _, link := range []string{"secret -> ../../target", "secret -> /target", "dir -> HOST/outside"} {
		host, rootfs := image(t, "proc/", link, "target", "host:target", "host:outside/secret")
		path, _, _ := strings.Cut(link, " ")
		attack(t, func() (bool, error) {
			if path == "dir" {
				err := unix.Mount("tmpfs", rootfs+"/dir", "tmpfs", 0, "")
				return !contains(host+"/outside/secret", "secret"), err
			}
			_ = unix.Mount("/dev/null", rootfs+"/secret", "", unix.MS_BIND, "")
			return contains(rootfs+"/target", "target"), nil
		}, func() (bool, error) {
			s := container()
			s.Linux.MaskedPaths = []string{"/" + path}
			s.Linux.ReadonlyPaths = []string{"/" + path}
			if err := tryBuild(s, rootfs); err != nil {
				return false, err
			}
			outside, err := mountedOutside(filepath.Dir(rootfs))
			if strings.Contains(outside, host) || !contains(host+"/outside/secret", "secret") || !contains(host+"/target", "target") {
				return true, errors.New(outside)
			}
			return path == "secret" && contains(rootfs+"/target", "target"), err
		})
	}
	_, rootfs := image(t, "proc/")
	for _, path := range []string{"/proc/self", "/proc/self/attr", "/proc/thread-self/attr/exec", "/proc/net/dev"} {
		apart(t, func() error {
			s := container()
			s.Linux.MaskedPaths = []string{path}
			_, err := refused(tryBuild(s, rootfs), "is another one for every process")
			return err
		})
	}
}

func contains(path, text string) bool {
	data, _ := os.ReadFile(path)
	return strings.Contains(string(data), text)
}

func expect(ok bool) error {
	if !ok {
		return errors.New("not as it was")
	}
	return nil
}

// CVE-2025-52565: the terminal is bound over what the image's /dev/console leads
// to, or the image has terminals of its own.
func TestConsoleOfTheImage(t *testing.T) {
	devpts := specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}}
	host, rootfs := image(t, "proc/", "dev/pts/", "dev/console -> HOST/target", "host:target")
	attack(t, func() (bool, error) {
		err := unix.Mount("/dev/null", rootfs+"/dev/console", "", unix.MS_BIND, "")
		return !contains(host+"/target", "target"), err
	}, func() (bool, error) {
		root, err := build(container(mounting(devpts)), rootfs)
		if err != nil {
			return false, err
		}
		defer root.Close()
		master, slave, err := OpenTerminal(root)
		if err != nil {
			return false, err
		}
		defer master.Close()
		defer slave.Close()
		ok, err := refused(bindConsole(kernel.Root{File: root}, slave), "is a symbolic link")
		return ok || !contains(host+"/target", "target"), err
	})
	for _, fake := range []string{"dev/pts/ptmx", "dev/pts/ptmx -> HOST/target", "dev/pts -> HOST/outside"} {
		_, rootfs := image(t, "proc/", fake, "host:target", "host:outside/ptmx")
		attack(t, func() (bool, error) {
			f, err := os.OpenFile(rootfs+"/dev/pts/ptmx", os.O_RDWR, 0)
			if err != nil {
				return false, err
			}
			return true, f.Close()
		}, func() (bool, error) {
			root, err := openRoot(rootfs)
			if err != nil {
				return false, err
			}
			defer root.Close()
			_, _, err = OpenTerminal(root)
			return refused(err, "process.terminal: ")
		})
	}
}

// CVE-2026-41579, CVE-2026-47766: the image has a link as /dev, and nodes and
// links are made, and a file named ptmx removed, where it leads to.
func TestDevIsALink(t *testing.T) {
	for _, link := range []string{"dev -> HOST/outside", "dev -> ../../outside"} {
		host, rootfs := image(t, "proc/", link, "host:outside/ptmx")
		before := inventory(host + "/outside")
		attack(t, func() (bool, error) {
			defer os.Remove(host + "/outside/null")
			return fileExists(host+"/outside", func() error {
				return unix.Mknod(rootfs+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
			}), nil
		}, func() (bool, error) {
			err := tryBuild(container(), rootfs)
			return inventory(host+"/outside") != before, err
		})
	}
}

// CVE-2022-23648: what a tmpfs starts with is copied, and not what links in the
// image lead to.
func TestCopyUpOfLinks(t *testing.T) {
	host, rootfs := image(t, "proc/", "data/link -> HOST/secret", "data/up -> ../../../secret", "data/dir -> HOST", "host:secret")
	attack(t, func() (bool, error) {
		text, err := os.ReadFile(rootfs + "/data/link")
		err = errors.Join(err, unix.Mount("tmpfs", rootfs+"/data", "tmpfs", 0, ""), os.WriteFile(rootfs+"/data/link", text, 0o644))
		return contains(rootfs+"/data/link", "secret"), err
	}, func() (bool, error) {
		tmpfs := mounting(specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
		err := tryBuild(container(tmpfs), rootfs)
		for name, to := range map[string]string{"link": host + "/secret", "up": "../../../secret", "dir": host} {
			got, linkErr := os.Readlink(rootfs + "/data/" + name)
			if err = errors.Join(err, linkErr); got != to {
				return true, err
			}
		}
		return false, err
	})
}

// The same, while another container with the volume swaps a directory of it for a
// link.
func TestCopyUpRace(t *testing.T) {
	race := func(limit time.Duration, one func(rootfs string) error) (bool, error) {
		copied := 0
		for end := time.Now().Add(limit); time.Now().Before(end) || copied == 0; {
			host, rootfs := image(t, "proc/", "data/dir/file", "link -> HOST/outside", "host:outside/secret")
			stop := swap(rootfs+"/data/dir", rootfs+"/link")
			err := one(rootfs)
			stop()
			if fileSystem(rootfs+"/data") == unix.TMPFS_MAGIC {
				copied++
				if info, err := os.Lstat(rootfs + "/data/dir"); err == nil && info.IsDir() && contains(rootfs+"/data/dir/secret", "secret") {
					return true, nil
				}
			}
			_ = unix.Unmount(rootfs+"/data", unix.MNT_DETACH)
			_ = unix.Unmount(rootfs, unix.MNT_DETACH)
			if time.Since(end) > 10*time.Second {
				return false, errors.Join(errors.New("nothing was copied at all"), err)
			}
			if err := os.RemoveAll(host); err != nil {
				return false, err
			}
		}
		return false, nil
	}
	attack(t, func() (bool, error) {
		return race(untilItWorks, func(rootfs string) error {
			tmpfs := t.TempDir()
			from := os.DirFS(rootfs + "/data")
			return errors.Join(os.CopyFS(tmpfs, from), unix.Mount("tmpfs", rootfs+"/data", "tmpfs", 0, ""), os.CopyFS(rootfs+"/data", os.DirFS(tmpfs)))
		})
	}, func() (bool, error) {
		return race(*raceTime, func(rootfs string) error {
			return tryBuild(container(mounting(specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})), rootfs)
		})
	})
}

// Without a cgroup namespace, a new mount of cgroup2 is one of the host's, and
// takes its options along (runc issue 5258): there is to be none. Beside v1 the
// container sees its own cgroup only, as of v1.
func TestCgroup2OfTheHost(t *testing.T) {
	v1 := []Hierarchy{{Name: "memory", Dir: "/sys/fs/cgroup/memory/c"}}
	for _, test := range []struct {
		kind    string
		host    Config
		private bool
		want    string
	}{
		{"cgroup", Config{}, false, "bind /sys/fs/cgroup"},
		{"cgroup2", Config{}, false, "bind /sys/fs/cgroup"},
		{"cgroup", Config{}, true, "cgroup2"},
		{"cgroup2", Config{Cgroup: v1, Cgroup2: "/sys/fs/cgroup/unified/c"}, false, "bind /sys/fs/cgroup/unified/c"},
		{"cgroup2", Config{Cgroup: v1, Cgroup2: "/sys/fs/cgroup/unified/c"}, true, "cgroup2"},
		{"cgroup2", Config{Cgroup: v1}, false, "cgroup2"}, // the host has not mounted it
	} {
		s := container(mounting(specs.Mount{Destination: "/sys/fs/cgroup", Type: test.kind, Source: "cgroup", Options: []string{"ro", "memory_recursiveprot"}}))
		if test.private {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
		test.host.Spec, test.host.Bundle, test.host.Rootfs = s, "/b", "/b/rootfs"
		p, err := Compile(test.host)
		if err != nil {
			t.Fatal(err)
		}
		var made, got []string
		for _, super := range p.Supers {
			if strings.HasPrefix(super.Type, "cgroup") {
				made = append(made, super.Type)
			}
		}
		for _, line := range p.Lines() {
			if strings.HasPrefix(line.Dest, "/sys/fs/cgroup") {
				got = append(got, strings.TrimSpace(line.Action+" "+line.Source))
			}
			if line.Dest == "/sys/fs/cgroup" && !strings.Contains(line.Options, "ro") {
				t.Errorf("%s: not read-only", line)
			}
		}
		if strings.Join(got, ", ") != test.want || (len(made) > 0) != (test.want == "cgroup2") {
			t.Errorf("%s, own namespace %v: %q with the superblocks %q, want %s", test.kind, test.private, got, made, test.want)
		}
	}
}
