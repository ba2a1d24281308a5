package caps

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const chown, kill, admin = 1 << unix.CAP_CHOWN, 1 << unix.CAP_KILL, 1 << unix.CAP_SYS_ADMIN
	got, warnings := Parse(&specs.LinuxCapabilities{
		Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_NEW"},
		Effective:   []string{"CAP_CHOWN"},
		Permitted:   []string{"CAP_CHOWN", "CAP_NEW"},
		Inheritable: []string{"CAP_SYS_ADMIN"},
		Ambient:     nil,
	}, chown|kill)
	want := Sets{Bounding: chown | kill, Effective: chown, Permitted: chown}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// One warning for CAP_NEW and one for CAP_SYS_ADMIN, however often named.
	if len(warnings) != 2 {
		t.Errorf("warnings: %q", warnings)
	}
	if admin&All() == 0 || Last(All()) < unix.CAP_CHECKPOINT_RESTORE {
		t.Errorf("All() = %#x", All())
	}
}

func TestName(t *testing.T) {
	if got := Name(unix.CAP_NET_BIND_SERVICE); got != "CAP_NET_BIND_SERVICE" {
		t.Error(got)
	}
}
