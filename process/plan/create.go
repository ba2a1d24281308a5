package plan

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

// Create is how a container is made.
type Create struct {
	Script
	Namespaces []specs.LinuxNamespace // as the spec has them; the others are the host's
	Mounts     *mounts.Plan
	// Supers are the cells with the descriptors of Mounts.Supers.
	Supers []script.Cell
	// Context has the descriptor of the file system that is being made: when a
	// step of that fails, the kernel's explanation can be read there.
	Context script.Cell
}

// NewCreate compiles the spec of a container. An error is about a field of the
// spec (spec.ErrInvalid).
func NewCreate(c *spec.Container, id string, filter *seccomp.Filter, host Host, options Options) (*Create, error) {
	last := entersLast(c)
	fs, err := mounts.Compile(mounts.Config{
		Spec: c.Spec, Bundle: c.Bundle, Rootfs: c.Rootfs, RootMounts: options.RootMounts, Cgroup: host.Cgroup, Cgroup2: host.Cgroup2,
		Visible: options.Visible, NoPivotRoot: options.NoPivotRoot, EntersLast: last,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", spec.ErrInvalid, err)
	}
	b := newBuilder(host, options, c.Process, filter)
	b.userns = c.Has(specs.UserNamespace)
	p := &Create{Namespaces: c.Linux.Namespaces, Mounts: fs, Context: b.context}

	b.enter()
	b.joinTasks()
	// In a namespace that is joined, the shim's cgroup, or its files, may not
	// be in sight: then the cgroup comes first.
	early := host.CgroupDir && slices.ContainsFunc(c.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Path != "" && (ns.Type == specs.UserNamespace || ns.Type == specs.CgroupNamespace)
	})
	if early {
		b.clone(0, nil, true, "into the cgroup")
		b.report(Cloned)
	}
	b.joinNamespaces(c, last)
	if b.userns && !c.New(specs.UserNamespace) {
		b.becomeRoot()
	}
	b.makeNamespaces(c, host.CgroupDir && !early)
	if last {
		b.join(c.Namespace(specs.PIDNamespace)).Because("for the last clone")
	}
	b.closeRest("those were for the clone")
	b.affinity("", "")

	if c.New(specs.UserNamespace) {
		b.report(Mappings)
		b.Wait()
		b.becomeRoot()
	}
	if b.ipcLater(c) {
		b.Add(script.Unshare, script.Flags(unix.CLONE_NEWIPC, "CLONE_NEWIPC")).Because("its mqueue belongs to who makes it").For("linux.namespaces")
	}
	if c.New(specs.TimeNamespace) {
		b.Add(script.Unshare, script.Flags(unix.CLONE_NEWTIME, "CLONE_NEWTIME")).Because("from execve on").For("linux.namespaces")
	}
	if c.Has(specs.MountNamespace) {
		b.propagation("/", c.Linux.RootfsPropagation)
	}
	b.keyring(id, true)
	if c.New(specs.NetworkNamespace) {
		b.loopback()
	}
	for _, s := range fs.Supers {
		p.Supers = append(p.Supers, b.super(s))
	}
	// While the host's procfs is still in sight, without which a user namespace gets
	// none.
	var proc script.Cell
	if len(c.Linux.Sysctl) > 0 {
		proc = b.super(mounts.Super{Field: "linux.sysctl", Type: "proc"})
	}
	b.names(c)
	b.report(Supers)
	root, stream := b.Receive(b.home, homeSize)

	b.sysctls(c.Linux.Sysctl, proc)
	b.jail(c, root)
	for fd, null := range options.Null {
		if null || c.Process.Terminal {
			b.Add(script.Dup3, stream, script.Int(fd), script.Int(0))
		}
	}
	b.closeRest("mounts and root are in place")
	b.become(c.Linux, last)
	b.report(Ready)
	if !b.loaded && b.filterLetsWait() {
		b.seccomp()
	}
	b.Wait()
	b.execute()

	p.Script = b.Script
	return p, nil
}

