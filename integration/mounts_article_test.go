package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests of this file are the worked examples of mounts/README.md, in their
// order.

// output runs a container to its end and returns what it wrote.
func (s *stage) output(opts ...opt) string {
	s.Helper()
	return s.shim(opts...).output()
}

func (t *task) output() string {
	t.s.Helper()
	t.launch()
	exit, err := t.wait("")
	t.s.must(err)
	t.s.awaitEOF(t.streams.out)
	t.s.awaitEOF(t.streams.err)
	_, err = t.delete("")
	t.s.must(err)
	if exit.ExitStatus != 0 {
		t.s.Fatalf("exit %d: %s%s", exit.ExitStatus, t.streams.out.String(), t.streams.err.String())
	}
	return t.streams.out.String()
}

// stats are what testbox stat prints.
func (s *stage) stats(text string) map[string]struct{ Mode, Owner, Device string } {
	s.Helper()
	all := map[string]struct{ Mode, Owner, Device string }{}
	s.must(json.Unmarshal([]byte(text), &all))
	return all
}

func withMounts(list ...specs.Mount) opt { return withSpec(oci.WithMounts(list)) }

func hostTable(s *stage) string {
	s.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	s.must(err)
	return string(table)
}

func TestArticlePrivateTable(t *testing.T) {
	eachPeer(t, func(s *stage) {
		before := hostTable(s)
		c := s.launch(testbox("all", "mkdir", "/tmp/inside", "--", "mount", "tmpfs", "mine", "/tmp/inside", "", "--", "mountinfo", "--", "sleep", "inf"),
			withSpec(oci.WithAddedCapabilities([]string{"CAP_SYS_ADMIN"})))
		s.must(c.streams.out.Await(s.ctx, " - tmpfs mine"))
		inside := c.streams.out.String()
		if after := hostTable(s); strings.Contains(after, "mine") || !s.oracle() && after != before {
			s.Errorf("the host's table of mounts was\n%s\nis\n%s", before, after)
		}
		// And of the host's mounts none is seen.
		for line := range strings.Lines(before) {
			if at := strings.Fields(line)[4]; at != "/" && strings.Contains(at, harness.Dir) && strings.Contains(inside, " "+at+" ") {
				s.Errorf("the container sees %s", at)
			}
		}
	})
}

func TestArticleRootJail(t *testing.T) {
	eachPeer(t, func(s *stage) {
		marker := s.dir()
		for _, path := range []string{marker, "/.." + marker, "/proc/1/root" + marker, "/proc/self/cwd/../../.." + marker} {
			out := s.output(testbox("stat", path))
			if !strings.Contains(out, "ENOENT") {
				s.Errorf("%s of the host is seen: %s", path, out)
			}
		}
	})
}

func TestArticleNoMountNamespace(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("without a mount namespace it sets the propagation of the host's whole tree")
		before := hostTable(s)
		without := withSpec(oci.WithHostNamespace(specs.MountNamespace))
		refused := s.shim(testbox("true"), without)
		if err := refused.create(); err == nil || !strings.Contains(err.Error(), "linux.maskedPaths") {
			s.Errorf("masked paths without a mount namespace: %v", err)
		}
		refused = s.shim(testbox("true"), without, withSpec(oci.WithMaskedPaths(nil)))
		if err := refused.create(); err == nil || !strings.Contains(err.Error(), "linux.readonlyPaths") {
			s.Errorf("read-only paths without a mount namespace: %v", err)
		}
		c := s.launch(testbox("all", "list", "/dev", "--", "mountinfo", "--", "sleep", "inf"), without,
			withSpec(oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil)))
		s.must(c.streams.out.Await(s.ctx, " - sysfs "))
		rootfs := filepath.Join(c.Bundle.Dir, "rootfs")
		if !strings.Contains(hostTable(s), " "+rootfs+"/dev/pts ") {
			s.Error("the mounts are not the host's")
		}
		s.must(c.kill("", unix.SIGKILL))
		c.finish()
		if after := hostTable(s); after != before {
			s.Errorf("the host's table of mounts was\n%s\nis\n%s", before, after)
		}
	})
}

func TestArticleNoPivotRoot(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("mountinfo"))
		c.options = &runcoptions.Options{NoPivotRoot: true}
		table := c.output()
		if strings.Contains(table, " - ext4 ") || strings.Count(table, " / / ") != 1 {
			s.Errorf("mounts inside:\n%s", table)
		}
	})
}

