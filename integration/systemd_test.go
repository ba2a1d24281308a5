package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Its own unit files: those of the machine would start what belongs to a machine.
var systemdUnits = map[string]string{
	"test.target":  "[Unit]\nDefaultDependencies=no\nRequires=test.service\nAfter=test.service\n",
	"test.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep infinity\nTasksMax=7\n",
}

// Systemd is a container's init, with the machine's programs and the usual
// capabilities. It needs a cgroup that it may divide and hand limits on in, execs
// that follow it out of that, and the signal by which it is asked to end.
func TestSystemdInside(t *testing.T) {
	eachPeer(t, func(s *stage) { s.systemdInside() })
}

// In a user namespace, the cgroup has to be given to its root.
func TestSystemdInsideUserNamespace(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it gives cgroups to the root of a user namespace only if systemd has made them")
		ids := []specs.LinuxIDMapping{{HostID: 100_000, Size: 65536}}
		s.systemdInside(oci.WithUserNamespace(ids, ids))
	})
}

// MachineRoot is / without what is mounted below: in a user namespace that is
// locked, and what it is mounted on cannot be a layer.
func (s *stage) machineRoot() string {
	s.Helper()
	dir := filepath.Join(harness.Dir, "machine")
	s.must(os.Mkdir(dir, 0o755))
	s.Cleanup(func() {
		if err := os.Remove(dir); err != nil { // never what is in it
			s.Error(err)
		}
	})
	s.must(unix.Mount("/", dir, "", unix.MS_BIND, ""))
	s.Cleanup(func() { s.must(unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func (s *stage) systemdInside(more ...oci.SpecOpts) {
	s.Helper()
	s.needSystemdInside()
	s.root = s.machineRoot()
	units := s.dir()
	for name, text := range systemdUnits {
		s.must(os.WriteFile(filepath.Join(units, name), []byte(text), 0o644))
	}
	bind := func(source, dest string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: dest, Options: []string{"bind", "ro"}}
	}
	tmpfs := func(dest string) specs.Mount {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: dest, Options: []string{"nosuid", "nodev", "mode=1777"}}
	}
	c := s.launch(withTerminal, withSpec(
		oci.WithProcessArgs("/lib/systemd/systemd", "--unit=test.target", "--show-status=no", "--log-target=console"),
		oci.WithEnv([]string{"container=myshim"}),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
		oci.WithMounts([]specs.Mount{
			tmpfs("/tmp"), tmpfs("/run/lock"), // containerd's spec has one on /run
			{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid", "noexec", "nodev", "rw"}},
			bind(units, "/etc/systemd/system"),
			bind(s.dir(), "/usr/lib/systemd/system-generators"),
		})), withSpec(more...))
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("the console:\n%s", c.streams.out.String())
		}
	})

	// An exec before that could be in the group which systemd is about to divide.
	s.must(c.streams.out.Await(s.ctx, "Startup finished"))
	if state := c.execOutput("/bin/systemctl", "is-system-running"); state != "running\n" {
		s.Errorf("systemd is %q: %s", state, c.execOutput("/bin/systemctl", "--failed"))
	}
	if got, want := c.execOutput("/bin/cat", "/proc/1/cgroup", "/proc/self/cgroup"), "0::/init.scope\n0::/init.scope\n"; got != want {
		s.Errorf("init and exec are in %q, want %q", got, want)
	}
	group := filepath.Join("/sys/fs/cgroup", harness.Tag, c.id)
	for file, want := range map[string]string{
		"cgroup.procs": "", "system.slice/test.service/pids.max": "7", "system.slice/test.service/pids.current": "1",
	} {
		text, err := os.ReadFile(filepath.Join(group, file))
		if got := strings.TrimSpace(string(text)); err != nil || got != want {
			s.Errorf("%s: %q, %v, want %q", file, got, err, want)
		}
	}
	if pids, err := c.pids(); err != nil || len(pids) < 2 {
		s.Errorf("processes %v, %v: want systemd and its service", pids, err)
	}

	s.must(c.kill("", 34+3)) // SIGRTMIN+3: halt
	exit, err := c.wait("")
	s.must(err)
	if exit.ExitStatus != 0 {
		s.Errorf("exit code %d", exit.ExitStatus)
	}
	c.finish()
	if _, err := os.Stat(group); !os.IsNotExist(err) {
		s.Errorf("%s is left: %v", group, err)
	}
}

func (s *stage) needSystemdInside() {
	s.Helper()
	var machine, layers unix.Stat_t
	_, err := os.Stat("/lib/systemd/systemd")
	why := ""
	switch {
	case !unifiedOnly():
		why = "needs a pure cgroup v2"
	case err != nil:
		why = fmt.Sprint("needs systemd: ", err)
	case unix.Stat("/", &machine) != nil || unix.Stat(harness.Dir, &layers) != nil || machine.Dev == layers.Dev:
		why = "an overlay on / needs another file system at " + harness.Dir
	}
	if why != "" {
		s.Skip("*** SYSTEMD IN A CONTAINER NOT TESTED: " + why + " ***")
	}
}

// ExecOutput is what an exec has written to stdout at its end.
func (t *task) execOutput(words ...string) string {
	t.s.Helper()
	id := newID()
	streams := t.s.newStreams(id, false)
	defer streams.close()
	t.s.must(t.exec(id, streams, words...))
	t.s.must(t.start(id))
	_, err := t.wait(id)
	t.s.must(err)
	t.s.awaitEOF(streams.out)
	_, err = t.delete(id)
	t.s.must(err)
	return streams.out.String()
}
