package mounts

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hierarchy is a cgroup v1 hierarchy of the host.
type Hierarchy struct {
	Name string // of the directory that it is mounted on: "memory", "cpu,cpuacct", "systemd"
	Dir  string // the container's cgroup in it, a path on the host
}

const cgroupAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// compileCgroup adds a mount of type cgroup or cgroup2: the container's cgroups.
func (p *Plan) compileCgroup(field string, m *specs.Mount, dest string, o Options, c Config, userns bool) {
	private := has(c.Spec.Linux, specs.CgroupNamespace)
	if len(c.Cgroup) == 0 || m.Type == "cgroup2" {
		p.compileCgroup2(field, m, dest, o, c, private)
		return
	}
	// v1: a tmpfs, with a directory for each hierarchy.
	tmpfs := Options{Attrs: Attrs{Set: cgroupAttrs}, Data: []string{"mode=755"}, Propagation: o.Propagation}
	p.addMount(&mount{field: field, dest: dest, kind: "tmpfs", source: "tmpfs", options: tmpfs, label: c.Spec.Linux.MountLabel}, userns)
	for _, h := range c.Cgroup {
		at := path.Join(dest, h.Name)
		if !private {
			o := o
			o.Bind, o.Recursive = true, true
			p.Ops = append(p.Ops, &bind{field: field, source: h.Dir, dest: at, options: o})
			continue
		}
		hierarchy := Options{Attrs: Attrs{Set: cgroupAttrs | o.Attrs.Set&unix.MOUNT_ATTR_RDONLY}, Data: strings.Split(h.Name, ",")}
		source := "cgroup"
		if h.Name == "systemd" {
			source, hierarchy.Data = "systemd", []string{"name=systemd"}
		}
		p.addMount(&mount{field: field, dest: at, kind: "cgroup", source: source, options: hierarchy}, userns)
	}
	for _, h := range c.Cgroup {
		if !strings.Contains(h.Name, ",") {
			continue
		}
		for controller := range strings.SplitSeq(h.Name, ",") {
			p.Ops = append(p.Ops, &link{field: field, path: path.Join(dest, controller), to: h.Name})
		}
	}
}

// compileCgroup2 adds a mount of the unified hierarchy. A new mount shows the
// cgroup namespace of who makes it. In the host's namespace that would not be a
// mount of the container's: its options are the host's, and change there too
// (runc issue 5258); and it waits 10 ms for an RCU grace period. A bind mount
// of where the host has it does neither.
func (p *Plan) compileCgroup2(field string, m *specs.Mount, dest string, o Options, c Config, private bool) {
	host := "/sys/fs/cgroup"
	if len(c.Cgroup) > 0 { // as with v1, only the container's own
		host = c.Cgroup2
	}
	if private || host == "" {
		p.addMount(&mount{field: field, dest: dest, kind: "cgroup2", source: m.Source, options: o}, false)
		return
	}
	o.Bind, o.Recursive, o.Data, o.Super = true, true, nil, nil
	p.Ops = append(p.Ops, &bind{field: field, source: host, dest: dest, options: o})
}
