package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is what seccomp(2) needs. It may be shared, and is never changed.
type Filter struct {
	Program []byte // of struct sock_filter, in this machine's byte order
	Len     int    // of instructions in Program
	Flags   uint32 // SECCOMP_FILTER_FLAG_*; NEW_LISTENER if a rule notifies

	// Where the descriptor that seccomp(2) returns for NEW_LISTENER goes to, and
	// what is sent with it.
	ListenerPath     string
	ListenerMetadata string

	Warnings []string // for the log
}

// Listener says whether seccomp(2) is to return a descriptor for an agent.
func (f *Filter) Listener() bool { return f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// ErrInvalid is in every error of this package: the profile is to blame.
var ErrInvalid = errors.New("invalid seccomp profile")

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: linux.seccomp%s: %s", ErrInvalid, field, fmt.Sprintf(format, args...))
}

// Compile makes the filter of a profile; it is nil if there is nothing to load,
// because the profile is nil or says nothing at all.
func Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	return compile(profile, nativeArch())
}

func compile(profile *specs.LinuxSeccomp, native specs.Arch) (*Filter, error) {
	if profile == nil || profile.DefaultAction == "" && len(profile.Syscalls) == 0 {
		return nil, nil
	}
	f := &Filter{}
	def, err := actionOf(profile.DefaultAction, ".defaultAction", profile.DefaultErrnoRet, ".defaultErrnoRet")
	if err != nil {
		return nil, err
	}
	if def == unix.SECCOMP_RET_USER_NOTIF {
		return nil, invalid(".defaultAction", "SCMP_ACT_NOTIFY would stop the write that reports the listener")
	}
	tables, err := f.tables(profile.Architectures, native)
	if err != nil {
		return nil, err
	}
	if err := f.rules(profile.Syscalls, def, tables); err != nil {
		return nil, err
	}
	if err := f.options(profile); err != nil {
		return nil, err
	}
	code, err := assemble(tables, def)
	if err != nil {
		return nil, err
	}
	if f.Len = len(code); f.Len > unix.BPF_MAXINSNS {
		return nil, invalid("", "takes %d instructions, the kernel allows %d", f.Len, unix.BPF_MAXINSNS)
	}
	for _, in := range code {
		f.Program = binary.NativeEndian.AppendUint16(f.Program, in.Code)
		f.Program = append(f.Program, in.Jt, in.Jf)
		f.Program = binary.NativeEndian.AppendUint32(f.Program, in.K)
	}
	return f, nil
}

var actions = []struct {
	name     specs.LinuxSeccompAction
	value    uint32
	hasErrno bool // in its low half
}{
	{specs.ActAllow, unix.SECCOMP_RET_ALLOW, false},
	{specs.ActErrno, unix.SECCOMP_RET_ERRNO, true},
	{specs.ActKill, unix.SECCOMP_RET_KILL_THREAD, false},
	{specs.ActKillProcess, unix.SECCOMP_RET_KILL_PROCESS, false},
	{specs.ActKillThread, unix.SECCOMP_RET_KILL_THREAD, false},
	{specs.ActLog, unix.SECCOMP_RET_LOG, false},
	{specs.ActNotify, unix.SECCOMP_RET_USER_NOTIF, false},
	{specs.ActTrace, unix.SECCOMP_RET_TRACE, true},
	{specs.ActTrap, unix.SECCOMP_RET_TRAP, false},
}

// actionOf returns what the program returns for an action.
func actionOf(name specs.LinuxSeccompAction, field string, errno *uint, errnoField string) (uint32, error) {
	for _, a := range actions {
		switch {
		case a.name != name:
			continue
		case errno == nil && a.hasErrno:
			return a.value | uint32(unix.EPERM), nil
		case errno == nil:
			return a.value, nil
		case !a.hasErrno:
			return 0, invalid(errnoField, "%s returns no errno", name)
		case *errno > unix.SECCOMP_RET_DATA:
			return 0, invalid(errnoField, "%d has more than 16 bits", *errno)
		}
		return a.value | uint32(*errno), nil
	}
	return 0, invalid(field, "%q is not an action", name)
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual,
	specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual,
}

