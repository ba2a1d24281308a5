package plan

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/spec"
)

// keyring joins the container's session keyring. Only the first process, which
// makes it, sets who may search it: its user, or with a user namespace all, as
// the root of another one is another user (keyctl(2)).
func (b *builder) keyring(id string, first bool) {
	if b.options.NoNewKeyring {
		return
	}
	ring := b.Cell("keyring")
	b.Add(script.Keyctl, script.Flags(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), b.CString("_ses."+id)).
		Allow(unix.ENOSYS).Into(ring).Because("not the shim's")
	if !first {
		return
	}
	// KEY_POS_ALL|KEY_USR_VIEW|KEY_USR_READ|KEY_USR_LINK, which a new one has,
	// and KEY_USR_SEARCH or KEY_OTH_SEARCH.
	permissions := uint32(0x3f130000 | 0x80000)
	if b.userns {
		permissions = 0x3f130000 | 0x8
	}
	b.Add(script.Keyctl, script.Flags(unix.KEYCTL_SETPERM, "KEYCTL_SETPERM"), ring.Arg(), script.Flags(permissions, fmt.Sprintf("%#x", permissions))).
		Allow(unix.ENOSYS)
}

// becomeRoot takes on the root user of the user namespace which the process has
// entered. A namespace without one is entered as whoever one is.
func (b *builder) becomeRoot() {
	zero := script.Int(0)
	b.Add(script.Setresgid, zero, zero, zero).Allow(unix.EINVAL)
	b.Add(script.Setresuid, zero, zero, zero).Allow(unix.EINVAL)
	b.hide("nor now")
}

// personality sets personality, NUMA memory policy and the like, which need no
// privileges.
func (b *builder) personality(linux *specs.Linux) {
	if p := linux.Personality; p != nil {
		domain := map[specs.LinuxPersonalityDomain]uint64{specs.PerLinux: 0, specs.PerLinux32: 8}[p.Domain]
		b.Add(script.Personality, script.Flags(domain, string("PER_"+p.Domain))).For("linux.personality")
		for _, flag := range p.Flags {
			b.Warnings = append(b.Warnings, fmt.Sprintf("linux.personality.flags: %s is ignored", flag))
		}
	}
	if p := linux.MemoryPolicy; p != nil {
		mode, nodes := spec.MemoryPolicy(p)
		mask := script.Null
		if len(nodes) > 0 {
			mask = b.Bytes(nodes, p.Nodes)
		}
		// One bit more than there are: the kernel takes one off again.
		b.Add(script.SetMempolicy, script.Flags(mode, string(p.Mode)), mask, script.Int(8*len(nodes)+1)).For("linux.memoryPolicy")
	}
}

// affinity lets the process run on these CPUs, or, if nothing is said, on all
// that its cgroup has: those of the shim are none of the container's, and a
// cpuset does not widen what is asked for once (Linux 6.2).
func (b *builder) affinity(list, field string) {
	mask, text := spec.EveryCPU(), "all"
	if list != "" {
		mask, text = spec.CPUs(list), list
	}
	step := b.Add(script.SchedAffinity, script.Int(0), script.Int(len(mask)), b.Bytes(mask, "{"+text+"}"))
	if field != "" {
		step.For(field)
		return
	}
	step.Allow(unix.EPERM).Because("and not just where the shim may run")
}

// become makes the process who it will be, in the filter that it will have if
// that needs a privilege. If it enters the pid namespace, of which its children
// are already, it does so only with no more rights than the container has, and in
// its filter: others can see it in there.
func (b *builder) become(linux *specs.Linux, enters bool) {
	b.personality(linux)
	b.credentials()
	b.lookup()
	confined := enters && b.filterLetsEnter()
	if confined {
		b.seccomp()
		b.drop()
	}
	if enters {
		b.enterPIDs()
	}
	b.lastLimits()
	if b.process.Scheduler != nil {
		b.report(Scheduler)
		b.Wait()
	}
	b.session()
	if confined {
		b.listener() // now that it is the process that it will be
	} else if !b.process.NoNewPrivileges { // else see execute
		b.confine()
	}
}

