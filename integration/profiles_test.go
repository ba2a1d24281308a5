package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Profile is how a client makes containers, and what these can then do. Their
// capabilities, no_new_privs and seccomp mode are compared with the spec for
// every container anyway.
type profile struct {
	name string
	opts func(e *env) []opt
	// What the kernel answers; "*" is whatever the capabilities leave.
	unshareUser, keyctl, newer, mount, chroot string
	host                                      []string // namespaces that are the host's
}

var dockerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

var profiles = []profile{
	{name: "ctr", opts: spec(), unshareUser: "*", keyctl: "ok", newer: "*", mount: "EPERM", chroot: "ok", host: []string{"cgroup", "time", "user"}},
	{name: "ctr --seccomp", opts: spec(seccomp.WithDefaultProfile()),
		unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"cgroup", "time", "user"}},
	{name: "nerdctl", opts: edited(func(s *specs.Spec) {
		// Its default profile is containerd's, its capabilities too; the cgroup
		// namespace depends on the host.
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		s.Linux.Seccomp = seccomp.DefaultProfile(s)
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/sys/devices/virtual/powercap")
		s.Process.OOMScoreAdj = nil
	}), unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"time", "user"}},
	{name: "docker", opts: dockerLike(dockerCaps, "docker-default-x86_64.json", false),
		unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"time", "user"}},
	{name: "docker --security-opt no-new-privileges", opts: dockerLike(dockerCaps, "docker-default-x86_64.json", true),
		unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"time", "user"}},
	{name: "docker --cap-drop ALL", opts: dockerLike(nil, "docker-none-x86_64.json", false),
		unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "EPERM", host: []string{"time", "user"}},
	{name: "CRI, RuntimeDefault", opts: func(e *env) []opt {
		return append(criLike(e), edit(func(s *specs.Spec) { s.Linux.Seccomp = seccomp.DefaultProfile(s) }))
	}, unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"time", "user"}},
	{name: "CRI, Unconfined", opts: criLike, unshareUser: "*", keyctl: "ok", newer: "*", mount: "EPERM", chroot: "ok", host: []string{"time", "user"}},
	{name: "privileged", opts: spec(oci.WithPrivileged, oci.WithAllDevicesAllowed), unshareUser: "*", keyctl: "ok", newer: "*", mount: "ok", chroot: "ok",
		host: []string{"cgroup", "time", "user"}},
	{name: "--net=host --pid=host", opts: spec(oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostNamespace(specs.PIDNamespace), seccomp.WithDefaultProfile()),
		unshareUser: "EPERM", keyctl: "EPERM", newer: "ENOSYS", mount: "EPERM", chroot: "ok", host: []string{"cgroup", "net", "pid", "time", "user"}},
}

// DockerLike is a spec as moby's daemon writes it.
func dockerLike(caps []string, profile string, noNewPrivileges bool) func(*env) []opt {
	return func(e *env) []opt {
		data, err := os.ReadFile(filepath.Join("../process/seccomp/testdata/profiles", profile))
		e.must(err)
		filter := &specs.LinuxSeccomp{}
		e.must(json.Unmarshal(data, filter))
		return []opt{edit(func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
			s.Process.NoNewPrivileges = noNewPrivileges
			s.Process.Rlimits = nil
			s.Process.OOMScoreAdj = ptr(0)
			s.Linux.Seccomp = filter
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			s.Linux.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
			s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		})}
	}
}

// The default profiles of containerd's clients confine as they are meant to, the
// init and execs alike.
func TestDefaultProfiles(t *testing.T) {
	each(t, func(e *env) {
		e.needSeccomp()
		for _, p := range profiles {
			b := e.launch(append(p.opts(e), still())...)
			call := func(nr int, args ...string) string {
				return strings.TrimSpace(b.execRun(append([]string{"syscall", fmt.Sprint(nr)}, args...)).out)
			}
			for what, check := range map[string][2]string{
				"unshare(CLONE_NEWUSER)": {call(unix.SYS_UNSHARE, fmt.Sprint(unix.CLONE_NEWUSER)), p.unshareUser},
				"keyctl":                 {call(unix.SYS_KEYCTL, "0", "-3", "0"), p.keyctl},
				"a call of the future":   {call(1000), p.newer},
				"mount":                  {strings.TrimSpace(b.execRun([]string{"mount", "tmpfs", "tmpfs", "/data", "ro"}).out), p.mount},
				"chroot":                 {chroot(b), p.chroot},
			} {
				if check[0] != check[1] && check[1] != "*" {
					e.Errorf("%s: %s: %s, want %s", p.name, what, check[0], check[1])
				}
			}
			f := facts{}
			f.outside("init", b.Pid())
			for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
				want := "its own"
				for _, host := range p.host {
					if host == kind {
						want = "the host's"
					}
				}
				if got := f["init.ns."+kind]; got != want {
					e.Errorf("%s: the %s namespace is %s, want %s", p.name, kind, got, want)
				}
			}
			b.remove()
		}
	})
}

// Chroot(2) of a path that is not there: EPERM without the right, else ENOENT.
func chroot(b *box) string {
	switch out := strings.TrimSpace(b.execRun([]string{"syscall", fmt.Sprint(unix.SYS_CHROOT), "0"}).out); out {
	case "EFAULT": // a null pointer is looked at first
		if capMask(mustSpec(b).Process.Capabilities.Bounding)&capMask([]string{"CAP_SYS_CHROOT"}) != 0 {
			return "ok"
		}
		return "EPERM"
	default:
		return out
	}
}

