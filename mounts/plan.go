package mounts

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Config is what a container's file system is compiled from. The spec has been
// checked: paths are absolute where they must be, and nothing has a NUL in it.
type Config struct {
	Spec   *specs.Spec
	Bundle string // absolute; relative sources of bind mounts are relative to it
	Rootfs string // absolute path of root.path

	// RootMounts make the root file system, as in the Create request of
	// containerd; if there are none, it is what is at Rootfs.
	RootMounts []RootMount

	// Visible has RootMounts mounted where tools of the host look for them. They
	// always are if there is no mount namespace to mount anything in.
	Visible bool

	// NoPivotRoot says that the root will be moved over the old one, which stays
	// in the mount namespace: see strip.
	NoPivotRoot bool

	// EntersLast says that the init enters the pid namespace, which is given by
	// path, when all is built: until then nobody of the runtime is in it, and its
	// procfs is made from outside, see Builder.OpenProc.
	EntersLast bool

	// Cgroup are the cgroup v1 hierarchies; a host with none has cgroup v2.
	Cgroup []Hierarchy
	// Cgroup2 is the container's cgroup of cgroup v2, a path on the host, where
	// that is mounted beside v1.
	Cgroup2 string
}

// Plan is how a container's file system is put together.
type Plan struct {
	Rootfs string // host path on which the root is placed in the container's mount namespace
	Root   []RootMount
	// Visible says that Show has put the root there, in the shim's own mount
	// namespace; Host that there is no other one to build in.
	Visible, Host bool
	// Strip says that Finish takes the host's proc and sysfs away.
	Strip bool

	source string // the root of a container without Root
	peers  bool   // the mount that the root stands on may have peers, see isolate
	Supers []Super
	Ops    []Op // of Build
	Final  []Op // of Finish
}

// Op is one operation on the container's file system.
type Op interface {
	// Line describes the operation.
	Line() Line
	do(*tree) error
}

// Line is an operation as it is printed.
type Line struct {
	// Field of the spec that asks for it, "default" for what every container
	// has, "rootfs[i]" for a mount of the root file system.
	Field   string `json:"field"`
	Action  string `json:"action"` // type of a mount, or what else is done
	Source  string `json:"source,omitempty"`
	Dest    string `json:"destination"`
	Options string `json:"options,omitempty"`
	Super   *int   `json:"superblock,omitempty"` // of the init's, see Plan.Supers
}

func (l Line) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s %s", l.Field, l.Action)
	if l.Source != "" {
		b.WriteString(" " + l.Source + " ->")
	}
	b.WriteString(" " + l.Dest)
	if l.Options != "" {
		b.WriteString("  " + l.Options)
	}
	if l.Super != nil {
		fmt.Fprintf(&b, "  # superblock %d of the init", *l.Super)
	}
	return b.String()
}

// Super is a superblock that the container's init makes, since it belongs to
// the init's namespaces.
type Super struct {
	Field  string // of the spec: mounts[3]
	Type   string
	Params []Param // of fsconfig(2), in order
	Attrs  uint64  // MOUNT_ATTR_* for fsmount(2)
}

// Param is a parameter of a file system: a flag if it has no value.
type Param struct {
	Key, Value string
	Flag       bool
}

func (p Param) String() string {
	if p.Flag {
		return p.Key
	}
	return p.Key + "=" + p.Value
}

// namespaced says what a new superblock of a type belongs to.
var namespaced = map[string]bool{"proc": true, "sysfs": true, "mqueue": true, "cgroup": true, "cgroup2": true}

