package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/spec"
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

// Compile makes the filter of a profile; it is nil if there is nothing to load,
// because the profile is nil or says nothing at all. What is wrong with it is a
// spec.ErrInvalid.
func Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	return compileFor(nativeArch(), profile)
}

func compileFor(native specs.Arch, profile *specs.LinuxSeccomp) (*Filter, error) {
	family := family(native)
	switch {
	case profile == nil || profile.DefaultAction == "" && len(profile.Syscalls) == 0:
		return nil, nil
	case family == nil:
		return nil, spec.Invalid("linux.seccomp", "not on this architecture")
	}
	f := &Filter{}
	if err := f.compile(profile, family); err != nil {
		field, text, _ := strings.Cut(err.Error(), ": ")
		return nil, spec.Invalid("linux.seccomp"+field, "%s", text)
	}
	return f, nil
}

// compile fills in the filter. Its errors, and those of what it calls, begin
// with the rest of the field's name.
func (f *Filter) compile(profile *specs.LinuxSeccomp, family []arch) error {
	def, err := actionOf(profile.DefaultAction, ".defaultAction", profile.DefaultErrnoRet, ".defaultErrnoRet")
	if err != nil {
		return err
	}
	if def == unix.SECCOMP_RET_USER_NOTIF {
		return errors.New(".defaultAction: SCMP_ACT_NOTIFY would stop the write that reports the listener")
	}
	tables, err := f.tables(profile.Architectures, family)
	if err != nil {
		return err
	}
	if err := f.rules(profile.Syscalls, def, tables); err != nil {
		return err
	}
	if err := f.options(profile); err != nil {
		return err
	}
	code, err := assemble(tables, def)
	if err != nil {
		return err
	}
	if f.Len = len(code); f.Len > unix.BPF_MAXINSNS {
		return fmt.Errorf(": takes %d instructions, the kernel allows %d", f.Len, unix.BPF_MAXINSNS)
	}
	f.Program = encode(code)
	return nil
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
			return 0, fmt.Errorf("%s: %s returns no errno", errnoField, name)
		case *errno > unix.SECCOMP_RET_DATA:
			return 0, fmt.Errorf("%s: %d has more than 16 bits", errnoField, *errno)
		}
		return a.value | uint32(*errno), nil
	}
	return 0, fmt.Errorf("%s: %q is not an action", field, name)
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
		return fmt.Errorf(".flags[%d]: %q is not a flag", i, name)
	}
	switch {
	case profile.ListenerPath == "" && profile.ListenerMetadata != "":
		return errors.New(".listenerMetadata: without listenerPath")
	case f.Listener() && profile.ListenerPath == "":
		return errors.New(".listenerPath: is missing, for SCMP_ACT_NOTIFY")
	case f.Listener():
		f.ListenerPath, f.ListenerMetadata = profile.ListenerPath, profile.ListenerMetadata
	case f.Flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0:
		// The kernel would refuse it.
		f.Flags &^= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		f.warn(".flags: %s is for SCMP_ACT_NOTIFY only, ignored", specs.LinuxSeccompFlagWaitKillableRecv)
	}
	return nil
}

// tables returns an empty table for each architecture of the filter. The native
// one is always there; those that this kernel does not run never are.
func (f *Filter) tables(listed []specs.Arch, family []arch) ([]*table, error) {
	for i, name := range listed {
		if !slices.Contains(architectures, name) {
			return nil, fmt.Errorf(".architectures[%d]: %q is not an architecture", i, name)
		}
		if !slices.ContainsFunc(family, func(a arch) bool { return a.name == name }) {
			f.warn(".architectures[%d]: %s does not run on %s, ignored", i, name, family[0].name)
		}
	}
	var tables []*table
	for i, a := range family {
		if i == 0 || slices.Contains(listed, a.name) {
			tables = append(tables, &table{arch: a})
		}
	}
	return tables, nil
}

// rules enters the profile's rules into the tables.
func (f *Filter) rules(calls []specs.LinuxSyscall, def uint32, tables []*table) error {
	var unknown []string
	for i, call := range calls {
		action, err := actionOf(call.Action, ".action", call.ErrnoRet, ".errnoRet")
		if err != nil {
			return fmt.Errorf(".syscalls[%d]%w", i, err)
		}
		rules, err := rulesOf(call.Args, action, i)
		if err != nil {
			return fmt.Errorf(".syscalls[%d]%w", i, err)
		}
		if action == def {
			rules = nil
		}
		for j, name := range call.Names {
			if action == unix.SECCOMP_RET_USER_NOTIF {
				f.Flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
				if name == "write" {
					return fmt.Errorf(".syscalls[%d].names[%d]: SCMP_ACT_NOTIFY would stop the write that reports the listener", i, j)
				}
			}
			line, ok := lookup(name)
			if !ok {
				unknown = append(unknown, name)
				continue
			}
			for _, t := range tables {
				t.enter(line, rules)
			}
		}
	}
	if unknown != nil {
		f.warn(".syscalls: not known and ignored: %q", unknown)
	}
	return nil
}

func (f *Filter) warn(format string, args ...any) {
	f.Warnings = append(f.Warnings, fmt.Sprintf("linux.seccomp"+format, args...))
}