// entersLast says whether the init enters the pid namespace only when it has no
// more rights than the container: in one that is given by path, others can see
// it, and with CAP_SYS_PTRACE take over all that it has. In a user namespace they
// cannot: it does not let go of the host's memory before execve (the user_ns of
// its mm_struct, see ptrace(2), "Ptrace access mode checking").
func entersLast(c *spec.Container) bool {
	return c.Has(specs.PIDNamespace) && !c.New(specs.PIDNamespace) && !c.Has(specs.UserNamespace)
}

// joinNamespaces joins those that are given by path, but for the pid namespace
// if that is left for the end.
func (b *builder) joinNamespaces(c *spec.Container, last bool) {
	for _, known := range cloneFlags {
		if last && known.kind == specs.PIDNamespace {
			continue
		}
		if ns := c.Namespace(known.kind); ns != nil && ns.Path != "" {
			b.join(ns)
		}
	}
}

// join joins a namespace; one of pids, for the children only (setns(2)).
func (b *builder) join(ns *specs.LinuxNamespace) *script.Step {
	field := fmt.Sprintf("linux.namespaces (%s, %s)", ns.Type, ns.Path)
	fd := b.file(File{Kind: JoinNamespace, Namespace: *ns, Field: field})
	known := cloneFlags[slices.Index(Namespaces(), ns.Type)]
	return b.Add(script.Setns, fd, script.Flags(known.flag, known.name)).For(field)
}

// makeNamespaces goes on in a clone that is in the new namespaces. A user
// namespace among them owns the others. The cgroup namespace's root is the
// cgroup that the process is in then, in all hierarchies.
func (b *builder) makeNamespaces(c *spec.Container, cgroup bool) {
	var flags uint64
	var names []string
	for _, known := range cloneFlags {
		// A time namespace cannot be entered by clone(2).
		later := known.kind == specs.TimeNamespace || known.kind == specs.IPCNamespace && b.ipcLater(c)
		if c.New(known.kind) && !later {
			flags |= known.flag
			names = append(names, known.name)
		}
	}
	b.clone(flags, names, cgroup, "the container's init")
}

// ipcLater says whether the ipc namespace is made by the root of the new user
// namespace: /dev/mqueue in it, made with it, belongs to whoever that is.
func (b *builder) ipcLater(c *spec.Container) bool {
	return c.New(specs.UserNamespace) && c.New(specs.IPCNamespace)
}

// propagation sets that of a path. Without a word of the spec, what is mounted
// on the host still gets into the container, but nothing gets out.
func (b *builder) propagation(path, kind string) {
	if kind == "" {
		kind = "rslave"
	}
	var flags uint64
	for name, flag := range map[string]uint64{
		"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
	} {
		switch kind {
		case name:
			flags = flag
		case "r" + name:
			flags = flag | unix.MS_REC
		}
	}
	b.Add(script.Mount, script.Null, b.CString(path), script.Null, script.Flags(flags, kind), script.Null).For("linux.rootfsPropagation")
}