// Compile makes the plan. An error is about a field of the spec, and names it.
func Compile(c Config) (*Plan, error) {
	linux := c.Spec.Linux
	p := &Plan{Rootfs: c.Rootfs, Root: c.RootMounts, Host: !has(linux, specs.MountNamespace), source: c.Rootfs}
	p.Strip = c.NoPivotRoot && !p.Host
	p.peers = !slices.Contains([]string{"", "rslave", "rprivate", "runbindable"}, linux.RootfsPropagation)
	p.Visible = p.Host || c.Visible && len(p.Root) > 0
	if p.Visible {
		p.Rootfs = filepath.Join(c.Bundle, "rootfs")
	}
	if p.Visible && !p.Host && joined(linux, specs.MountNamespace) {
		return nil, errors.New("linux.namespaces: the root cannot be mounted visibly for a mount namespace that is joined by path")
	}
	var err error
	if p.Root, err = resolveRoot(c.RootMounts, p.Rootfs); err != nil {
		return nil, err
	}
	if err := p.compileMounts(c); err != nil {
		return nil, err
	}
	p.compileFinal(c.Spec)
	return p, nil
}

// compileMounts adds what is in spec.Mounts, and the devices.
func (p *Plan) compileMounts(c Config) error {
	linux := c.Spec.Linux
	userns := has(linux, specs.UserNamespace)
	devBound := false // /dev is the host's: nothing is made in it
	for i := range c.Spec.Mounts {
		m := &c.Spec.Mounts[i]
		field := fmt.Sprintf("mounts[%d]", i)
		o := ParseOptions(m.Options)
		o.IDMap = o.IDMap || len(m.UIDMappings)+len(m.GIDMappings) > 0
		if err := checkOptions(&o, m, linux); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		dest := clean(m.Destination)
		if err := checkDestination(dest, m.Type, o.Bind); err != nil {
			return fmt.Errorf("%s.destination: %w", field, err)
		}
		if o.Bind {
			devBound = devBound || dest == "/dev"
			p.Ops = append(p.Ops, &bind{field: field, source: absolute(m.Source, c.Bundle), dest: dest, options: o, mappings: mappings(m)})
			continue
		}
		if m.Type == "cgroup" || m.Type == "cgroup2" {
			p.compileCgroup(field, m, dest, o, c, userns)
			continue
		}
		// Files are still to be made in /dev and tmpfs mounts.
		if o.has(unix.MOUNT_ATTR_RDONLY) && (m.Type == "tmpfs" || dest == "/dev") {
			o.Attrs.Set &^= unix.MOUNT_ATTR_RDONLY
			p.Final = append(p.Final, &seal{field: field, dest: dest})
		}
		made := &mount{
			field: field, dest: dest, kind: m.Type, source: m.Source, options: o, label: mountLabel(m.Type, linux),
			memory: memoryLimit(linux), outside: m.Type == "proc" && c.EntersLast,
		}
		p.addMount(made, userns)
		if made.super >= 0 && made.long() {
			return fmt.Errorf("%s.options: one is longer than %d bytes, which fsconfig(2) does not take", field, maxParam)
		}
	}
	if !devBound {
		p.compileDevices(linux.Devices, userns)
	}
	return nil
}

// compileFinal adds what comes when all is mounted: the working directory, and what
// is read-only or hidden.
func (p *Plan) compileFinal(s *specs.Spec) {
	if s.Process != nil {
		p.Final = slices.Insert(p.Final, 0, Op(&directory{field: "process.cwd", path: s.Process.Cwd}))
	}
	if s.Root.Readonly {
		p.Final = append(p.Final, &rootReadonly{})
	}
	for i, name := range s.Linux.ReadonlyPaths {
		p.Final = append(p.Final, &readonly{field: fmt.Sprintf("linux.readonlyPaths[%d]", i), path: clean(name)})
	}
	masked := s.Linux.MaskedPaths
	for i, name := range masked {
		if first := slices.IndexFunc(masked, func(s string) bool { return clean(s) == clean(name) }); first == i {
			p.Final = append(p.Final, &mask{field: fmt.Sprintf("linux.maskedPaths[%d]", i), path: clean(name), label: s.Linux.MountLabel})
		}
	}
}

