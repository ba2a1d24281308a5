package integration

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mountCase is a spec of the table: containerd's default one with these mounts
// after its own.
type mountCase struct {
	name   string
	mounts string // "type source destination options" each, with semicolons between
	user   bool   // in a user namespace
	change func(s *specs.Spec)
}

// parse reads mounts. A source is one of those of mountSources, below dir, unless
// it is absolute or starts with "bundle:"; "-" is none.
func (c mountCase) parse(dir string) []specs.Mount {
	var list []specs.Mount
	for line := range strings.SplitSeq(c.mounts, ";") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		m := specs.Mount{Type: words[0], Source: words[1], Destination: words[2]}
		if len(words) > 3 {
			m.Options = strings.Split(words[3], ",")
		}
		m.Type = strings.TrimPrefix(m.Type, "-")
		relative, isRelative := strings.CutPrefix(m.Source, "bundle:")
		switch {
		case isRelative:
			m.Source = relative
		case m.Source == "-":
			m.Source = ""
		case m.Type == "bind" && !strings.HasPrefix(m.Source, "/"):
			m.Source = dir + "/" + m.Source
		}
		list = append(list, m)
	}
	return list
}

// mountCases is the table: what is generated, and what is written by hand.
func mountCases() []mountCase {
	var all []mountCase
	add := func(name, mounts string) { all = append(all, mountCase{name: name, mounts: mounts}) }

	// Every option on a bind mount with a mount below it, and on a tmpfs.
	flags := []string{"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "diratime",
		"relatime", "norelatime", "strictatime", "nostrictatime", "nosymfollow", "symfollow"}
	for _, f := range flags {
		add("bind "+f, "bind d /data rbind,"+f)
		add("bind r"+f, "bind d /data rbind,r"+f)
		add("tmpfs "+f, "tmpfs none /data "+f)
	}
	for _, f := range []string{"private", "slave", "shared", "unbindable"} {
		add("bind "+f, "bind d /data rbind,"+f)
		add("bind r"+f, "bind d /data rbind,r"+f)
		add("tmpfs "+f, "tmpfs none /data "+f)
	}
	for _, f := range []string{"sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime", "iversion", "silent", "loud", "defaults", "remount",
		"mode=0700", "uid=5,gid=6", "size=64k,nr_inodes=10", "x-systemd.automount,X-thing=1", "nonsense", "size=lots", "tmpcopyup",
		"tmpcopyup,ro", "ro,mode=1777", "rro", "rnosuid,rro"} {
		add("tmpfs "+f, "tmpfs none /data "+f)
	}
	for _, f := range []string{"sync", "nonsense", "x-thing,ro", "defaults", "ro,rw", "rw,ro", "nosuid,nodev,noexec,ro,noatime,rprivate", "rro,rw",
		"noatime,nodiratime", "rnoatime,strictatime", "rslave,ro", "slave,rshared", "lazytime", "remount"} {
		add("bind "+f, "bind d /data bind,"+f)
	}

	// Kinds of sources and destinations.
	for _, kind := range []string{"d", "f", "fifo", "null", "socket", "link", "missing", "d/sub/deep", "empty"} {
		add("bind of "+kind+" to a new place", "bind "+kind+" /new/place bind")
		add("bind of "+kind+" on a directory", "bind "+kind+" /work bind,ro")
		add("bind of "+kind+" on a file", "bind "+kind+" /etc/hosts bind")
	}
	for _, dest := range []string{"/var/run/x", "/abs", "/abs/new", "/up", "/up/new", "/dangling", "/dangling/new", "/loop", "/loop/x", "/etc/alias",
		"/etc/hosts/x", "/work/../data", "work/relative", "//work//", "/work/.", "/", "/..", "/proclink", "/proclink/meminfo", "/syslink/fs", "/devlink"} {
		add("directory to "+dest, "bind d "+dest+" rbind")
		add("tmpfs to "+dest, "tmpfs none "+dest+" mode=711")
	}
	for _, dest := range []string{"/var/run/x", "/abs/new", "/dangling", "/etc/alias", "/proclink/meminfo"} {
		add("file to "+dest, "bind f "+dest+" bind,ro")
	}

	// Nested and overlapping destinations.
	add("one below the other", "bind d /data bind; tmpfs none /data/sub; bind f /data/sub/file bind")
	add("one above the other", "tmpfs none /data/x/y mode=700; bind empty /data bind")
	add("twice the same place", "bind d /data bind; bind empty /data bind,ro")
	add("three times a tmpfs", "tmpfs a /data mode=700; tmpfs b /data mode=711; tmpfs c /data mode=755")
	add("below a read-only bind", "bind d /data rbind,ro; bind f /data/hello bind")
	add("missing below a read-only bind", "bind d /data rbind,ro; bind f /data/new bind")
	add("missing below a read-only tmpfs", "tmpfs none /data ro; bind f /data/new/file bind; tmpfs none /data/t ro")
	add("file on a file of a bind", "bind d /data bind; bind f /data/hello bind,ro")
	add("bind of the root's own", "bind / /work rbind,ro")
	add("over /dev/shm", "bind d /dev/shm bind")
	add("over /dev", "bind d /dev bind")
	add("tmpfs over /dev", "tmpfs none /dev mode=755")
	add("over a device", "bind f /dev/null bind")
	add("below /dev", "bind d /dev/d bind; bind f /dev/f bind,ro")
	add("below /run", "bind f /run/secrets/f bind,ro; tmpfs none /run/lock nosuid,mode=1777")
	add("host's device", "bind /dev/zero /dev/mine bind,ro; bind /dev/full /work/full bind")
	add("relative source", "bind bundle:config.json /work/config bind,ro; bind bundle:rootfs /mnt rbind")
	add("relative source that leaves the bundle", "bind bundle:../nowhere /mnt bind")
	add("type bind without the option", "bind d /data ro")
	add("type none", "none d /data bind")

	// Types.
	add("proc", "proc none /mnt nosuid,noexec,nodev")
	add("proc again", "proc none /proc nosuid")
	add("proc hidepid", "proc none /mnt hidepid=2")
	add("sysfs", "sysfs none /mnt ro")
	add("devpts", "devpts none /mnt newinstance,ptmxmode=0666,mode=0620")
	add("mqueue", "mqueue none /mnt nosuid")
	add("overlay", "overlay none /mnt lowerdir=/etc:/usr/lib,nosuid")
	add("overlay ro", "overlay none /mnt lowerdir=/etc:/usr/lib,ro")
	add("cgroup", "cgroup none /sys/fs/cgroup nosuid,noexec,nodev,relatime,ro")
	add("cgroup rw", "cgroup none /sys/fs/cgroup nosuid,noexec,nodev")
	all = append(all, mountCase{name: "cgroup, own namespace", mounts: "cgroup none /sys/fs/cgroup nosuid,noexec,nodev,relatime,ro", change: ownCgroup})
	add("unknown type", "nosuchfs x /mnt")
	add("no type", "- d /mnt")
	add("tmpfs over proc", "tmpfs none /proc")
	add("directory over proc", "bind d /proc bind")
	add("proc over proc", "bind /proc /proc rbind")
	add("file over meminfo", "bind f /proc/meminfo bind,ro; bind f /proc/uptime bind,ro")
	add("file over version", "bind f /proc/version bind")
	add("tmpfs over /proc/sys", "tmpfs none /proc/sys")
	add("directory over /sys", "bind d /sys bind")
	add("directory below /sys", "bind d /sys/firmware bind")

	// The root.
	for _, p := range []string{"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"} {
		all = append(all, mountCase{name: "root " + p, mounts: "bind d /data rbind; tmpfs none /work", change: func(s *specs.Spec) { s.Linux.RootfsPropagation = p }})
	}
	readonly := func(s *specs.Spec) { s.Root.Readonly = true }
	all = append(all,
		mountCase{name: "read-only root", mounts: "bind d /data rbind; tmpfs none /new/dir; bind f /new/file bind", change: readonly},
		mountCase{name: "masked and read-only", mounts: "bind d /data rbind; tmpfs none /mnt", change: func(s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/data/hello", "/data/sub", "/etc/secret", "/mnt", "/missing/x", "/etc/secret"}
			s.Linux.ReadonlyPaths = []string{"/data", "/work", "/etc/hosts", "/missing"}
		}},
		mountCase{name: "masked and read-only links", mounts: "bind d /data rbind", change: func(s *specs.Spec) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/var/run"}, []string{"/bin/echo"}
		}},
		mountCase{name: "masked below a file", change: func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/etc/hosts/x"} }},
		mountCase{name: "read-only below a file", change: func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/etc/hosts/x"} }},
		mountCase{name: "no mounts but /proc", change: func(s *specs.Spec) { s.Mounts = s.Mounts[:1] }},
		mountCase{name: "no mounts at all", change: func(s *specs.Spec) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
		}},
		mountCase{name: "devices", change: someDevices},
		mountCase{name: "devices without a /dev mount", change: func(s *specs.Spec) { someDevices(s); s.Mounts = s.Mounts[:1] }},
		mountCase{name: "idmap", mounts: "bind d /data bind,idmap", change: mapIDs},
		mountCase{name: "ridmap", mounts: "bind d /data rbind,ridmap", change: mapIDs},
		mountCase{name: "mappings without an option", mounts: "bind d /data bind", change: mapIDs},
		mountCase{name: "idmap without mappings", mounts: "bind d /data bind,idmap"},
		mountCase{name: "idmap of a tmpfs", mounts: "tmpfs none /data idmap", change: mapIDs},
	)

	// A part of it in a user namespace too.
	for i, c := range all {
		named := strings.HasPrefix(c.name, "bind of") || strings.HasPrefix(c.name, "directory to") || strings.HasPrefix(c.name, "root ")
		if i%4 == 0 || !named && i > 130 {
			c.name, c.user = "user namespace: "+c.name, true
			all = append(all, c)
		}
	}
	return all
}

func ownCgroup(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
}

func someDevices(s *specs.Spec) {
	for i, kind := range []string{"c", "u", "b", "p"} {
		d := specs.LinuxDevice{Path: fmt.Sprintf("/dev/sub/%d", i), Type: kind, Major: 1, Minor: 3, UID: ptr(uint32(i)), GID: ptr(uint32(7))}
		if kind == "p" {
			d.Major, d.Minor = 0, 0
		}
		s.Linux.Devices = append(s.Linux.Devices, d)
	}
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, GID: ptr(uint32(9))})
}

func mapIDs(s *specs.Spec) {
	last := &s.Mounts[len(s.Mounts)-1]
	last.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 5000, Size: 10}}
	last.GIDMappings = last.UIDMappings
}
