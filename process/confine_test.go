package process

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// narrow is a profile that refuses what the runtime itself does between an
// early load of a filter and execve: each of these has made execs or creates
// fail somewhere.
func narrow(calls ...string) *specs.LinuxSeccomp {
	refuse := func(args []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, Args: args}
	}
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			// The Go program of the test clones threads.
			refuse([]specs.LinuxSeccompArg{{Index: 0, Op: specs.OpMaskedEqual, Value: unix.CLONE_PARENT, ValueTwo: unix.CLONE_PARENT}}, "clone"),
			refuse(nil, calls...),
		},
	}
}

// A filter is loaded when nothing is left to do that it could refuse, with
// no_new_privs or without, and what its load took is gone then.
func TestConfine(t *testing.T) {
	refused := []string{
		"clone3", "setsid", "openat2", "faccessat2", "fchdir", "setgroups", "setresuid", "setresgid",
		"prctl", "umask", "close_range", "keyctl", "recvmsg", "chdir", "personality", "sched_setaffinity",
	}
	for _, userns := range []bool{false, true} {
		for _, uid := range []uint32{0, 1000} {
			for _, newPrivileges := range []bool{false, true} {
				for _, caps := range []*specs.LinuxCapabilities{nil, {}, {Bounding: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}}} {
					name := fmt.Sprintf("userns=%v uid=%d newPrivileges=%v caps=%v", userns, uid, newPrivileges, caps)
					t.Run(name, func(t *testing.T) {
						cfg, _ := config(t, func(s *specs.Spec) {
							if userns {
								userNamespace(s)
							}
							s.Process.User = specs.User{UID: uid, GID: uid}
							s.Process.NoNewPrivileges, s.Process.Capabilities = !newPrivileges, caps
							s.Linux.Seccomp = narrow(refused...)
						}, "sleep")
						c := create(t, cfg)
						checkWaiting(t, c, uid, caps)
						start(t, c)
						process := *c.spec.Process
						process.Args = []string{"/test", "status", "Seccomp", "CapEff", "CapPrm", "CapBnd"}
						got := execOutput(t, c, &process)
						want := "CapPrm 0000000000000001\nCapEff 0000000000000001\nCapBnd 0000000000000001\nSeccomp 2\n"
						switch {
						case caps == nil:
							if !strings.HasSuffix(got, "Seccomp 2\n") || uid != 0 && !strings.HasPrefix(got, "CapPrm 0000000000000000\nCapEff 0000000000000000\n") {
								t.Error(got)
							}
							return
						case len(caps.Bounding) == 0:
							want = strings.ReplaceAll(want, "1\n", "0\n")
						case uid != 0: // execve leaves nothing to a user
							want = "CapPrm 0000000000000000\nCapEff 0000000000000000\nCapBnd 0000000000000001\nSeccomp 2\n"
						}
						if got != want {
							t.Errorf("%s, want\n%s", got, want)
						}
					})
				}
			}
		}
	}
}

// checkWaiting: a created container has no more rights than its process will.
func checkWaiting(t *testing.T, c *Container, uid uint32, caps *specs.LinuxCapabilities) {
	t.Helper()
	if caps == nil && uid == 0 {
		return // all of them
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Init.State().PID))
	want := "CapEff:\t0000000000000000\n"
	if caps != nil && len(caps.Effective) > 0 {
		want = "CapEff:\t0000000000000001\n"
	}
	if err != nil || !strings.Contains(string(text), want) {
		t.Errorf("the waiting init: want %q in %s (%v)", want, text, err)
	}
}