func mustSpec(b *box) *oci.Spec {
	b.e.Helper()
	s, err := b.c.Spec(b.e.ctx)
	b.e.must(err)
	return s
}

// Nerdctl's hooks: one at createRuntime sets up the container's network from
// outside, one at poststop takes it down. Nvidia's enters the mount namespace of
// a prestart hook's pid, and mounts its libraries into the root.
func TestNetworkAndDeviceHooks(t *testing.T) {
	each(t, func(e *env) {
		dir := e.dir()
		e.must(os.WriteFile(filepath.Join(dir, "library"), []byte("injected\n"), 0o644))
		hook := func(words ...string) specs.Hook {
			return specs.Hook{Path: harness.Bin("testbox"), Args: append([]string{"testbox"}, words...), Env: []string{"HOOK=1"}, Timeout: ptr(20)}
		}
		b := e.launch(still(), edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{
				Prestart:      []specs.Hook{hook("hook-mount", filepath.Join(dir, "library"), "/usr/lib/injected.so")}, //nolint:staticcheck // what nvidia's toolkit uses
				CreateRuntime: []specs.Hook{hook("hook-net", dir, "ip_unprivileged_port_start", "77")},
				Poststop:      []specs.Hook{hook("hook-state", dir, "poststop")},
			}
		}))
		if r := b.execRun([]string{"cat", "/usr/lib/injected.so", "/proc/sys/net/ipv4/ip_unprivileged_port_start"}); r.out != "injected\n77\n" {
			e.Errorf("what the hooks did: %+v", r)
		}
		var state specs.State
		data, err := os.ReadFile(filepath.Join(dir, "net"))
		e.must(err)
		e.must(json.Unmarshal(data, &state))
		if state.ID != b.c.ID() || state.Status != specs.StateCreating || state.Pid != int(b.Pid()) || state.Bundle == "" {
			e.Errorf("state of the hook: %+v", state)
		}
		b.kill(unix.SIGKILL)
		b.end()
		data, err = os.ReadFile(filepath.Join(dir, "poststop"))
		e.must(err)
		state = specs.State{}
		e.must(json.Unmarshal(data, &state))
		if state.Status != specs.StateStopped || state.ID != b.c.ID() {
			e.Errorf("state at poststop: %+v", state)
		}
		if text, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); string(text) == "77\n" {
			e.Error("the hook changed the host's network")
		}
	})
}

// A hook that fails undoes the container, and those that follow don't run.
func TestHookFails(t *testing.T) {
	each(t, func(e *env) {
		for stage, set := range map[string]func(h *specs.Hooks, list []specs.Hook){
			"prestart":        func(h *specs.Hooks, list []specs.Hook) { h.Prestart = list }, //nolint:staticcheck // it is used
			"createRuntime":   func(h *specs.Hooks, list []specs.Hook) { h.CreateRuntime = list },
			"createContainer": func(h *specs.Hooks, list []specs.Hook) { h.CreateContainer = list },
			"startContainer":  func(h *specs.Hooks, list []specs.Hook) { h.StartContainer = list },
			"poststart":       func(h *specs.Hooks, list []specs.Hook) { h.Poststart = list },
		} {
			dir := e.dir()
			b, err := e.tryCreate(still(), edit(func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{}
				path := harness.Bin("testbox")
				if stage == "startContainer" {
					path = "/bin/testbox"
				}
				set(s.Hooks, []specs.Hook{
					{Path: path, Args: []string{"testbox", "exit", "3"}},
					{Path: path, Args: []string{"testbox", "hook-state", dir, "second"}},
				})
			}))
			if err == nil {
				err = b.task.Start(e.ctx)
			}
			if err == nil || !strings.Contains(err.Error(), "exit status 3") && !strings.Contains(err.Error(), stage) {
				if !e.oracle() || stage != "startContainer" { // which runc only finds out when Start has returned
					e.Errorf("%s: %v", stage, err)
				}
			}
			if b.task != nil {
				b.remove()
			}
			if _, err := os.Stat(filepath.Join(dir, "second")); err == nil {
				e.Errorf("%s: the hook after the one that failed ran", stage)
			}
		}
	})
}

// An exec in a paused container is refused, at once and in words.
func TestExecWhilePaused(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		e.must(b.task.Pause(e.ctx))
		began := time.Now()
		p, err := b.tryExec([]string{"/bin/quick"})
		if err == nil {
			err = p.Start(e.ctx)
			if _, err := p.Delete(e.ctx); err != nil && !errdefs.IsNotFound(err) {
				e.Error(err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), "paused") || time.Since(began) > 10*time.Second {
			e.Errorf("after %v: %v", time.Since(began), err)
		}
		e.must(b.task.Resume(e.ctx))
		if r := b.execRun([]string{"echo", "again"}); r.out != "again\n" {
			e.Errorf("%+v", r)
		}
	})
}

// Hundreds of execs at once, each under the container's filter.
func TestHundredsOfExecs(t *testing.T) {
	each(t, func(e *env) {
		e.weakness("a hundred processes of runc take too long for this machine")
		b := e.launch(still(), withSpec(seccomp.WithDefaultProfile()))
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				p, err := b.tryExec([]string{"/bin/quick"})
				if err == nil {
					err = p.Start(e.ctx)
				}
				if err != nil {
					e.Error(err)
					return
				}
				if status := <-p.exit; status.ExitCode() != 0 {
					e.Errorf("exit code %d", status.ExitCode())
				}
				if _, err := p.Delete(e.ctx); err != nil {
					e.Error(err)
				}
			})
		}
		wg.Wait()
	})
}
