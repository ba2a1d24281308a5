package plan

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
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
	// Cgroup are the cgroup v1 hierarchies, for mounts of them.
	Cgroup []mounts.Hierarchy
}

// Options are what a caller of the runtime asks for beside the spec.
type Options struct {
	NoPivotRoot  bool // the root is moved over the old one, see pivot_root(2), "NOTES"
	NoNewKeyring bool // the session keyring of the shim is kept
	// RootMounts make the root file system, as in the Create request.
	RootMounts []mounts.RootMount
	// Null says which of the descriptors 0, 1 and 2 are the host's /dev/null;
	// the container's takes its place.
	Null [3]bool
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

// homeSize is how much room there is for "HOME=...", with the NUL.
const homeSize = 5 + unix.PathMax

// builder writes a script.
type builder struct {
	*script.Script
	host    Host
	options Options
	process *specs.Process
	filter  *seccomp.Filter
	userns  bool // the process is in a user namespace of its own

	files    []File
	warnings []string

	pid      script.Cell // of the last clone
	listener script.Cell // of the seccomp filter, if it has one
	path     script.Cell // of the program, once it is found
	home     script.Arg  // "HOME=...", if the environment has none
}

func newBuilder(host Host, options Options, process *specs.Process) *builder {
	b := &builder{Script: script.New(), host: host, options: options, process: process}
	b.pid, b.listener = b.Cell("pid"), b.Cell("listener")
	b.home = b.Bytes(make([]byte, homeSize), "HOME")
	return b
}

// file asks for a descriptor, and returns its number.
func (b *builder) file(f File) script.Arg {
	b.files = append(b.files, f)
	return script.Int(script.FirstFD + len(b.files) - 1)
}

func at(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// atFDCWD is AT_FDCWD, for paths that are absolute or relative to the working
// directory.
var atFDCWD = script.Flags(unix.AT_FDCWD&0xffffffff, "AT_FDCWD")
