package spec

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// valid is a spec with nothing wrong in it; tests break one thing.
const valid = `{
	"ociVersion": "1.2.0",
	"root": {"path": "rootfs"},
	"hostname": "h",
	"process": {"cwd": "/", "args": ["true"], "env": ["A=b"], "user": {"uid": 0, "gid": 0}},
	"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
	"linux": {
		"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network", "path": "/run/netns/x"}],
		"maskedPaths": ["/proc/kcore"],
		"sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}
	}
}`

func TestParse(t *testing.T) {
	c, err := Parse([]byte(valid), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	if c.Rootfs != "/bundle/rootfs" || !c.New(specs.PIDNamespace) || c.New(specs.NetworkNamespace) || !c.Has(specs.NetworkNamespace) || c.Has(specs.UserNamespace) {
		t.Errorf("%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		old, new string // what is replaced in the valid spec
		want     string // start of the error
	}{
		{`"1.2.0"`, `"2.0"`, "ociVersion"},
		{`"root": {"path": "rootfs"},`, ``, "root.path"},
		{`"path": "rootfs"`, `"path": ""`, "root.path"},
		{`"cwd": "/"`, `"cwd": "tmp"`, "process.cwd"},
		{`["true"]`, `[]`, "process.args"},
		{`["true"]`, `["a\u0000b"]`, "process.args[0]"},
		{`["A=b"]`, `["A"]`, "process.env[0]"},
		{`["A=b"]`, `["A=b", "=b"]`, "process.env[1]"},
		{`"uid": 0`, `"uid": 4294967295`, "process.user.uid"},
		{`"uid": 0`, `"uid": 4294967296`, "process.user.uid"},
		{`"uid": 0`, `"uid": -1`, "process.user.uid"},
		{`"gid": 0`, `"gid": 4294967295`, "process.user.gid"},
		{`"gid": 0`, `"gid": 0, "additionalGids": [1, 4294967295]`, "process.user.additionalGids[1]"},
		{`{"type": "ipc"}`, `{"type": "nonsense"}`, "linux.namespaces[3].type"},
		{`{"type": "ipc"}`, `{"type": "pid"}`, "linux.namespaces[3].type"},
		{`"/run/netns/x"`, `"netns"`, "linux.namespaces[4].path"},
		{`{"type": "ipc"}`, `{"type": "user"}`, "linux.uidMappings"},
		{`"maskedPaths"`, `"uidMappings": [{"size": 1}], "maskedPaths"`, "linux.uidMappings"},
		{`{"type": "uts"},`, ``, "hostname"},
		{`{"type": "mount"},`, ``, "linux.maskedPaths"},
		{`"/proc/kcore"`, `"proc/kcore"`, "linux.maskedPaths[0]"},
		{`{"type": "ipc"},`, ``, "linux.sysctl[kernel.shmmax]"},
		{`"kernel.shmmax"`, `"kernel.panic"`, "linux.sysctl[kernel.panic]"},
		{`"kernel.shmmax"`, `"net/../kernel/panic"`, "linux.sysctl[net/../kernel/panic]"},
		{`"kernel.shmmax"`, `"kernel.hostname"`, "linux.sysctl[kernel.hostname]"},
		{`"destination": "/proc"`, `"destination": ""`, "mounts[0].destination"},
		{`"source": "proc"`, `"source": "\u0000"`, "mounts[0]"},
		{`"maskedPaths"`, `"rootfsPropagation": "x", "maskedPaths"`, "linux.rootfsPropagation"},
		{`"maskedPaths"`, `"timeOffsets": {"boottime": {}}, "maskedPaths"`, "linux.timeOffsets"},
		{`"maskedPaths"`, `"devices": [{"path": "/dev/x", "type": "z"}], "maskedPaths"`, "linux.devices[0].type"},
		{`"args"`, `"rlimits": [{"type": "RLIMIT_X"}], "args"`, "process.rlimits[0].type"},
		{`"args"`, `"rlimits": [{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}], "args"`, "process.rlimits[1].type"},
		{`"args"`, `"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "args"`, "process.rlimits[0].soft"},
		{`"args"`, `"oomScoreAdj": 1001, "args"`, "process.oomScoreAdj"},
		{`"args"`, `"scheduler": {"policy": "SCHED_X"}, "args"`, "process.scheduler.policy"},
		{`"args"`, `"ioPriority": {"class": "X"}, "args"`, "process.ioPriority.class"},
		{`"hostname"`, `"hooks": {"poststop": [{"path": "x"}]}, "hostname"`, "hooks.poststop[0].path"},
		{`"hostname"`, `"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}, "hostname"`, "hooks.prestart[0].timeout"},
		{`"A=b"`, `"PATH=` + strings.Repeat(":", maxPath) + `"`, "process.env[0]"},
		{`"root": {`, `"root": [`, "invalid spec: "},
		{`"root": {"path": "rootfs"}`, `"root": 7`, "root"},
	} {
		broken := strings.Replace(valid, test.old, test.new, 1)
		if broken == valid {
			t.Fatalf("%s is not in the valid spec", test.old)
		}
		_, err := Parse([]byte(broken), "/bundle")
		if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %s...", test.new, err, test.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, ErrInvalid) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no config.json: %v", err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(valid), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(path, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrInvalid) {
		t.Errorf("too big: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	got, home := Environment([]string{"A=1", "HOME=/x", "B=2", "A=3", "HOME="})
	if home || strings.Join(got, " ") != "B=2 A=3" {
		t.Errorf("%q, %v", got, home)
	}
	got, home = Environment([]string{"HOME=/x", "B=2"})
	if !home || strings.Join(got, " ") != "HOME=/x B=2" {
		t.Errorf("%q, %v", got, home)
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/conf/eno2.100/rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"net.ipv4.conf.eno2/100.rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
	} {
		if got := SysctlPath(name); got != want {
			t.Errorf("SysctlPath(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"linux": {"uidMappings": [{"containerID": 4294967295, "size": 2}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "/bundle")
		if err != nil {
			return
		}
		// What passes has all that the compilers rely on, and passes again.
		if c.Process == nil || c.Root == nil || c.Linux == nil || len(c.Process.Args) == 0 {
			t.Error("a field is missing")
		}
		again, err := json.Marshal(c.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again, "/bundle"); err != nil {
			t.Errorf("not valid any more after being written: %v", err)
		}
	})
}

// What is read ahead is used once, and only for the same text.
func TestReadAhead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	text := func(hostname string) []byte {
		return []byte(`{"ociVersion": "1.0.0", "hostname": "` + hostname + `", "root": {"path": "r"}, "process": {"cwd": "/", "args": ["a"]},
			"linux": {"namespaces": [{"type": "uts"}], "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}`)
	}
	if ReadAhead(dir) != nil {
		t.Error("there is a profile in no bundle")
	}
	if err := os.WriteFile(path, text("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	profile := ReadAhead(dir)
	load := func(want string) *Container {
		t.Helper()
		c, err := Load(dir)
		if err != nil || c.Hostname != want {
			t.Fatalf("%+v, %v", c, err)
		}
		return c
	}
	if got := load("a"); got.Linux.Seccomp != profile || profile == nil {
		t.Error("it is read again")
	}
	if got := load("a"); got.Linux.Seccomp == profile {
		t.Error("two containers share a document")
	}
	ReadAhead(dir)
	if err := os.WriteFile(path, text("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	load("b")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ReadAhead(dir) != nil {
		t.Error("there is a profile in a broken document")
	}
	if _, err := Load(dir); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
