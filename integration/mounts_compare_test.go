package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mountDifferencesFile = "testdata/mount_differences.txt"

// TestMountTable makes a container of every spec of the table under both
// runtimes, and compares: whether it can be made, the mounts inside, what is at
// their places and who may write there, and what was made in the image for it.
func TestMountTable(t *testing.T) {
	reference, subject := pair(t)
	allowed, err := readDifferences(mountDifferencesFile)
	if err != nil {
		t.Fatal(err)
	}
	cases := mountCases()
	if len(cases) < 120 {
		t.Fatalf("only %d specs", len(cases))
	}
	made, ran := 0, 0
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, "/", "|"), func(t *testing.T) {
			ran++
			var seen [2]facts
			for i, r := range []harness.Runtime{reference, subject} {
				t.Run(r.Name, func(t *testing.T) {
					s := newStage(t, r)
					if strings.HasPrefix(c.name, "cgroup") {
						s.oracleLeaves(" - cgroup2 ", "it changes the options of the host's (runc issue 5258)")
					}
					seen[i] = c.collect(s)
				})
			}
			if t.Failed() || seen[0] == nil || seen[1] == nil {
				return
			}
			switch want, got := seen[0]["made"], seen[1]["made"]; {
			case want != got: // then nothing else can be the same
				seen[0], seen[1] = facts{"made": want}, facts{"made": got}
			case want == "yes":
				made++
			}
			if diff := compare(c.name, seen[0], seen[1], allowed); len(diff) > 0 {
				t.Errorf("%s differs from %s:\n\t%s", subject.Name, reference.Name, strings.Join(diff, "\n\t"))
			}
		})
	}
	if ran < len(cases) || subject.Name == harness.Oracle {
		return
	}
	t.Logf("%d specs, of which %d can be made", ran, made)
	for _, a := range allowed {
		if !a.used {
			t.Errorf("%s: no difference any more in %s of %s: remove the line", mountDifferencesFile, a.key, a.test)
		}
	}
}

// mountUser is who the root of the user namespace is on the host.
const mountUser = 100_000

// mountImage is the base tree with links that lead where an image may have them
// lead, as a directory: of root, or of mountUser.
var mountImage = [2]func() (string, error){
	sync.OnceValues(func() (string, error) { return writeMountImage("image", 0) }),
	sync.OnceValues(func() (string, error) { return writeMountImage("mapped", mountUser) }),
}

func writeMountImage(name string, owner int) (string, error) {
	base, err := harness.Base()
	if err != nil {
		return "", err
	}
	image := base.With(
		harness.Directory("usr", 0o755), harness.Directory("usr/lib", 0o750), harness.Text("usr/lib/x", 0o600, "x\n"),
		harness.Symlink("abs", "/work"), harness.Symlink("up", "../../../../work"), harness.Symlink("dangling", "/run/missing/dir"),
		harness.Symlink("loop", "loop"), harness.Symlink("etc/alias", "hosts"), harness.Symlink("proclink", "/proc"),
		harness.Symlink("syslink", "/sys"), harness.Symlink("devlink", "/dev"),
	)
	for i := range image {
		image[i].UID += owner
		image[i].GID += owner
	}
	dir := filepath.Join(harness.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, image.Write(dir)
}

// mountSources makes what the table's bind mounts can be of.
func mountSources(e *env) string {
	e.Helper()
	dir := e.dir()
	for _, name := range []string{"d", "d/sub", "d/sub/deep", "empty"} {
		e.must(os.Mkdir(filepath.Join(dir, name), 0o751))
	}
	e.must(unix.Mount("tmpfs", dir+"/d/sub", "tmpfs", unix.MS_NODEV, "mode=1770"))
	e.Cleanup(func() { _ = unix.Unmount(dir+"/d/sub", unix.MNT_DETACH) })
	e.must(os.Mkdir(dir+"/d/sub/deep", 0o700))
	e.must(os.WriteFile(dir+"/f", []byte("from the host\n"), 0o640))
	e.must(os.WriteFile(dir+"/d/hello", []byte("hello\n"), 0o604))
	e.must(os.Chown(dir+"/d", 1000, 1001))
	e.must(os.Symlink("d", dir+"/link"))
	e.must(unix.Mkfifo(dir+"/fifo", 0o622))
	e.must(unix.Mknod(dir+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	l, err := net.Listen("unix", dir+"/socket")
	e.must(err)
	e.Cleanup(func() { l.Close() })
	return dir
}

// mountPlaces are looked at in every container of the table.
var mountPlaces = []string{"/", "/data", "/data/hello", "/data/sub", "/data/sub/deep", "/data/new", "/work", "/work/new", "/new", "/new/place", "/run",
	"/run/missing", "/run/missing/dir", "/run/x", "/etc/hosts", "/mnt", "/dev", "/dev/null", "/dev/shm", "/dev/pts/ptmx", "/dev/ptmx", "/dev/sub",
	"/dev/sub/0", "/dev/sub/1", "/dev/sub/2", "/dev/sub/3", "/proc", "/proc/meminfo", "/proc/sys", "/sys", "/sys/fs", "/sys/firmware", "/sys/fs/cgroup",
	"/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"}

func (c mountCase) collect(s *stage) facts {
	s.Helper()
	which := 0
	if c.user {
		which = 1
	}
	root, err := mountImage[which]()
	s.must(err)
	s.root = root
	dir := mountSources(s.env)
	mounts := c.parse(dir)
	dests := slices.Clone(mountPlaces)
	for _, m := range mounts {
		dests = append(dests, m.Destination)
	}
	words := slices.Concat([]string{"/bin/testbox", "all", "report", "mounts", "--", "stat"}, dests, []string{"--", "write"}, dests, []string{"--", "list", "/dev"})
	b := s.shim(args(words...), edit(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, mounts...)
		if c.user {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mountUser, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		}
		if c.change != nil {
			c.change(s)
		}
	}))
	upper := s.upper(b.Bundle)
	if c.user {
		s.must(os.Chown(upper, mountUser, mountUser))
	}
	f := facts{"made": "yes"}
	if err := b.create(); err != nil {
		f["made"] = "no"
		s.Log(err)
		return f
	}
	s.must(b.start(""))
	exit, err := b.wait("")
	s.must(err)
	s.awaitEOF(b.streams.out)
	_, err = b.delete("")
	s.must(err)
	f["exit"] = fmt.Sprint(exit.ExitStatus)
	if exit.ExitStatus == 0 {
		s.must(f.addMounts(b.streams.out.String()))
	}
	f.addTree("made in the image", upper)
	return f.neutral(neutralFor(b.id))
}

// upper is the directory with what a container has changed of its image.
func (s *stage) upper(b *harness.Bundle) string {
	s.Helper()
	for _, o := range b.Rootfs[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir
		}
	}
	s.Fatal("the bundle has no upper directory")
	return ""
}

// addMounts takes the mounts out of the first document, a report, and adds the
// others as they are.
func (f facts) addMounts(text string) error {
	d := json.NewDecoder(strings.NewReader(text))
	var report struct{ Mounts []string }
	if err := d.Decode(&report); err != nil {
		return fmt.Errorf("%w in %q", err, text)
	}
	f.mounts("mount", strings.Join(report.Mounts, "\n"))
	return f.addJSON("inside", text[d.InputOffset():])
}

// addTree adds kind, mode and owner of all below dir.
func (f facts) addTree(name, dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		f[name+"."+strings.TrimPrefix(path, dir)] = fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		return nil
	})
}