// flagTsync is in the spec's text, but is not one of its constants. All it
// asks for is true: the filter is loaded by the only thread there is.
const flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

var flags = []struct {
	name  specs.LinuxSeccompFlag
	value uint32
}{
	{specs.LinuxSeccompFlagLog, unix.SECCOMP_FILTER_FLAG_LOG},
	{specs.LinuxSeccompFlagSpecAllow, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
	{flagTsync, 0},
	{specs.LinuxSeccompFlagWaitKillableRecv, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
}

// options reads what is said beside the rules, after them: NEW_LISTENER is
// among the flags already if one of them notifies.
func (f *Filter) options(profile *specs.LinuxSeccomp) error {
	if profile.Flags == nil { // an empty list is another thing: no flags
		f.Flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
next:
	for i, name := range profile.Flags {
		for _, flag := range flags {
			if flag.name == name {
				f.Flags |= flag.value
				continue next
			}
		}
		return invalid(fmt.Sprintf(".flags[%d]", i), "%q is not a flag", name)
	}
	switch {
	case profile.ListenerPath == "" && profile.ListenerMetadata != "":
		return invalid(".listenerMetadata", "without listenerPath")
	case f.Listener() && profile.ListenerPath == "":
		return invalid(".listenerPath", "is missing, for SCMP_ACT_NOTIFY")
	case f.Listener():
		f.ListenerPath, f.ListenerMetadata = profile.ListenerPath, profile.ListenerMetadata
	case f.Flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0:
		// The kernel would refuse it.
		f.Flags &^= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		f.warn(".flags", "%s is for SCMP_ACT_NOTIFY only, ignored", specs.LinuxSeccompFlagWaitKillableRecv)
	}
	return nil
}

// tables returns an empty table for each architecture of the filter. The native
// one is always there; those that this kernel does not run never are.
func (f *Filter) tables(listed []specs.Arch, native specs.Arch) ([]*table, error) {
	family := family(native)
	if family == nil {
		return nil, fmt.Errorf("seccomp on this architecture: %w", errors.ErrUnsupported)
	}
	for i, name := range listed {
		field := fmt.Sprintf(".architectures[%d]", i)
		if !slices.Contains(architectures, name) {
			return nil, invalid(field, "%q is not an architecture", name)
		}
		if !slices.ContainsFunc(family, func(a arch) bool { return a.name == name }) {
			f.warn(field, "%s does not run on %s, ignored", name, native)
		}
	}
	var tables []*table
	for _, a := range family {
		if a.name == native || slices.Contains(listed, a.name) {
			tables = append(tables, &table{arch: a, rules: map[uint32][]rule{}})
		}
	}
	return tables, nil
}

// rules enters the profile's rules into the tables.
func (f *Filter) rules(calls []specs.LinuxSyscall, def uint32, tables []*table) error {
	var unknown []string
	for i, call := range calls {
		field := fmt.Sprintf(".syscalls[%d]", i)
		action, err := actionOf(call.Action, field+".action", call.ErrnoRet, field+".errnoRet")
		if err != nil {
			return err
		}
		alternatives, err := conditionsOf(call.Args, field)
		if err != nil {
			return err
		}
		for _, name := range call.Names {
			if action == unix.SECCOMP_RET_USER_NOTIF {
				f.Flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
				if name == "write" {
					return invalid(field, "SCMP_ACT_NOTIFY would stop the write that reports the listener")
				}
			}
			nrs, ok := lookup(name)
			if !ok {
				unknown = append(unknown, name)
				continue
			}
			for _, t := range tables {
				if action == def {
					t.enter(nrs, nil, 0, "")
				} else {
					t.enter(nrs, alternatives, action, field)
				}
			}
		}
	}
	if unknown != nil {
		f.warn(".syscalls", "not known and ignored: %s", strings.Join(unknown, " "))
	}
	return nil
}

func (f *Filter) warn(field, format string, args ...any) {
	f.Warnings = append(f.Warnings, fmt.Sprintf("linux.seccomp%s: %s", field, fmt.Sprintf(format, args...)))
}