// loopback brings up lo, which a new network namespace has down.
func (b *builder) loopback() {
	// struct ifreq of netdevice(7): name, then flags
	request := make([]byte, 40)
	copy(request, "lo")
	binary.LittleEndian.PutUint16(request[16:], unix.IFF_UP|unix.IFF_RUNNING)
	fd := b.Cell("fd")
	b.Add(script.Socket, script.Flags(unix.AF_INET, "AF_INET"), script.Flags(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, "SOCK_DGRAM|SOCK_CLOEXEC"), script.Int(0)).Into(fd)
	b.Add(script.Ioctl, fd.Arg(), script.Flags(unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"), b.Bytes(request, "{lo, IFF_UP|IFF_RUNNING}"))
	b.Add(script.Close, fd.Arg())
}

// super makes a superblock that belongs to the container's namespaces, and returns
// the cell with its mount.
func (b *builder) super(s mounts.Super) script.Cell {
	context, mount := b.context, b.Cell(s.Type)
	config := func(command uint32, name string, args ...script.Arg) {
		args = append([]script.Arg{context.Arg(), script.Flags(command, name)}, args...)
		b.Add(script.Fsconfig, args...).For(s.Field)
	}
	zero := script.Int(0)
	b.Add(script.Fsopen, b.CString(s.Type), script.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Into(context).For(s.Field)
	for _, param := range s.Params {
		if param.Flag {
			config(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG", b.CString(param.Key), script.Null, zero)
		} else {
			config(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING", b.CString(param.Key), b.CString(param.Value), zero)
		}
	}
	config(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE", script.Null, script.Null, zero)
	b.Add(script.Fsmount, context.Arg(), script.Flags(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), script.Flags(s.Attrs, fmt.Sprintf("%#x", s.Attrs))).
		Into(mount).For(s.Field)
	b.Add(script.Close, context.Arg())
	return mount
}

// sysctls writes kernel parameters of the container's namespaces, among them those
// of network interfaces that hooks have brought: to a procfs which is not attached
// anywhere, so that nobody can have mounted anything over it (CVE-2025-52881).
func (b *builder) sysctls(list map[string]string, proc script.Cell) {
	if len(list) == 0 {
		return
	}
	// struct open_how of openat2(2)
	how := binary.LittleEndian.AppendUint64(nil, unix.O_WRONLY|unix.O_CLOEXEC)
	how = binary.LittleEndian.AppendUint64(how, 0)
	how = binary.LittleEndian.AppendUint64(how, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	flags := b.Bytes(how, "{O_WRONLY|O_CLOEXEC, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_XDEV}")
	fd := b.Cell("fd")
	for _, key := range slices.Sorted(maps.Keys(list)) {
		field := fmt.Sprintf("linux.sysctl[%s]", key)
		b.Add(script.Openat2, proc.Arg(), b.CString("sys/"+spec.SysctlPath(key)), flags, script.Int(len(how))).Into(fd).For(field)
		b.writeTo(fd.Arg(), list[key]).For(field)
		b.Add(script.Close, fd.Arg())
	}
}

// names sets the host's and the domain's name.
func (b *builder) names(c *spec.Container) {
	if c.Hostname != "" {
		b.Add(script.Sethostname, b.CString(c.Hostname), script.Int(len(c.Hostname))).For("hostname")
	}
	if c.Domainname != "" {
		b.Add(script.Setdomainname, b.CString(c.Domainname), script.Int(len(c.Domainname))).For("domainname")
	}
}

// jail makes the root that was built the root of the process.
func (b *builder) jail(c *spec.Container, root script.Arg) {
	dot, slash := b.CString("."), b.CString("/")
	old := b.Cell("old")
	b.Add(script.Openat, atFDCWD, slash, script.Flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC")).Into(old)
	b.Add(script.Fchdir, root).Because("the container's root")
	switch {
	case !c.Has(specs.MountNamespace):
		b.Add(script.Chroot, dot).For("linux.namespaces").Because("no mount namespace")
	case b.options.NoPivotRoot:
		b.Add(script.Mount, dot, slash, script.Null, script.Flags(unix.MS_MOVE, "MS_MOVE"), script.Null).Because("no pivot_root")
		b.Add(script.Chroot, dot)
	default:
		// With "." twice the old root ends up on top of the new one, and needs
		// no directory of the image (pivot_root(2), "NOTES").
		b.Add(script.PivotRoot, dot, dot)
		b.Add(script.Fchdir, old.Arg()).Because("that is on top of the new root now")
		b.Add(script.Mount, script.Null, dot, script.Null, script.Flags(unix.MS_SLAVE|unix.MS_REC, "rslave"), script.Null).
			Because("what is unmounted next stays on the host")
		b.Add(script.Umount, dot, script.Flags(unix.MNT_DETACH, "MNT_DETACH")).Because("the host's tree")
	}
	b.Add(script.Chdir, slash)
	// Private and slave are what it is already.
	if kind := c.Linux.RootfsPropagation; strings.HasSuffix(kind, "shared") || strings.HasSuffix(kind, "unbindable") {
		b.propagation("/", kind)
	}
}
