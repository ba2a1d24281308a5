package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const differencesFile = "testdata/differences.txt"

// TestCompare makes the same container under both runtimes and compares all that
// can be seen of it, from outside and from inside, for init and for an exec.
// Without myshim it compares runc with runc, so that what differs by itself is
// found and made neutral.
func TestCompare(t *testing.T) {
	reference, subject := pair(t)
	d, err := shared.containerd()
	if err != nil {
		t.Fatal(err)
	}
	forPods, err := shared.criContainerd()
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := readDifferences(differencesFile)
	if err != nil {
		t.Fatal(err)
	}
	both := func(name string, d *harness.Daemon, collect func(e *env) facts) {
		t.Run(name, func(t *testing.T) {
			var seen [2]facts
			for i, r := range []harness.Runtime{reference, subject} {
				t.Run(r.Name, func(t *testing.T) {
					runOn(t, r, d, func(e *env) { seen[i] = collect(e) })
				})
			}
			if t.Failed() || seen[0] == nil || seen[1] == nil {
				return
			}
			if len(seen[0]) < 100 {
				t.Errorf("only %d facts", len(seen[0]))
			}
			if diff := compare(name, seen[0], seen[1], allowed); len(diff) > 0 {
				t.Errorf("%s differs from %s:\n\t%s", subject.Name, reference.Name, strings.Join(diff, "\n\t"))
			}
		})
	}
	for _, c := range comparisons {
		both(c.name, d, c.collect)
	}
	for _, c := range podComparisons {
		both(c.name, forPods, c.collect)
	}
	if subject.Name == harness.Oracle || flag.Lookup("test.run").Value.String() != "" {
		return
	}
	for _, a := range allowed {
		if !a.used {
			t.Errorf("%s: no difference any more in %s of %s: remove the line", differencesFile, a.key, a.test)
		}
	}
}

// Pair is the oracle and what is to be compared with it.
func pair(t *testing.T) (reference, subject harness.Runtime) {
	t.Helper()
	runtimes, err := harness.Runtimes()
	if err != nil {
		t.Fatal(err)
	}
	reference = harness.Runc()
	if reference.Missing != "" {
		t.Skipf("*** NOTHING COMPARED: %s ***", reference.Missing)
	}
	subject = runtimes[0]
	if subject.Missing != "" {
		t.Logf("*** %s NOT COMPARED: %s; runc with itself is ***", subject.Name, subject.Missing)
		subject = reference
	}
	return reference, subject
}

type comparison struct {
	name string
	opts func(e *env) []opt
}

// Collect runs the case three times: a program that does nothing as init and as
// exec, seen from outside, and a testbox that looks around.
func (c comparison) collect(e *env) facts {
	opts := func(more ...opt) []opt { return append(slices.Clone(c.opts(e)), more...) }
	f := facts{}
	b := e.launch(opts(still())...)
	f.outside("init", b.Pid())
	x := b.exec([]string{"/bin/still"})
	spec, err := b.c.Spec(e.ctx)
	e.must(err)
	spec.Process.Args = []string{"/bin/still"}
	if x.payload(spec.Process) == nil {
		e.Error("the exec has ended")
	}
	f.outside("exec", x.Pid())
	n := newNeutral(b)
	x.kill(unix.SIGKILL)
	x.end()
	r := b.execRun([]string{"report", "env", "fds", "ids", "keyring", "cwd"})
	e.must(f.addJSON("exec.inside", r.out))
	b.remove()
	f = f.neutral(n)

	b = e.launch(opts(args(inside...))...)
	r = b.end()
	if r.code != 0 {
		e.Fatalf("inside: %+v", r)
	}
	within := facts{}
	e.must(within.addJSON("inside", strings.ReplaceAll(r.out, "\r\n", "\n")))
	if f["init.ns.pid"] == "the host's" {
		maps.DeleteFunc(within, func(name, _ string) bool { return strings.HasPrefix(name, "inside.proc.") })
	}
	for name, value := range within.neutral(newNeutral(b)) {
		f[name] = value
	}
	return f
}

func spec(opts ...oci.SpecOpts) func(*env) []opt {
	return func(*env) []opt { return []opt{withSpec(opts...)} }
}