func checkOptions(o *Options, m *specs.Mount, linux *specs.Linux) error {
	switch {
	case o.Bind && len(o.Data) > 0:
		return fmt.Errorf("options: a bind mount has no options of a file system, and %q is none of a mount", strings.Join(o.Data, ","))
	case o.Bind && m.Source == "":
		return fmt.Errorf("source: a bind mount needs one")
	case !o.Bind && m.Type == "":
		return fmt.Errorf("type: it is missing, and the mount is no bind mount")
	case !o.Bind && m.Type == "bind": // as mount(8) has it, without saying bind or rbind
		o.Bind = true
	}
	if !o.IDMap {
		return nil
	}
	switch {
	case !o.Bind:
		return fmt.Errorf("options: only bind mounts can map ids")
	case len(m.UIDMappings) == 0 != (len(m.GIDMappings) == 0):
		return fmt.Errorf("uidMappings: uidMappings and gidMappings need each other")
	case len(m.UIDMappings) == 0 && !has(linux, specs.UserNamespace):
		return fmt.Errorf("uidMappings: there are none, and no user namespace to take them from")
	}
	return nil
}

// checkDestination refuses what would make the root or /proc something else than
// it must be. dest is either that of the spec, or where that leads to.
func checkDestination(dest, kind string, bind bool) error {
	switch {
	case dest == "/":
		return errors.New("nothing can be mounted over the root")
	case dest == "/proc" && kind != "proc" && !bind:
		return fmt.Errorf("%q cannot be mounted because it is not of type proc", dest)
	case strings.HasPrefix(dest, "/proc/") && !slices.Contains(fakes, dest):
		return fmt.Errorf("%q cannot be mounted because it is inside /proc", dest)
	}
	return nil
}

// fakes are the files below /proc that may be mounted over: lxcfs and others
// put the container's own numbers there.
var fakes = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// mappings are the ids of an idmapped mount: its own, or else nil for those of
// the container's user namespace.
func mappings(m *specs.Mount) *Mappings {
	if len(m.UIDMappings) == 0 {
		return nil
	}
	return &Mappings{UID: m.UIDMappings, GID: m.GIDMappings}
}

// Mappings are the ids of a user namespace.
type Mappings struct{ UID, GID []specs.LinuxIDMapping }

// addMount adds a new file system. Where its superblock belongs to a namespace
// of the container, the init makes it.
func (p *Plan) addMount(m *mount, userns bool) {
	m.super = -1
	if (userns || namespaced[m.kind]) && !m.outside {
		p.Supers = append(p.Supers, m.newSuper())
		m.super = len(p.Supers) - 1
	}
	p.Ops = append(p.Ops, m)
}

// mountLabel is the SELinux context that the files of a new file system get.
func mountLabel(kind string, linux *specs.Linux) string {
	if kind == "proc" || kind == "sysfs" {
		return "" // they have labels of their own
	}
	return linux.MountLabel
}

func memoryLimit(linux *specs.Linux) int64 {
	if r := linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		return *r.Memory.Limit
	}
	return 0
}

func has(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

// joined says whether a namespace is given by path.
func joined(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind && ns.Path != "" })
}

// clean is a path in the container, without what does not matter in it.
func clean(name string) string { return path.Clean("/" + name) }

// absolute is a path on the host.
func absolute(name, dir string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// Lines is the plan line by line.
func (p *Plan) Lines() []Line {
	var lines []Line
	if len(p.Root) == 0 {
		lines = append(lines, Line{Field: "root.path", Action: "bind", Source: p.source, Dest: "/", Options: "recursive"})
	}
	for i, m := range p.Root {
		lines = append(lines, m.line(i))
	}
	for _, op := range slices.Concat(p.Ops, p.Final) {
		lines = append(lines, op.Line())
	}
	if p.Strip {
		lines = append(lines, Line{Field: "default", Action: "unmount", Dest: "every proc and sysfs of the host"})
	}
	return lines
}
