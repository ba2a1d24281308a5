package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/seccomp"
)

// Host is what a plan depends on beside the spec.
type Host struct {
	// Capabilities that the shim has to hand out, bit n for capability n.
	Capabilities uint64
	// Tasks is in how many cgroup v1 hierarchies a process joins the
	// container's cgroup by writing to an open file.
	Tasks int
	// CgroupDir says whether there is a cgroup v2 directory to be cloned into.
	CgroupDir bool
	// Cgroup are the cgroup v1 hierarchies, for mounts of them, and Cgroup2 is the
	// container's directory of cgroup v2 beside them.
	Cgroup  []mounts.Hierarchy
	Cgroup2 string
}

// Report is what a script tells the shim, and waits for an answer to.
type Report int

// The reports of scripts.
const (
	// Cloned says that a clone goes on, and the process before ends. No answer.
	Cloned Report = iota
	// Mappings says that the process is in a new user namespace, and needs its ids.
	Mappings
	// Supers says that the superblocks of the container's namespaces are made. The
	// answer is the variable HOME, with its NUL, the root, and the terminal or, if
	// it is asked for with Options.Null, the container's /dev/null.
	Supers
	// Opened says that the context for a procfs is open, see ProcOpener.
	Opened
	// Scheduler says that the process clones no more, which with a policy of its own it
	// might not be allowed to; and its cgroup, of v1, has a share of the time for
	// realtime policies by now.
	Scheduler
	// Listener says that the seccomp filter is loaded, the descriptor of its listener is
	// in Listener.
	Listener
	// Ready says that everything is done but to execute the program. The answer is Start.
	Ready
)

func (r Report) String() string {
	return [...]string{"a clone goes on", "ids of the user namespace are needed", "superblocks of the container's namespaces", "a context for a procfs", "its scheduling policy is needed", "the filter's listener", "ready"}[r]
}

// Script is a script with what has to be known to run it. When its socket closes
// after the last report, the process has become the program.
type Script struct {
	*script.Script
	Files   []File   // descriptors that it starts with, from script.FirstFD on
	Reports []Report // in order

	Listener script.Cell // see Listener

	Warnings []string // for the log
}

// Options are what a caller of the runtime asks for beside the spec.
type Options struct {
	NoPivotRoot  bool // the root is moved over the old one, see pivot_root(2), "NOTES"
	NoNewKeyring bool // the session keyring of the shim is kept
	Visible      bool // the root file system is mounted on the host too, at rootfs in the bundle
	// RootMounts make the root file system, as in the Create request.
	RootMounts []mounts.RootMount
	// Null says which of the descriptors 0, 1 and 2 are to become the container's
	// /dev/null.
	Null [3]bool
	// Program is executed, if that is not the first argument of the process.
	Program string
}

// File is a descriptor that a script is started with, from script.FirstFD on.
type File struct {
	Kind FileKind
	// Namespace to join, for JoinNamespace.
	Namespace specs.LinuxNamespace
	Field     string // of the spec
}

// FileKind says what a File is.
type FileKind int

// What a script can start with.
const (
	Tasks         FileKind = iota // the tasks file of the next cgroup v1 hierarchy
	CgroupDir                     // the directory of the container's cgroup v2
	JoinNamespace                 // a namespace given by path
	InitPidfd                     // the pidfd of the container's init
	RootDir                       // the container's root
)

// cloneFlags are the namespaces in the bits of clone(2), in the order in which
// they are joined: the user namespace last, since joining it takes away the
// right to join the others.
var cloneFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
	name string
}{
	{specs.PIDNamespace, unix.CLONE_NEWPID, "CLONE_NEWPID"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
	{specs.TimeNamespace, unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "CLONE_NEWNS"},
	{specs.UserNamespace, unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
}

// CloneFlag is a kind of namespace in the bits of clone(2).
func CloneFlag(kind specs.LinuxNamespaceType) uint64 {
	for _, known := range cloneFlags {
		if known.kind == kind {
			return known.flag
		}
	}
	return 0
}

// Namespaces are the kinds of namespaces that there are.
func Namespaces() []specs.LinuxNamespaceType {
	kinds := make([]specs.LinuxNamespaceType, len(cloneFlags))
	for i, known := range cloneFlags {
		kinds[i] = known.kind
	}
	return kinds
}

// homeSize is how much room there is for "HOME=...", with the NUL.
const homeSize = 5 + unix.PathMax

// builder writes a script.
type builder struct {
	Script
	host    Host
	options Options
	process *specs.Process
	filter  *seccomp.Filter
	userns  bool // the process is in a user namespace of its own

	sets   *caps.Sets // that the process executes its program with, nil for all there are
	loader bool       // until then it has CAP_SYS_ADMIN too, for the filter
	loaded bool       // the filter is

	pid     script.Cell // of the last clone
	context script.Cell // of the file system that is being made
	path    script.Cell // of the program, once it is found
	home    script.Arg  // "HOME=...", if the environment has none
}

func newBuilder(host Host, options Options, process *specs.Process, filter *seccomp.Filter) *builder {
	b := &builder{Script: Script{Script: script.New()}, host: host, options: options, process: process, filter: filter}
	b.pid, b.Listener, b.context = b.Cell("pid"), b.Cell("listener"), b.Cell("context")
	b.home = b.Bytes(make([]byte, homeSize), "HOME")
	return b
}

// report tells the shim something.
func (b *builder) report(r Report) {
	b.Reports = append(b.Reports, r)
	b.Report().Because(r.String())
}

// file asks for a descriptor, and returns its number.
func (b *builder) file(f File) script.Arg {
	b.Files = append(b.Files, f)
	return script.Int(script.FirstFD + len(b.Files) - 1)
}

// atFDCWD is AT_FDCWD, for paths that are absolute or relative to the working
// directory.
var atFDCWD = script.Flags(unix.AT_FDCWD&0xffffffff, "AT_FDCWD")