// filterLetsEnter says whether a process with the filter can still enter the pid
// namespace, and what comes after that. If not it has to be there when it loads the
// filter, with the privilege that this may take.
func (b *builder) filterLetsEnter() bool {
	lets := b.filter.Allows(unix.SYS_CLONE, unix.CLONE_PARENT) && b.filter.Allows(unix.SYS_EXIT_GROUP) && b.filter.Allows(unix.SYS_SETSID) &&
		b.filter.Allows(unix.SYS_WRITE, script.ControlFD) && b.filter.Allows(unix.SYS_READ, script.ControlFD)
	if b.process.Terminal {
		lets = lets && b.filter.Allows(unix.SYS_IOCTL, 0, unix.TIOCSCTTY)
	}
	if b.loader {
		lets = lets && b.filter.Allows(unix.SYS_CAPSET)
	}
	if slices.ContainsFunc(b.process.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == processLimit }) {
		lets = lets && b.filter.Allows(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC)
	}
	return lets
}

// credentials gives up privileges: it takes on the user, the groups and the
// capabilities of the process, and its working directory. What is left of them
// is what confine needs.
func (b *builder) credentials() {
	p := b.process
	if p.NoNewPrivileges {
		b.prctl(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS", 1).For("process.noNewPrivileges")
	}
	// First as root, who may be let in where the user is not; the user is let
	// in where, on NFS, root is not.
	entered := b.Cell("entered")
	b.Set(entered, script.Int(-1))
	b.chdir(entered, unix.EACCES)

	available := b.host.Capabilities
	if b.userns {
		available = caps.All()
	}
	if p.Capabilities != nil {
		parsed, warnings := caps.Parse(p.Capabilities, available)
		b.Warnings = append(b.Warnings, warnings...)
		b.sets = &parsed
		for c := range caps.Last(available) + 1 {
			if b.sets.Bounding&(1<<c) == 0 {
				b.prctl(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP", uint64(c), caps.Name(c)).
					Allow(unix.EINVAL) // unknown to this kernel
			}
		}
	}
	b.prctl(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS", 1)
	b.user(&p.User)

	there := b.Label("there")
	b.Jump(entered.Arg(), script.Int(0), there)
	b.chdir(entered, 0)
	b.Place(there)

	b.prctl(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS", 0)
	b.capabilities(available)
	b.hide("nor now")
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	b.Add(script.Umask, script.Octal(umask))
}

func (b *builder) prctl(option uint64, name string, value uint64, text ...string) *script.Step {
	arg := script.Int(value)
	if len(text) > 0 {
		arg = script.Flags(value, text[0])
	}
	zero := script.Int(0)
	return b.Add(script.Prctl, script.Flags(option, name), arg, zero, zero, zero)
}

// user takes on user and groups. setgroups is called also with no group at all:
// those of the shim are none of the container's.
func (b *builder) user(u *specs.User) {
	groups := make([]byte, 0, 4*len(u.AdditionalGids))
	for _, gid := range u.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, gid)
	}
	step := b.Add(script.Setgroups, script.Int(len(u.AdditionalGids)), b.Bytes(groups, fmt.Sprintf("%d", u.AdditionalGids))).For("process.user.additionalGids")
	if len(u.AdditionalGids) == 0 && b.userns {
		step.Allow(unix.EPERM) // denied in the namespace, and nothing is asked for
	}
	gid, uid := script.Int(u.GID), script.Int(u.UID)
	b.Add(script.Setresgid, gid, gid, gid).For("process.user.gid")
	b.Add(script.Setresuid, uid, uid, uid).For("process.user.uid")
}

// capabilities takes on those of the process, and with them CAP_SYS_ADMIN if it
// takes that to load the filter; see confine.
func (b *builder) capabilities(available uint64) {
	const admin = 1 << unix.CAP_SYS_ADMIN
	if b.sets == nil && b.process.User.UID != 0 {
		b.sets = &caps.Sets{} // what execve leaves to a user
	}
	if b.sets == nil {
		return
	}
	now := *b.sets
	if b.filter != nil && !b.process.NoNewPrivileges && now.Effective&admin == 0 {
		b.loader = true
		now.Effective |= available & admin
		now.Permitted |= available & admin
	}
	b.capset(&now)
	const raise, clearAll = unix.PR_CAP_AMBIENT_RAISE, unix.PR_CAP_AMBIENT_CLEAR_ALL
	zero := script.Int(0)
	ambient := script.Flags(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT")
	b.Add(script.Prctl, ambient, script.Flags(clearAll, "PR_CAP_AMBIENT_CLEAR_ALL"), zero, zero, zero)
	for c := range caps.Last(b.sets.Ambient) + 1 {
		if b.sets.Ambient&(1<<c) != 0 {
			// As with runc, one that is not permitted and inheritable is left out.
			b.Add(script.Prctl, ambient, script.Flags(raise, "PR_CAP_AMBIENT_RAISE"), script.Flags(uint64(c), caps.Name(c)), zero, zero).
				Allow(unix.EPERM)
		}
	}
}

// confine loads the filter of a process without no_new_privs, which takes a
// privilege, and gives that up. From here on every call is filtered: nothing
// is left to do than what nobody does without, so profiles from before openat2
// and faccessat2 are no obstacle.
func (b *builder) confine() {
	b.seccomp()
	b.listener()
	b.drop()
}

// drop gives up what it took to load the filter.
func (b *builder) drop() {
	if b.loader {
		b.capset(b.sets).Because("CAP_SYS_ADMIN was for the filter")
	}
}

func (b *builder) capset(s *caps.Sets) *script.Step {
	order := binary.LittleEndian
	header := order.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3) // and pid 0
	var data []byte
	for half := range 2 {
		for _, set := range []uint64{s.Effective, s.Permitted, s.Inheritable} {
			data = order.AppendUint32(data, uint32(set>>(32*half)))
		}
	}
	text := fmt.Sprintf("{effective=%#x, permitted=%#x, inheritable=%#x}", s.Effective, s.Permitted, s.Inheritable)
	return b.Add(script.Capset, b.Bytes(header, "v3"), b.Bytes(data, text)).For("process.capabilities")
}

// chdir goes to the working directory. It is resolved below the root, and not
// through magic links, so no descriptor that may be open leads out of the
// container (CVE-2024-21626). With an errno that is fine, entered stays -1.
func (b *builder) chdir(entered script.Cell, fine unix.Errno) {
	order := binary.LittleEndian
	// struct open_how of openat2(2)
	how := order.AppendUint64(nil, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	how = order.AppendUint64(how, 0)
	how = order.AppendUint64(how, unix.RESOLVE_NO_MAGICLINKS)
	fd := b.Cell("cwd")
	open := b.Add(script.Openat2, atFDCWD, b.CString(b.process.Cwd),
		b.Bytes(how, "{O_PATH|O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}"), script.Int(len(how))).Into(fd)
	change := script.Fchdir
	if fine == 0 {
		open.For("process.cwd")
		b.Add(change, fd.Arg()).Into(entered).For("process.cwd")
		return
	}
	refused := b.Label("refused")
	open.Allow(fine).For("process.cwd")
	b.Jump(fd.Arg(), script.Int(-int(fine)), refused)
	b.Add(change, fd.Arg()).Allow(fine).Into(entered).For("process.cwd")
	b.Place(refused)
}

// filterLetsWait says whether a process that takes no privilege to load its filter
// can do so while it waits for the start, which would take longer otherwise. What
// goes wrong with it is an error of the start in either case.
func (b *builder) filterLetsWait() bool {
	return b.process.NoNewPrivileges && b.filter != nil && !b.filter.Listener() && b.filter.Allows(unix.SYS_READ, script.ControlFD)
}

// seccomp loads the filter, once.
func (b *builder) seccomp() {
	f := b.filter
	if f == nil || b.loaded {
		return
	}
	b.loaded = true
	// struct sock_fprog of seccomp(2)
	program := b.Bytes(f.Program, fmt.Sprintf("%d instructions", f.Len))
	fprog := binary.LittleEndian.AppendUint64(nil, uint64(f.Len))
	fprog = binary.LittleEndian.AppendUint64(fprog, program.Value())
	step := b.Add(script.Seccomp, script.Flags(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"),
		script.Flags(f.Flags, fmt.Sprintf("%#x", f.Flags)), b.Bytes(fprog, program.Text())).For("linux.seccomp")
	if f.Listener() {
		step.Into(b.Listener)
	}
}

// listener reports the listener of a filter that is loaded, for the shim to take:
// after no more calls than have to be, as each of them is filtered already.
func (b *builder) listener() {
	if b.filter != nil && b.filter.Listener() {
		b.report(Listener)
		b.Wait()
	}
}

// lookup finds the program as a shell would, and puts its path into b.path. It
// is done when the process is who it will be, where it will be: so what it may
// not execute, or cannot find from its working directory, is known now.
func (b *builder) lookup() {
	name := b.process.Args[0]
	if b.options.Program != "" {
		name = b.options.Program
	}
	b.path = b.Cell("program")
	result := b.Cell("access")
	found, next := b.Label("found"), b.Label("next")
	zero := script.Int(0)
	if strings.Contains(name, "/") {
		path := b.CString(name)
		b.Set(b.path, path)
		directory := b.Label("directory")
		b.access(b.CString(name+"/."), unix.F_OK).Allow(script.AnyError).Into(result)
		b.Jump(result.Arg(), zero, directory)
		b.access(path, unix.X_OK).Fails(fmt.Sprintf("exec: %q: stat %s", name, name))
		b.Goto(found)
		b.Place(directory)
		b.Add(script.Openat, atFDCWD, path, script.Flags(unix.O_WRONLY, "O_WRONLY")).Fails(fmt.Sprintf("exec: %q", name)) // EISDIR
		b.Place(found)
		return
	}
	for _, dir := range searchPath(name, b.process.Env) {
		path := b.CString(dir + "/" + name)
		b.Set(b.path, path)
		b.access(b.CString(dir+"/"+name+"/."), unix.F_OK).Allow(script.AnyError).Into(result)
		b.Jump(result.Arg(), zero, next) // a directory
		b.access(path, unix.X_OK).Allow(script.AnyError).Into(result)
		b.Jump(result.Arg(), zero, found)
		b.Place(next)
		next = b.Label("next")
	}
	b.access(b.CString(""), unix.X_OK).Fails(fmt.Sprintf("exec: %q: executable file not found in $PATH", name))
	b.Place(found)
}

func (b *builder) access(path script.Arg, mode uint32) *script.Step {
	return b.Add(script.Access, atFDCWD, path, script.Int(mode), script.Flags(unix.AT_EACCESS, "AT_EACCESS"))
}

// environment is the environment of the payload. HOME, if it is not set, is
// looked up by the shim, in a file that is there only when the script runs.
func (b *builder) environment() script.Arg {
	env, home := spec.Environment(b.process.Env)
	text := fmt.Sprintf("[%d variables]", len(env))
	if home {
		return b.Strings(env, text)
	}
	return b.StringsAnd(env, b.home, text)
}

// nameMax is how long a component of a path may be, NAME_MAX.
const nameMax = 255

// searchPath are the directories of an environment's PATH, where a program of this
// name can be. How many there may be is checked by package spec.
func searchPath(name string, env []string) []string {
	if len(name) > nameMax {
		return nil
	}
	// What runc and crun search if there is no PATH; it is not handed on.
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	env, _ = spec.Environment(env)
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	var dirs []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