func TestArticleBind(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("all", "cat", "/srv/www/index", "--", "write", "/srv/www"),
			withMounts(specs.Mount{Destination: "/srv/www", Type: "bind", Source: "html", Options: []string{"rbind", "ro"}}))
		s.must(os.Mkdir(filepath.Join(c.Bundle.Dir, "html"), 0o755))
		s.must(os.WriteFile(filepath.Join(c.Bundle.Dir, "html/index"), []byte("from the bundle\n"), 0o644))
		if out := c.output(); !strings.HasPrefix(out, "from the bundle\n") || !strings.Contains(out, "EROFS") {
			s.Errorf("inside: %s", out)
		}
	})
}

func TestArticleDeviceNode(t *testing.T) {
	eachPeer(t, func(s *stage) {
		out := s.output(testbox("stat", "/dev/of-the-host"),
			withMounts(specs.Mount{Destination: "/dev/of-the-host", Type: "bind", Source: "/dev/zero", Options: []string{"bind"}}))
		if got := s.stats(out)["/dev/of-the-host"]; got.Device != "1:5" || got.Mode != "020666" {
			s.Errorf("inside: %+v", got)
		}
	})
}

// blockDevice is a loop device with a file system that belongs to user 7 and
// group 1000, and in which the directory of-1000 belongs to that user.
func (s *stage) blockDevice(kind string) string {
	s.Helper()
	dir := s.dir()
	s.must(os.MkdirAll(dir+"/tree/of-1000", 0o700))
	s.must(os.Chown(dir+"/tree/of-1000", 1000, 1000))
	run := func(words ...string) string {
		s.Helper()
		if _, err := exec.LookPath(words[0]); err != nil {
			s.Skipf("*** %s NOT TESTED: %v ***", kind, err)
		}
		cmd := exec.CommandContext(s.ctx, words[0], words[1:]...)
		var out bytes.Buffer
		cmd.Stdout = &out
		s.must(harness.Run(cmd))
		return strings.TrimSpace(out.String())
	}
	supported, err := os.ReadFile("/proc/filesystems")
	s.must(err)
	if !slices.Contains(strings.Fields(string(supported)), kind) {
		s.Skipf("*** %s NOT TESTED: this kernel does not have it ***", kind)
	}
	switch kind {
	case "ext4":
		run("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=7:1000", "-d", dir+"/tree", dir+"/image", "8m")
	case "vfat":
		s.must(os.WriteFile(dir+"/image", make([]byte, 8<<20), 0o600))
		run("mkfs.vfat", dir+"/image")
	}
	device := run("losetup", "--find", "--show", dir+"/image")
	s.Cleanup(func() { s.must(harness.Run(exec.Command("losetup", "--detach", device))) })
	return device
}

// The mount point has owner and mode of what is mounted there, and who may write
// is a question of the file system's owners and the container's user.
func TestArticleBlockDevice(t *testing.T) {
	eachPeer(t, func(s *stage) {
		ext4 := specs.Mount{Destination: "/data", Type: "ext4", Source: s.blockDevice("ext4")}
		paths := []string{"/data", "/data/of-1000"}
		report := testbox(slices.Concat([]string{"stat"}, paths)...)
		if got := s.stats(s.output(report))["/data"]; got.Mode != "040751" || got.Owner != "0:0" {
			s.Errorf("before: %+v", got)
		}
		got := s.stats(s.output(report, withMounts(ext4)))
		if got["/data"].Mode != "040755" || got["/data"].Owner != "7:1000" || got["/data/of-1000"].Owner != "1000:1000" {
			s.Errorf("mounted: %+v", got)
		}
		for user, want := range map[uint32][2]string{0: {"ok", "ok"}, 7: {"ok", "EACCES"}, 1000: {"EACCES", "ok"}, 1001: {"EACCES", "EACCES"}} {
			as := edit(func(s *specs.Spec) { s.Process.User = specs.User{UID: user, GID: user} })
			out := s.output(testbox(slices.Concat([]string{"write"}, paths)...), withMounts(ext4), as)
			wrote := map[string]string{}
			s.must(json.Unmarshal([]byte(out), &wrote))
			if wrote["/data"] != want[0] || wrote["/data/of-1000"] != want[1] {
				s.Errorf("user %d: %v", user, wrote)
			}
		}
	})
}

