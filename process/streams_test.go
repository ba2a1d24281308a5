package process

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

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