func edited(change func(s *specs.Spec)) func(*env) []opt {
	return func(*env) []opt { return []opt{edit(change)} }
}

func ptr[T any](v T) *T { return &v }

var comparisons = []comparison{
	{"default", spec()},
	{"ctr oci spec", ctrSpec},
	{"user", spec(oci.WithUser("1000:2000"))},
	{"user by name", spec(oci.WithUser("user"))},
	{"unknown user", spec(oci.WithUIDGID(4242, 4243))},
	{"additional groups", edited(func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{7, 2000, 5} })},
	{"umask", spec(oci.WithUmask(0o077))},
	{"umask 0", spec(oci.WithUmask(0))},
	{"cwd", spec(oci.WithProcessCwd("/data"))},
	{"cwd created", spec(oci.WithProcessCwd("/new/dir"))},
	{"cwd by symlink", spec(oci.WithProcessCwd("/var/run"))},
	{"cwd of another user", spec(oci.WithProcessCwd("/home/user"), oci.WithUIDGID(1000, 1000))},
	{"env", spec(oci.WithEnv([]string{"A=1", "B=two words", "A=3", "EMPTY=", "HOME=/elsewhere"}))},
	{"no env", edited(func(s *specs.Spec) { s.Process.Env = nil })},
	{"capabilities", spec(oci.WithCapabilities([]string{"CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SYS_PTRACE"}))},
	{"no capabilities", spec(oci.WithCapabilities(nil))},
	{"all capabilities", spec(oci.WithAllCurrentCapabilities)},
	{"ambient capabilities", spec(oci.WithUIDGID(1000, 1000), oci.WithCapabilities([]string{"CAP_NET_RAW", "CAP_KILL"}), func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Process.Capabilities.Inheritable = []string{"CAP_NET_RAW"}
		s.Process.Capabilities.Ambient = []string{"CAP_NET_RAW"}
		return nil
	})},
	{"five different sets", edited(func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"},
			Permitted:   []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID"},
			Effective:   []string{"CAP_CHOWN", "CAP_KILL"},
			Inheritable: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_CHOWN"},
		}
	})},
	{"unknown capability", spec(oci.WithAddedCapabilities([]string{"CAP_OF_THE_FUTURE"}))},
	{"new privileges", spec(oci.WithNewPrivileges)},
	{"rlimits", edited(func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
			{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 21}, {Type: "RLIMIT_NPROC", Soft: 1000, Hard: 2000},
		}
	})},
	{"no rlimits", edited(func(s *specs.Spec) { s.Process.Rlimits = nil })},
	{"oom_score_adj", edited(func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(500) })},
	{"sysctl", edited(func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "123456", "fs.mqueue.msg_max": "20"}
	})},
	{"hostname", spec(oci.WithHostname("box"), oci.WithDomainname("example.org"))},
	{"read-only root", spec(oci.WithRootFSReadonly())},
	{"masked and read-only paths", spec(
		oci.WithMaskedPaths([]string{"/data", "/etc/secret", "/proc/kcore", "/proc/version", "/missing", "/sys/kernel"}),
		oci.WithReadonlyPaths([]string{"/work", "/etc/hosts", "/proc/sys", "/missing", "/sys/fs"}))},
	{"nothing masked", spec(oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil))},
	{"devices", edited(func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices,
			specs.LinuxDevice{Path: "/dev/char", Type: "c", Major: 1, Minor: 5, FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(1000)), GID: ptr(uint32(2000))},
			specs.LinuxDevice{Path: "/dev/sub/dir/block", Type: "b", Major: 7, Minor: 9},
			specs.LinuxDevice{Path: "/dev/fifo", Type: "p", FileMode: ptr(os.FileMode(0o622))},
			specs.LinuxDevice{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, FileMode: ptr(os.FileMode(0o600))})
	})},
	{"bind mounts", binds},
	{"host pid", spec(oci.WithHostNamespace(specs.PIDNamespace))},
	{"host network", spec(oci.WithHostNamespace(specs.NetworkNamespace))},
	{"host ipc", spec(oci.WithHostNamespace(specs.IPCNamespace))},
	{"host uts", spec(oci.WithHostNamespace(specs.UTSNamespace))},
	{"cgroup namespace", spec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}))},
	{"time namespace", edited(func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7200_000}, "boottime": {Secs: 3600_000}}
	})},
	{"namespaces by path", joined},
	{"user namespace", userNamespace(client.WithUserNSRemappedSnapshot)},
	{"user namespace, idmapped root", userNamespace(idmapped)},
	{"hostUsers: false", userNamespacePod(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace)},
	{"hostUsers: false, shared pids", userNamespacePod(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace)},
	{"terminal", func(*env) []opt { return []opt{withTerminal, withSpec(oci.WithTTYSize(81, 24))} }},
	{"propagation shared", edited(func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" })},
	{"propagation rslave", edited(func(s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" })},
	{"propagation rprivate", edited(func(s *specs.Spec) { s.Linux.RootfsPropagation = "rprivate" })},
	{"propagation unbindable", edited(func(s *specs.Spec) { s.Linux.RootfsPropagation = "unbindable" })},
	{"privileged", spec(oci.WithPrivileged, oci.WithAllDevicesAllowed)},
	{"no pivot_root", func(*env) []opt { return []opt{withTask(client.WithNoPivotRoot)} }},
	{"no new keyring", func(*env) []opt { return []opt{withTask(client.WithNoNewKeyring)} }},
	{"seccomp", func(e *env) []opt {
		e.needSeccomp()
		return []opt{withSpec(seccomp.WithDefaultProfile())}
	}},
	{"personality", edited(func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} })},
	{"like CRI", criLike},
}

// NeedSeccomp skips where the yardstick was built without.
func (e *env) needSeccomp() {
	e.Helper()
	cmd := exec.CommandContext(e.ctx, harness.Bin("runc"), "--version")
	var out bytes.Buffer
	cmd.Stdout = &out
	e.must(harness.Run(cmd))
	if !strings.Contains(out.String(), "libseccomp") {
		e.Skip("*** runc is built without libseccomp ***")
	}
}

// CtrSpec is what "ctr oci spec" prints, with the rootfs of the test.
func ctrSpec(e *env) []opt {
	var out bytes.Buffer
	cmd := e.daemon.Ctr(e.ctx, "oci", "spec")
	cmd.Stdout = &out
	e.must(harness.Run(cmd))
	return []opt{withSpec(func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		own := s.Linux.CgroupsPath
		*s = oci.Spec{}
		err := json.Unmarshal(out.Bytes(), s)
		s.Root.Path, s.Linux.CgroupsPath = "rootfs", own
		return err
	})}
}

// Binds are of every kind: files, directories, read-only, with and without a
// place to be mounted on, one on the other, through a symlink of the image.
func binds(e *env) []opt {
	dir := e.dir()
	e.must(os.Mkdir(filepath.Join(dir, "d"), 0o710))
	e.must(os.Chown(filepath.Join(dir, "d"), 1000, 1000))
	e.must(os.WriteFile(filepath.Join(dir, "f"), []byte("from the host\n"), 0o640))
	mount := func(source, dest string, options ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: filepath.Join(dir, source), Destination: dest, Options: options}
	}
	return []opt{withSpec(oci.WithMounts([]specs.Mount{
		mount("d", "/data", "rbind", "ro"),
		mount("f", "/etc/hosts", "bind", "ro"),
		mount("d", "/new/dir", "rbind", "rw", "nosuid", "noexec"),
		mount("f", "/new/file", "bind"),
		mount("f", "/new/dir/nested", "bind", "ro", "rprivate"),
		mount("d", "/var/run/through", "rbind", "rslave"),
		mount(".", "/mnt", "rbind", "rshared", "nodev"),
		{Type: "tmpfs", Source: "tmpfs", Destination: "/mnt/d", Options: []string{"nosuid", "mode=1750", "size=64k"}},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/work", Options: []string{"ro"}},
	}))}
}

