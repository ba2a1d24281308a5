package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// at makes the container join a namespace.
func at(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

// What is asked for may be in a namespace that is the host's by another name.
func TestSysctlsOfTheHost(t *testing.T) {
	holder, _ := config(t, nil, "sleep")
	c := create(t, holder)
	start(t, c)
	for key, kind := range map[string]specs.LinuxNamespaceType{
		"net.ipv4.ip_forward": specs.NetworkNamespace, "net/ipv4/ip_default_ttl": specs.NetworkNamespace,
		"kernel.shmmni": specs.IPCNamespace, "fs.mqueue.msg_max": specs.IPCNamespace, "kernel.domainname": specs.UTSNamespace,
	} {
		file := "/proc/sys/" + spec.SysctlPath(key)
		setting := func(pid string) func(s *specs.Spec) {
			return func(s *specs.Spec) {
				s.Linux.Sysctl = map[string]string{key: "77"}
				at(s, kind, fmt.Sprintf("/proc/%s/ns/%s", pid, namespaceFile(string(kind))))
			}
		}
		cfg, _ := config(t, setting("self"), "true")
		got, err := Create(t.Context(), cfg)
		if err == nil {
			t.Error(got.Destroy(t.Context()))
			t.Fatalf("%s: the host's is set", key)
		}
		if want := fmt.Sprintf("linux.sysctl[%s]: the namespace of type %s at /proc/self/ns/", key, kind); !strings.Contains(err.Error(), want) || !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("%s: %v", key, err)
		}
		if got := output(t, setting(fmt.Sprint(c.Init.State().PID)), "cat", file); got != "77\n" {
			t.Errorf("%s in the namespace of another container: %q", key, got)
		}
	}
}

// The ids of a user namespace that is joined are known to the kernel. As under
// runc they need not be said, and must not be said wrong.
func TestJoinedUserNamespace(t *testing.T) {
	holder, _ := config(t, userNamespace, "sleep")
	c := create(t, holder)
	start(t, c)
	join := func(uids, gids []specs.LinuxIDMapping) func(*specs.Spec) {
		return func(s *specs.Spec) {
			userNamespace(s)
			at(s, specs.UserNamespace, fmt.Sprintf("/proc/%d/ns/user", c.Init.State().PID))
			s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
		}
	}
	uids, gids := c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings
	for name, given := range map[string][2][]specs.LinuxIDMapping{"not said": {}, "said": {uids, gids}, "said of users": {uids, nil}} {
		cfg, _ := config(t, join(given[0], given[1]), "sleep")
		joined := create(t, cfg)
		if got := joined.spec.Linux; !sameMappings(got.UIDMappings, uids) || !sameMappings(got.GIDMappings, gids) {
			t.Errorf("%s: %v, %v", name, got.UIDMappings, got.GIDMappings)
		}
	}
	other := slices.Clone(gids)
	other[0].HostID++
	for _, test := range []struct {
		change func(*specs.Spec)
		want   string
	}{
		{join(uids, other), "linux.gidMappings: they are not those of the user namespace at /proc/"},
		{join(uids[:0:0], other), "linux.gidMappings: they are not those"},
		{func(s *specs.Spec) { join(nil, nil)(s); at(s, specs.UserNamespace, "/proc/self/ns/user") }, "the user namespace is the host's"},
	} {
		cfg, _ := config(t, test.change, "sleep")
		got, err := Create(t.Context(), cfg)
		if err == nil {
			t.Error(got.Destroy(t.Context()))
			continue
		}
		if !strings.Contains(err.Error(), test.want) || !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}
