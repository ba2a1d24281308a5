package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// TestRootOfImages has a root as containerd's erofs snapshotter describes it: an
// image that is read-only, another one to be written to, and what refers to both.
func TestRootOfImages(t *testing.T) {
	for kind, mkfs := range map[string]func(file, tree string) []string{
		"ext4": func(file, tree string) []string {
			return []string{"mke2fs", "-q", "-t", "ext4", "-d", tree, file, "64m"}
		},
		"erofs": func(file, tree string) []string { return []string{"mkfs.erofs", file, tree} },
	} {
		t.Run(kind, func(t *testing.T) {
			eachPeer(t, func(s *stage) {
				s.weakness("it does nothing of what containerd's mount manager does")
				dir := s.dir()
				make := func(words []string) {
					if _, err := exec.LookPath(words[0]); err != nil {
						s.Skipf("*** %s NOT TESTED: %v ***", kind, err)
					}
					s.must(harness.Run(exec.CommandContext(s.ctx, words[0], words[1:]...)))
				}
				make(mkfs(dir+"/lower", s.root))
				make([]string{"mke2fs", "-q", "-t", "ext4", dir + "/upper", "8m"})
				c := s.shim(testbox("all", "put", "/written", "x", "--", "cat", "/written", "/etc/hostname", "--", "mountinfo"))
				c.Bundle.Rootfs = []*types.Mount{
					{Type: kind, Source: dir + "/lower", Options: []string{"ro", "loop"}},
					{Type: "ext4", Source: dir + "/upper", Options: []string{"loop"}},
					{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
						"X-containerd.mkdir.path={{ mount 1 }}/upper:0755", "X-containerd.mkdir.path={{ mount 1 }}/work:0700",
						"lowerdir={{ mount 0 }}", "upperdir={{ mount 1 }}/upper", "workdir={{ mount 1 }}/work",
					}},
				}
				out := c.output()
				if !strings.HasPrefix(out, "ximage\n") || !strings.Contains(out, " / / rw,relatime - overlay ") || strings.Contains(out, " - erofs ") || strings.Contains(out, " /0 ") {
					s.Errorf("inside:\n%s", out)
				}
			})
		})
	}
}

// What containerd may leave to the runtime is said by -info.
func TestInfoOfMounts(t *testing.T) {
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		if r.Name == harness.Oracle {
			t.Skip("it leaves all to containerd")
		}
		cmd := exec.CommandContext(t.Context(), r.Shim, "-info")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := harness.Run(cmd); err != nil {
			t.Fatal(err)
		}
		var info types.RuntimeInfo
		if err := proto.Unmarshal(out.Bytes(), &info); err != nil {
			t.Fatal(err)
		}
		if got := info.Annotations["containerd.io/runtime-allow-mounts"]; got != "erofs,ext4,format/*,mkdir/*" {
			t.Errorf("announced: %q", got)
		}
	})
}

// Containerd 2.4 leaves mounts to the runtime because of what start answers, and
// does not ask as older ones do.
func TestMountCapabilities(t *testing.T) {
	ownDaemon(t, func(e *env) {
		mark := e.daemon.Mark()
		// On top of the root that the snapshotter describes: that, at its place.
		b := e.launch(still(), withTask(client.WithRootFS([]mount.Mount{{Type: "format/bind", Source: "{{ mount 0 }}", Options: []string{"rbind"}}})))
		table, err := os.ReadFile("/proc/self/mountinfo")
		e.must(err)
		if byContainerd := strings.Contains(string(table), "io.containerd.mount-manager"); byContainerd != e.oracle() {
			e.Errorf("mounted by containerd: %v", byContainerd)
		}
		if log := e.daemon.Tail(mark); strings.Contains(log, "runtime-allow-mounts") {
			e.Errorf("containerd's log:\n%s", log)
		}
		b.kill(unix.SIGKILL)
		b.wait()
	})
}

// A root that is mounted on the host too is unmounted in every case.
func TestVisibleRootfs(t *testing.T) {
	for name, end := range map[string]func(s *stage, c *task){
		"deleted": func(s *stage, c *task) {
			s.must(c.kill("", unix.SIGKILL))
			c.finish()
		},
		"killed": func(s *stage, c *task) {
			s.must(c.Signal(unix.SIGKILL))
			s.must(c.Gone(s.ctx))
			if _, _, err := s.peer.Delete(s.ctx, s.call(), c.Bundle); err != nil {
				s.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachPeer(t, func(s *stage) {
				s.weakness("it always mounts there")
				c := s.shim(testbox("all", "wait-for", "/late", "--", "sleep", "inf"))
				c.options = &runtimeoptions.Options{ConfigBody: []byte("VisibleRootfs = true\n")}
				c.launch()
				rootfs := filepath.Join(c.Bundle.Dir, "rootfs")
				s.must(os.WriteFile(rootfs+"/late", nil, 0o644))
				if _, err := os.Stat(filepath.Join(s.upper(c.Bundle), "late")); err != nil {
					s.Errorf("what is written there: %v", err)
				}
				if !strings.Contains(hostTable(s), " "+rootfs+" ") {
					s.Error("it is not mounted")
				}
				end(s, c)
				if strings.Contains(hostTable(s), " "+rootfs) {
					s.Error("it is still mounted")
				}
			})
		})
	}
}
