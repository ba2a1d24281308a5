package process

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// A cgroup is handed to the root of a user namespace only if that can see no
// other one, and is meant to write to it.
func TestDelegates(t *testing.T) {
	userns, cgroupns := specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace}
	mount := func(options ...string) []specs.Mount {
		return []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: options}}
	}
	for name, test := range map[string]struct {
		namespaces []specs.LinuxNamespace
		mounts     []specs.Mount
		want       bool
	}{
		"all of it":            {[]specs.LinuxNamespace{userns, cgroupns}, mount("rw"), true},
		"no user namespace":    {[]specs.LinuxNamespace{cgroupns}, mount("rw"), false},
		"no cgroup namespace":  {[]specs.LinuxNamespace{userns}, mount("rw"), false},
		"somebody else's":      {[]specs.LinuxNamespace{userns, {Type: specs.CgroupNamespace, Path: "/x"}}, mount("rw"), false},
		"a read-only mount":    {[]specs.LinuxNamespace{userns, cgroupns}, mount("ro"), false},
		"no mount of a cgroup": {[]specs.LinuxNamespace{userns, cgroupns}, nil, false},
	} {
		s := &specs.Spec{Mounts: test.mounts, Linux: &specs.Linux{Namespaces: test.namespaces}}
		m := &making{Container: &Container{spec: &spec.Container{Spec: s}}}
		if got := m.delegates(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestStreamsAreCopied(t *testing.T) {
	for profile, want := range map[string]bool{"": false, "unconfined": false, "cri-containerd.apparmor.d": false, "docker-default": false, "mine": true} {
		c := &Container{spec: &spec.Container{Spec: &specs.Spec{Linux: &specs.Linux{}}}}
		p := &Process{Container: c, spec: &specs.Process{ApparmorProfile: profile}}
		if got := c.streamRequest(p).Copy; got != want {
			t.Errorf("AppArmor profile %q: %v", profile, got)
		}
		p.spec.SelinuxLabel = "system_u:system_r:container_t:s0"
		if !c.streamRequest(p).Copy {
			t.Error("SELinux label: not copied")
		}
	}
}