// Joined takes the namespaces of another container, as a pod does.
func joined(e *env) []opt {
	pause := e.launch(still(), withSpec(oci.WithHostname("pod")))
	return []opt{withSpec(joinOpts(pause, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace)...), sharesNamespaces}
}

func sharesNamespaces(s *setup) { s.shared = true }

var nsFiles = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid",
	specs.UserNamespace: "user", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time", specs.MountNamespace: "mnt",
}

func joinOpts(b *box, kinds ...specs.LinuxNamespaceType) []oci.SpecOpts {
	var opts []oci.SpecOpts
	for _, kind := range kinds {
		path := fmt.Sprintf("/proc/%d/ns/%s", b.Pid(), nsFiles[kind])
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: path}))
	}
	return opts
}

type remappedSnapshot func(id string, i client.Image, uid, gid []specs.LinuxIDMapping) client.NewContainerOpts

// UserNamespace has a root file system that is mapped like its users.
func userNamespace(snapshot remappedSnapshot) func(*env) []opt {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100_000, Size: 65_536}}
	return func(*env) []opt {
		return []opt{withSpec(oci.WithUserNamespace(ids, ids)), withTask(client.WithUIDOwner(100_000), client.WithGIDOwner(100_000)), func(s *setup) {
			s.ownSnapshot = true
			s.container = append(s.container, snapshot(s.id, s.image, ids, ids))
		}}
	}
}

