package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Limits that are not to be had are in the log, at a creation and at an update.
func TestIgnoredLimits(t *testing.T) {
	var said strings.Builder
	log.L.Logger.SetOutput(&said)
	defer log.L.Logger.SetOutput(os.Stderr)
	hierarchy := false
	limits := &specs.LinuxResources{Memory: &specs.LinuxMemory{UseHierarchy: &hierarchy}}
	cfg, _ := config(t, func(s *specs.Spec) { s.Linux.Resources = limits }, "sleep")
	c := create(t, cfg)
	if err := c.Update(limits); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"container ", "update container "} {
		if want := `msg="` + what + c.ID + `: linux.resources.memory.useHierarchy is ignored: `; strings.Count(said.String(), want) != 1 {
			t.Errorf("the log has not, once, %s\n%s", want, said.String())
		}
	}
}

// The cgroup of a container that may divide it belongs to the process's user.
func TestCgroupOwner(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2 alone")
	}
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		want   uint32
	}{
		"a user":                        {func(*specs.Spec) {}, 1000},
		"a user in its own namespace":   {userNamespace, 101000},
		"one that is to write nothing":  {func(s *specs.Spec) { s.Mounts[len(s.Mounts)-1].Options = []string{"ro"} }, 0},
		"one that could see the host's": {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:5] }, 0},
	} {
		cfg, _ := config(t, func(s *specs.Spec) {
			s.Process.User.UID = 1000
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
			test.change(s)
		}, "sleep")
		c := create(t, cfg)
		for file, want := range map[string]uint32{"": test.want, "cgroup.procs": test.want, "pids.max": 0} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join("/sys/fs/cgroup", cgroupParent(), c.ID, file), &st); err != nil || st.Uid != want {
				t.Errorf("%s: %q belongs to %d, not %d: %v", name, file, st.Uid, want, err)
			}
		}
	}
}

// A mount of cgroup2 is one, also where v1 is the usual one: the container's own
// cgroup, in which its init is the only process.
func TestCgroup2BesideV1(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err != nil {
		t.Skip("needs cgroup v1 and v2")
	}
	for name, change := range map[string]func(*specs.Spec){
		"the host's namespace": func(*specs.Spec) {},
		"its own": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		},
	} {
		got := output(t, func(s *specs.Spec) {
			change(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/cgroup", Type: "cgroup2", Source: "cgroup2", Options: []string{"nosuid", "ro"}})
		}, "cat", "/dev/cgroup/cgroup.procs")
		if got != "1\n" {
			t.Errorf("in %s: processes %q", name, got)
		}
	}
}

// A process that is killed for want of memory fails a creation, which says so. With
// v2 the limit is too low for the init; v1 refuses one below the usage.
func TestOutOfMemoryAtCreate(t *testing.T) {
	limit := int64(4096)
	var hooks *specs.Hooks
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		limit, hooks = 16<<20, &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/usr/bin/tail", Args: []string{"tail", "/dev/zero"}}}}
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		s.Hooks = hooks
	}, "sleep")
	_, err := Create(t.Context(), cfg)
	if want := "container init was OOM-killed (memory limit too low?): "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