// A file system without owners has those of its options.
func TestArticleBlockDeviceWithoutOwners(t *testing.T) {
	eachPeer(t, func(s *stage) {
		vfat := specs.Mount{Destination: "/data", Type: "vfat", Source: s.blockDevice("vfat"), Options: []string{"uid=1000", "gid=1000", "umask=027"}}
		out := s.output(testbox("stat", "/data"), withMounts(vfat))
		if got := s.stats(out)["/data"]; got.Mode != "040750" || got.Owner != "1000:1000" {
			s.Errorf("inside: %+v", got)
		}
	})
}

// A volume is a directory that somebody else looks after, and outlives containers.
func TestArticleVolume(t *testing.T) {
	eachPeer(t, func(s *stage) {
		volume := withMounts(specs.Mount{Destination: "/var/lib/app", Type: "bind", Source: s.dir(), Options: []string{"rbind", "rw"}})
		s.output(testbox("put", "/var/lib/app/state", "kept"), volume)
		if out := s.output(testbox("cat", "/var/lib/app/state"), volume); out != "kept" {
			s.Errorf("the next container finds %q", out)
		}
	})
}

// What inspect says of two containers, of which one has joined a namespace of the
// other.
func TestArticleNamespaces(t *testing.T) {
	each(t, func(e *env) {
		e.weakness("it has no such command")
		first := e.launch(still())
		dir := e.dir()
		joined := e.launch(still(), withSpec(joinOpts(first, specs.NetworkNamespace)...), sharesNamespaces,
			withMounts(specs.Mount{Destination: "/srv", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}))
		inspect := func(v any, args ...string) string {
			cmd := exec.CommandContext(e.ctx, e.runtime.Shim, append([]string{"inspect", "-state", filepath.Join(e.daemon.Dir, "state")}, args...)...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, os.Stderr
			e.must(harness.Run(cmd))
			if v != nil {
				e.must(json.Unmarshal(out.Bytes(), v))
			}
			return out.String()
		}
		type namespace struct {
			Type      string
			Inode     uint64
			Host      bool
			Shared    []string `json:"sharedWith"`
			Processes []int
		}
		var list []struct {
			ID         string
			PID        int
			Namespaces []namespace
		}
		inspect(&list, "-json", "-n", harness.Tag)
		seen := 0
		for _, c := range list {
			if c.ID != joined.c.ID() {
				continue
			}
			seen++
			for _, ns := range c.Namespaces {
				switch ns.Type {
				case "network":
					if !slices.Equal(ns.Shared, []string{first.c.ID()}) || len(ns.Processes) != 2 {
						e.Errorf("network: %+v", ns)
					}
				case "user", "time":
					if !ns.Host {
						e.Errorf("%+v", ns)
					}
				case "mount", "pid":
					if ns.Host || !slices.Equal(ns.Processes, []int{c.PID}) || c.PID != int(joined.Pid()) {
						e.Errorf("of pid %d: %+v", c.PID, ns)
					}
				}
			}
		}
		if seen != 1 {
			e.Fatalf("container %s is %d times in %+v", joined.c.ID(), seen, list)
		}
		var one struct {
			Mounts []struct{ Destination, Type, Origin string }
		}
		inspect(&one, "-json", joined.c.ID())
		origins := map[string]string{}
		for _, m := range one.Mounts {
			if m.Origin == "" || m.Origin == "host" || m.Origin == "container" {
				e.Errorf("%s: origin %q", m.Destination, m.Origin)
			}
			origins[m.Destination] = m.Origin
		}
		for dest, want := range map[string]string{"/": "rootfs", "/proc": "mounts[0]", "/srv": "mounts[7]", "/proc/keys": "linux.maskedPaths[2]"} {
			if got := origins[dest]; !strings.HasPrefix(got, strings.TrimRight(want, "0123456789]")) {
				e.Errorf("%s comes from %q, want %q", dest, got, want)
			}
		}
		if table := inspect(nil, joined.c.ID()); !strings.Contains(table, "/srv") || !strings.Contains(table, "DESTINATION") {
			e.Errorf("table:\n%s", table)
		}
	})
}