func idmapped(id string, i client.Image, uid, gid []specs.LinuxIDMapping) client.NewContainerOpts {
	return client.WithNewSnapshot(id, i, client.WithUserNSRemapperLabels(uid, gid))
}

// UserNamespacePod is a container of a Kubernetes pod with hostUsers: false. The
// sandbox has made the user namespace and those that belong to it; a volume has
// the ids of the pod, whatever they are on the host.
func userNamespacePod(joined ...specs.LinuxNamespaceType) func(*env) []opt {
	return func(e *env) []opt {
		pause := e.launch(append(userNamespace(idmapped)(e), still())...)
		volume := e.dir()
		e.must(os.WriteFile(filepath.Join(volume, "file"), nil, 0o640))
		e.must(os.Chown(filepath.Join(volume, "file"), 1000, 2000))
		return append(userNamespace(idmapped)(e), sharesNamespaces, withSpec(joinOpts(pause, append(joined, specs.UserNamespace)...)...), edit(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{
				Type: "bind", Source: volume, Destination: "/data", Options: []string{"rbind", "rprivate", "rw"},
				UIDMappings: s.Linux.UIDMappings, GIDMappings: s.Linux.GIDMappings,
			})
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
			s.Process.User = specs.User{UID: 1000, GID: 2000}
		}))
	}
}

// CRILike is a container as containerd's CRI plugin makes it, in a pod.
func criLike(e *env) []opt {
	dir := e.dir()
	for _, name := range []string{"hosts", "hostname", "resolv.conf", "termination-log"} {
		e.must(os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o644))
	}
	e.must(os.Mkdir(filepath.Join(dir, "shm"), 0o1777))
	e.must(os.Chmod(filepath.Join(dir, "shm"), os.ModeSticky|0o777))
	bind := func(name, dest string) specs.Mount {
		return specs.Mount{Type: "bind", Source: filepath.Join(dir, name), Destination: dest, Options: []string{"rbind", "rprivate", "rw"}}
	}
	pause := e.launch(still(), withSpec(oci.WithHostname("pod")))
	return []opt{withSpec(joinOpts(pause, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace)...), sharesNamespaces,
		withSpec(
			oci.WithoutRunMount,
			oci.WithoutMounts("/dev/shm"),
			oci.WithMounts([]specs.Mount{
				{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
				bind("hosts", "/etc/hosts"), bind("hostname", "/etc/hostname"), bind("resolv.conf", "/etc/resolv.conf"),
				bind("shm", "/dev/shm"), bind("termination-log", "/dev/termination-log"),
			}),
			oci.WithEnv([]string{"HOSTNAME=pod", "KUBERNETES_SERVICE_HOST=10.0.0.1"}),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
			oci.WithAnnotations(map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pause.c.ID()}),
			oci.WithCPUShares(102), oci.WithMemoryLimit(200<<20), oci.WithCPUCFS(50_000, 100_000),
			oci.WithAdditionalGIDs("root"),
		),
		edit(func(s *specs.Spec) {
			s.Process.OOMScoreAdj = ptr(998)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/interrupts", "/sys/devices/system/cpu/cpu0/thermal_throttle")
			for i := range s.Mounts {
				if s.Mounts[i].Destination == "/sys" {
					s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "ro"}
				}
			}
		}),
	}
}
