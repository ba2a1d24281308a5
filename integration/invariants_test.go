package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What must hold of every container, whatever a test is about. It is read from
// the host, so the container can't lie.

// CheckCreated: a container that waits for Start doesn't show the shim's binary.
func (b *box) checkCreated() {
	b.e.Helper()
	exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", b.Pid()))
	if os.IsNotExist(err) {
		return // a sealed memfd or a program with no name in any file system; or it has been killed
	}
	b.e.must(err)
	shim, err := os.Stat(b.e.runtime.Shim)
	b.e.must(err)
	if os.SameFile(exe, shim) {
		b.e.Errorf("/proc/%d/exe of the waiting container is the shim's binary", b.Pid())
	}
}

// CheckStarted compares the payload's credentials, masks and descriptors with
// the spec. A payload that has ended meanwhile passes.
func (b *box) checkStarted() {
	b.e.Helper()
	spec, err := b.c.Spec(b.e.ctx)
	b.e.must(err)
	if p := b.payload(spec.Process); p != nil {
		b.e.checkProcess(p, spec)
	}
}

// Payload is the process' /proc once it runs the program of the spec, or nil
// when it is over.
func (p *proc) payload(process *specs.Process) *procFS {
	p.e.Helper()
	return p.e.payload(p.Pid(), process)
}

func (e *env) payload(pid uint32, process *specs.Process) *procFS {
	e.Helper()
	dir := &procFS{dir: fmt.Sprintf("/proc/%d", pid)}
	for {
		if state := dir.status()["State"]; state == "" || strings.HasPrefix(state, "Z") {
			return nil
		}
		cmdline := dir.read("cmdline")
		if cmdline == strings.Join(process.Args, "\x00")+"\x00" {
			return dir
		}
		if exe := filepath.Base(dir.link("exe")); cmdline != "" && (exe == "testbox" || exe == "still") {
			return dir // called by another name, as a script's interpreter is
		}
		select {
		case <-e.ctx.Done():
			e.Fatalf("%d never runs %v: it is %q", pid, process.Args, cmdline)
		case <-time.After(100 * time.Microsecond): // execve can't be waited for from outside
		}
	}
}

// ProcFS is one process' directory in the host's /proc.
type procFS struct{ dir string }

func (p procFS) read(name string) string {
	data, _ := os.ReadFile(p.dir + "/" + name)
	return string(data)
}

func (p procFS) link(name string) string {
	target, _ := os.Readlink(p.dir + "/" + name)
	return target
}

func (p procFS) status() map[string]string {
	fields := map[string]string{}
	for _, line := range strings.Split(p.read("status"), "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// FDs leaves out the descriptors of Go's poller, which testbox opens itself.
func (p procFS) fds() map[string]string {
	found := map[string]string{}
	entries, _ := os.ReadDir(p.dir + "/fd")
	for _, e := range entries {
		target := p.link("fd/" + e.Name())
		if target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" {
			found[e.Name()] = target
		}
	}
	return found
}

func (e *env) checkProcess(p *procFS, spec *specs.Spec) {
	e.Helper()
	want := expectedStatus(spec)
	fds := p.fds()
	got := p.status()
	// One that is exiting has no umask any more, and soon is a zombie.
	if got["Umask"] == "" || strings.HasPrefix(got["State"], "Z") {
		return
	}
	for name, value := range want {
		if got[name] != value {
			e.Errorf("%s of the payload: %q, want %q by the spec", name, got[name], value)
		}
	}
	if filepath.Base(p.link("exe")) == "still" { // others may have opened files
		if names := slices.Sorted(maps.Keys(fds)); !slices.Equal(names, []string{"0", "1", "2"}) {
			e.Errorf("descriptors of the payload: %v, want 0, 1 and 2", fds)
		}
		for _, mask := range []string{"SigBlk", "SigIgn", "SigCgt"} {
			// glibc's posix_spawn, with which make starts what it runs, leaves
			// signals 32 and 33 ignored; neither Go nor any runtime touches them.
			const ofGlibc = 1<<31 | 1<<32
			if bits, err := strconv.ParseUint(got[mask], 16, 64); err != nil || bits&^ofGlibc != 0 {
				e.Errorf("%s of the payload: %s", mask, got[mask])
			}
		}
	}
}

// ExpectedStatus is what /proc/PID/status has to say after execve, as the kernel
// computes it from what the spec asks for.
func expectedStatus(spec *specs.Spec) map[string]string {
	p := spec.Process
	want := map[string]string{"NoNewPrivs": "0", "Seccomp": "2"}
	if spec.Linux.Seccomp == nil {
		want["Seccomp"] = procFS{dir: "/proc/self"}.status()["Seccomp"] // that of the host's processes
	}
	if p.NoNewPrivileges {
		want["NoNewPrivs"] = "1"
	}
	uid, gid := hostID(spec.Linux.UIDMappings, p.User.UID), hostID(spec.Linux.GIDMappings, p.User.GID)
	want["Uid"] = fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid)
	want["Gid"] = fmt.Sprintf("%d %[1]d %[1]d %[1]d", gid)
	var groups []string
	sorted := slices.Sorted(slices.Values(p.User.AdditionalGids))
	for _, g := range sorted {
		groups = append(groups, strconv.Itoa(int(hostID(spec.Linux.GIDMappings, g))))
	}
	want["Groups"] = strings.Join(groups, " ")
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	want["Umask"] = fmt.Sprintf("%04o", umask)

	caps := p.Capabilities
	if caps == nil {
		return want
	}
	bounding := uint64(1<<41 - 1) // that of a new user namespace
	if !hasNamespace(spec, specs.UserNamespace) {
		bounding = hostBounding()
	}
	bnd, inh, amb := capMask(caps.Bounding)&bounding, capMask(caps.Inheritable)&bounding, capMask(caps.Ambient)&bounding
	prm := amb
	if p.User.UID == 0 {
		prm = bnd | inh
	}
	if p.NoNewPrivileges { // execve can't add to what was permitted before
		prm &= capMask(caps.Permitted)
	}
	for name, mask := range map[string]uint64{"CapInh": inh, "CapPrm": prm, "CapEff": prm, "CapBnd": bnd, "CapAmb": amb} {
		want[name] = fmt.Sprintf("%016x", mask)
	}
	return want
}

func hasNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func hostID(maps []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID
		}
	}
	return id
}

func hostBounding() uint64 {
	mask, _ := strconv.ParseUint(procFS{dir: "/proc/self"}.status()["CapBnd"], 16, 64)
	return mask
}

var capNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
	SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
	MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// CapMask ignores names that don't exist, as the spec demands.
func capMask(names []string) uint64 {
	var mask uint64
	for _, name := range names {
		if i := slices.Index(capNames, strings.TrimPrefix(name, "CAP_")); i >= 0 {
			mask |= 1 << i
		}
	}
	return mask
}
