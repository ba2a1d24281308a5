package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bad is a spec that can't be run. The error has to name the field, and for some
// more; runc is only asked for an error, unless it takes the spec.
type bad struct {
	name   string
	change func(s *specs.Spec)
	want   []string
	runcOK bool
}

var badSpecs = []bad{
	{"unknown namespace", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "parallel"})
	}, []string{"linux.namespaces", "parallel"}, false},
	{"namespace twice", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}, []string{"linux.namespaces", "pid"}, false},
	{"namespace path of another kind", func(s *specs.Spec) {
		setNamespace(s, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/ipc"})
	}, []string{"linux.namespaces", "/proc/self/ns/ipc"}, false},
	{"namespace path missing", func(s *specs.Spec) {
		setNamespace(s, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/no/such/namespace"})
	}, []string{"linux.namespaces", "/no/such/namespace"}, false},
	{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "somewhere" }, []string{"process.cwd", "somewhere"}, false},
	{"cwd is a file", func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd" }, []string{"cwd", "/etc/passwd"}, false},
	{"no args", func(s *specs.Spec) { s.Process.Args = nil }, []string{"process.args"}, false},
	{"no process", func(s *specs.Spec) { s.Process = nil }, []string{"process"}, false},
	{"missing executable", func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, []string{"no-such-program", "executable file not found in $PATH"}, false},
	{"not executable", func(s *specs.Spec) { s.Process.Args = []string{"/etc/passwd"} }, []string{"/etc/passwd", "permission denied"}, false},
	{"environment without =", func(s *specs.Spec) { s.Process.Env = []string{"NOTHING"} }, []string{"process.env", "NOTHING"}, false},
	{"unknown rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_PATIENCE"}} }, []string{"process.rlimits", "RLIMIT_PATIENCE"}, false},
	{"rlimit twice", func(s *specs.Spec) {
		r := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}
		s.Process.Rlimits = []specs.POSIXRlimit{r, r}
	}, []string{"process.rlimits", "RLIMIT_NOFILE"}, true},
	{"uid -1", func(s *specs.Spec) { s.Process.User.UID = 1<<32 - 1 }, []string{"process.user.uid"}, false},
	{"gid -1", func(s *specs.Spec) { s.Process.User.GID = 1<<32 - 1 }, []string{"process.user.gid"}, false},
	{"no uid range", func(s *specs.Spec) {
		setNamespace(s, specs.LinuxNamespace{Type: specs.UserNamespace})
	}, []string{"linux.uidMappings"}, false},
	{"uid outside the range", func(s *specs.Spec) {
		setNamespace(s, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 10}}
		s.Linux.UIDMappings, s.Linux.GIDMappings, s.Process.User.UID = ids, ids, 4242
	}, []string{"process.user.uid", "4242"}, false},
	{"no root", func(s *specs.Spec) { s.Root = nil }, []string{"root"}, false},
	{"missing root", func(s *specs.Spec) { s.Root.Path = "/no/such/root" }, []string{"root", "/no/such/root"}, false},
	{"bind source missing", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/no/such/source", Destination: "/mnt", Options: []string{"rbind"}})
	}, []string{"mounts[", "/no/such/source"}, false},
	{"unknown file system", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "wishfs", Source: "none", Destination: "/mnt"})
	}, []string{"mounts[", "wishfs"}, false},
	{"unknown mount option", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "none", Destination: "/mnt", Options: []string{"sparkling"}})
	}, []string{"mounts[", "sparkling"}, false},
	{"mount on /", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "none", Destination: "/"})
	}, []string{"mounts["}, false},
	{"tmpfs on /proc", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "none", Destination: "/proc"})
	}, []string{"mounts[", "/proc"}, false},
	{"file on a directory", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/etc/hostname", Destination: "/data", Options: []string{"bind"}})
	}, []string{"mounts[", "/data"}, false},
	{"cgroup path with ..", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" }, []string{"linux.cgroupsPath"}, true},
	{"unknown propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "viral" }, []string{"linux.rootfsPropagation", "viral"}, false},
	{"relative masked path", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc/kcore"} }, []string{"linux.maskedPaths"}, true},
	{"masked self", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/self/attr"} }, []string{"linux.maskedPaths", "/proc/self"}, true},
	{"sysctl of the host", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "10"} }, []string{"linux.sysctl", "vm.swappiness"}, false},
	{"sysctl value refused", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "perhaps"} }, []string{"linux.sysctl", "net.ipv4.ip_forward"}, false},
	{"device of no type", func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/odd", Type: "x", Major: 1, Minor: 3})
	}, []string{"linux.devices", "x"}, false},
	{"hostname without a namespace", func(s *specs.Spec) {
		s.Hostname = "mine"
		removeNamespace(s, specs.UTSNamespace)
	}, []string{"hostname"}, false},
	{"time offsets without a namespace", func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}}
	}, []string{"linux.timeOffsets"}, true},
	{"oom_score_adj out of range", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(5000) }, []string{"process.oomScoreAdj"}, false},
	{"huge environment", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "HUGE="+strings.Repeat("x", 1<<20)) }, []string{"process.env"}, true},
}

