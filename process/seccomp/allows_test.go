package seccomp

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestAllows compares with the machine that executes BPF for the other tests.
func TestAllows(t *testing.T) {
	audit := family(nativeArch())[0].audit
	for name, p := range profiles(t) {
		f, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		action := machine(t, f.Program)
		meaningOf(p, nativeArch()).calls(func(c call) {
			if c.Audit != audit {
				return
			}
			want := action(c) & unix.SECCOMP_RET_ACTION_FULL
			got := f.Allows(c.Nr, c.Args[:]...)
			if got != (want == unix.SECCOMP_RET_ALLOW || want == unix.SECCOMP_RET_LOG) {
				t.Fatalf("%s: %+v: allowed %v, the action is %#x", name, c, got, want)
			}
		})
	}
}

func TestAllowsWithoutAsking(t *testing.T) {
	const flag = unix.CLONE_PARENT
	for action, want := range map[specs.LinuxSeccompAction]bool{
		specs.ActAllow: true, specs.ActLog: true, specs.ActErrno: false, specs.ActNotify: false, specs.ActTrace: false, specs.ActKillProcess: false,
	} {
		f, err := Compile(&specs.LinuxSeccomp{
			DefaultAction: specs.ActKill, ListenerPath: "/agent",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"clone"}, Action: action, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpMaskedEqual, Value: flag, ValueTwo: flag}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Allows(unix.SYS_CLONE, flag|17); got != want {
			t.Errorf("%s: %v", action, got)
		}
		if f.Allows(unix.SYS_CLONE, 17) {
			t.Errorf("%s: without the flag", action)
		}
	}
	if !(*Filter)(nil).Allows(unix.SYS_REBOOT) {
		t.Error("no filter does not allow")
	}
}