func setNamespace(s *specs.Spec, n specs.LinuxNamespace) {
	removeNamespace(s, n.Type)
	s.Linux.Namespaces = append(s.Linux.Namespaces, n)
}

func removeNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	var rest []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != kind {
			rest = append(rest, n)
		}
	}
	s.Linux.Namespaces = rest
}

// Each bad spec is a clear error for the user of ctr, and leaves nothing.
func TestBadSpecs(t *testing.T) {
	each(t, func(e *env) {
		root := e.plainRoot()
		for _, b := range badSpecs {
			if b.runcOK && e.oracle() {
				continue
			}
			e.Run(b.name, func(t *testing.T) {
				runOn(t, e.runtime, e.daemon, func(e *env) {
					id := newID()
					spec, err := harness.Spec(id, oci.WithProcessArgs("/bin/testbox", "true"))
					e.must(err)
					spec.Root.Path = root
					b.change(spec)
					data, err := json.Marshal(spec)
					e.must(err)
					file := filepath.Join(e.dir(), "config.json")
					e.must(os.WriteFile(file, data, 0o600))
					r := e.ctr(e.ctrRun("--rm", "--config", file, id)...)
					if r.code == 0 {
						e.Fatalf("it runs: %+v", r)
					}
					for _, want := range b.want {
						if !e.oracle() && !strings.Contains(r.err, want) {
							e.Errorf("no %q in: %s", want, r.err)
						}
					}
					if strings.Count(r.err, "\n") > 3 {
						e.Errorf("an error of many lines: %s", r.err)
					}
				})
			})
		}
	})
}

// Broken bundles, which containerd doesn't make.
func TestBadBundles(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for name, c := range map[string]struct {
			config string // "" is none at all
			want   string
		}{
			"no config.json":  {"", "config.json"},
			"empty":           {" ", "config.json"},
			"cut":             {`{"ociVersion":"1.2.0","process":{`, "config.json"},
			"another type":    {`{"ociVersion":"1.2.0","process":["a"]}`, "process"},
			"number too big":  {`{"ociVersion":"1.2.0","process":{"user":{"uid":4294967296},"args":["/bin/true"],"cwd":"/"}}`, "uid"},
			"not an object":   {`[]`, "config.json"},
			"version unknown": {`{"ociVersion":"7.0.0","process":{"args":["/bin/true"],"cwd":"/"},"root":{"path":"rootfs"}}`, "ociVersion"},
		} {
			if name == "version unknown" && s.oracle() {
				continue // it runs anything
			}
			b, set := s.bundle(still())
			file := filepath.Join(b.Dir, "config.json")
			s.must(os.Remove(file))
			if c.config != "" {
				s.must(os.WriteFile(file, []byte(c.config), 0o600))
			}
			// Start may see it or leave it to Create.
			shim, err := s.peer.Start(s.ctx, s.call(), b)
			if err == nil {
				t := &task{Shim: shim, s: s, id: b.ID, setup: set}
				err = t.create()
				t.streams.close()
				s.must(t.shutdown())
				s.must(t.Gone(s.ctx))
				s.must(t.Disconnect())
			}
			if err == nil {
				s.Errorf("%s: a container is created", name)
			} else if !s.oracle() && !strings.Contains(err.Error(), c.want) {
				s.Errorf("%s: no %q in: %v", name, c.want, err)
			}
			_, _, err = s.peer.Delete(s.ctx, s.call(), b)
			s.must(err)
		}
	})
}

func TestBadRootfs(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for name, c := range map[string]struct {
			mounts []*types.Mount
			want   string
		}{
			"unknown type":    {[]*types.Mount{{Type: "wishfs", Source: "none"}}, "wishfs"},
			"missing source":  {[]*types.Mount{{Type: "bind", Source: "/no/such/tree", Options: []string{"rbind"}}}, "/no/such/tree"},
			"broken overlay":  {[]*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/no/such/layer"}}}, "overlay"},
			"leftover option": {[]*types.Mount{{Type: "tmpfs", Source: "tmpfs", Options: []string{"X-containerd.unheard-of=1"}}}, "X-containerd.unheard-of"},
			"second of two":   {[]*types.Mount{{Type: "bind", Source: s.root, Options: []string{"rbind"}}, {Type: "wishfs", Source: "none"}}, "wishfs"},
		} {
			broken := s.shim(still())
			broken.Bundle.Rootfs = c.mounts
			err := broken.create()
			if err == nil || !s.oracle() && !strings.Contains(err.Error(), c.want) {
				s.Errorf("%s: %v, want %q", name, err, c.want)
			}
			s.must(broken.shutdown())
			s.must(broken.Gone(s.ctx))
		}
	})
}
