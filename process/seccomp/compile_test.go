package seccomp

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/spec"
)

// compare tries a filter against the meaning of its profile.
func compare(t *testing.T, m *meaning, f *Filter) {
	t.Helper()
	if f.Len != len(f.Program)/8 || f.Len > 4096 {
		t.Fatalf("Len is %d, of %d bytes", f.Len, len(f.Program))
	}
	run, wrong := machine(t, f.Program), 0
	m.calls(func(c call) {
		if got, want := run(c), m.action(c); got != want {
			if wrong++; wrong < 10 {
				t.Errorf("%#x nr %d (%#x) args %#x: %#x, want %#x", c.Audit, c.Nr, c.Nr, c.Args, got, want)
			}
		}
	})
}

func TestProfiles(t *testing.T) {
	for name, p := range profiles(t) {
		t.Run(name, func(t *testing.T) {
			f, err := compileFor(nativeOf(name), p)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, meaningOf(p, nativeOf(name)), f)
			if f.Len > 400 {
				t.Errorf("%d instructions", f.Len)
			}
		})
	}
}

func ptr(n uint) *uint { return &n }

// rules makes a profile of them, the default being ERRNO.
func profileOf(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: rules}
}

func TestInvalid(t *testing.T) {
	with := func(change func(*specs.LinuxSeccomp)) *specs.LinuxSeccomp {
		p := profileOf(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow})
		change(p)
		return p
	}
	rule := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		s.Names = []string{"read"}
		return profileOf(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo}}}, s)
	}
	args := func(args ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return rule(specs.LinuxSyscall{Action: specs.ActTrap, Args: args})
	}
	for want, p := range map[string]*specs.LinuxSeccomp{
		`.defaultAction: "SCMP_ACT_NO" is not an action`:                                 with(func(p *specs.LinuxSeccomp) { p.DefaultAction = "SCMP_ACT_NO" }),
		`.defaultAction: "" is not an action`:                                            with(func(p *specs.LinuxSeccomp) { p.DefaultAction = "" }),
		`.defaultAction: SCMP_ACT_NOTIFY would stop the write that reports the listener`: with(func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActNotify }),
		`.defaultErrnoRet: 65536 has more than 16 bits`:                                  with(func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = ptr(65536) }),
		`.defaultErrnoRet: SCMP_ACT_KILL returns no errno`:                               with(func(p *specs.LinuxSeccomp) { p.DefaultAction, p.DefaultErrnoRet = specs.ActKill, ptr(1) }),
		`.architectures[1]: "SCMP_ARCH_VAX" is not an architecture`:                      with(func(p *specs.LinuxSeccomp) { p.Architectures = []specs.Arch{specs.ArchX86, "SCMP_ARCH_VAX"} }),
		`.flags[0]: "LOG" is not a flag`:                                                 with(func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{"LOG"} }),
		`.listenerMetadata: without listenerPath`:                                        with(func(p *specs.LinuxSeccomp) { p.ListenerMetadata = "x" }),
		`.listenerPath: is missing, for SCMP_ACT_NOTIFY`:                                 with(func(p *specs.LinuxSeccomp) { p.Syscalls[0].Action = specs.ActNotify }),
		`.syscalls[0].names[0]: SCMP_ACT_NOTIFY would stop the write that reports the listener`: with(func(p *specs.LinuxSeccomp) {
			p.Syscalls[0] = specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}
		}),
		`.syscalls[1].action: "" is not an action`:               rule(specs.LinuxSyscall{}),
		`.syscalls[1].errnoRet: SCMP_ACT_ALLOW returns no errno`: rule(specs.LinuxSyscall{Action: specs.ActAllow, ErrnoRet: ptr(0)}),
		`.syscalls[1].args[0].index: 6, the last argument is 5`:  args(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}),
		`.syscalls[1].args[1].op: "=" is not an operator`:        args(specs.LinuxSeccompArg{Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Op: "="}),
		`.syscalls[1]: contradicts linux.seccomp.syscalls[0]`:    args(specs.LinuxSeccompArg{Index: 1, Op: specs.OpEqualTo}),
		`: takes 16587 instructions, the kernel allows 4096`:     profileOf(manyRules(10000)),
	} {
		_, err := compileFor(specs.ArchX86_64, p)
		if !errors.Is(err, spec.ErrInvalid) || err.Error() != "linux.seccomp"+want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

// manyRules is a rule about n values of an argument.
func manyRules(n int) specs.LinuxSyscall {
	s := specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow}
	for i := range n {
		s.Args = append(s.Args, specs.LinuxSeccompArg{Index: 1, Value: uint64(2 * i), Op: specs.OpEqualTo})
	}
	return s
}

func TestManyRules(t *testing.T) {
	for _, p := range []*specs.LinuxSeccomp{
		profileOf(manyRules(100)),
		profileOf(manyRules(300)),
		profileOf(specs.LinuxSyscall{Names: []string{"mmap"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
			{Index: 5, Value: 1 << 40, Op: specs.OpNotEqual}, {Index: 4, Value: 1 << 32, Op: specs.OpGreaterEqual},
			{Index: 3, Value: 7 << 40, ValueTwo: 2 << 40, Op: specs.OpMaskedEqual}, {Index: 2, Value: 6, Op: specs.OpLessThan},
			{Index: 1, Value: 9, Op: specs.OpGreaterThan}, {Index: 0, Value: 1 << 63, Op: specs.OpLessEqual},
		}}),
	} {
		p.Architectures = []specs.Arch{specs.ArchX86, specs.ArchX32}
		f, err := compileFor(specs.ArchX86_64, p)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, meaningOf(p, specs.ArchX86_64), f)
	}
}

// TestBranch has targets around the distance that a comparison can jump.
func TestBranch(t *testing.T) {
	for distance := 250; distance < 520; distance++ {
		p := &program{returns: map[uint32]int{}}
		far := p.emit(unix.BPF_RET, 1, 0, 0)
		fill := func(n int) {
			for range n {
				p.emit(unix.BPF_RET, 2, 0, 0)
			}
		}
		fill(distance % 256)
		farther := p.emit(unix.BPF_RET, 3, 0, 0)
		fill(distance - distance%256)
		for _, test := range []struct {
			yes, no   target
			want, not uint32
		}{
			{far, returns(4), 1, 4}, {returns(5), farther, 5, 3}, {far, farther, 1, 3}, {farther, far, 3, 1},
			{returns(4), returns(5), 4, 5}, {returns(6), returns(7), 6, 7},
		} {
			p.branch(unix.BPF_JEQ, 9, test.yes, test.no)
			p.load(offsetNr)
			run := machine(t, encode(p.code))
			if got, not := run(call{Nr: 9}), run(call{Nr: 8}); got != test.want || not != test.not {
				t.Errorf("%d: %d and %d, want %+v", distance, got, not, test)
			}
		}
	}
}

func TestNothing(t *testing.T) {
	for _, p := range []*specs.LinuxSeccomp{nil, {}, {Architectures: []specs.Arch{specs.ArchX86}}} {
		if f, err := Compile(p); f != nil || err != nil {
			t.Errorf("%+v: %v, %v", p, f, err)
		}
	}
	if _, err := compileFor("SCMP_ARCH_VAX", profileOf()); !errors.Is(err, spec.ErrInvalid) {
		t.Error("on an architecture without a table:", err)
	}
}

func TestOptions(t *testing.T) {
	const (
		log, specAllow, listener, killable = unix.SECCOMP_FILTER_FLAG_LOG, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	)
	all := []specs.LinuxSeccompFlag{}
	for _, flag := range flags {
		all = append(all, flag.name)
	}
	for _, test := range []struct {
		name     string
		flags    []specs.LinuxSeccompFlag
		names    []string
		action   specs.LinuxSeccompAction
		want     uint32
		warnings []string
	}{
		{name: "absent", flags: nil, want: specAllow},
		{name: "empty", flags: []specs.LinuxSeccompFlag{}, want: 0},
		{name: "all", flags: all, want: log | specAllow, warnings: []string{
			"linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for SCMP_ACT_NOTIFY only, ignored"}},
		{name: "all, notify", flags: all, names: []string{"read"}, action: specs.ActNotify, want: log | specAllow | killable | listener},
		{name: "notify", names: []string{"read"}, action: specs.ActNotify, want: specAllow | listener},
		{name: "unknown names", names: []string{"", "read", "nothing", "open_by_handle_at_with_a_longer_name"}, action: specs.ActAllow, want: specAllow, warnings: []string{
			"linux.seccomp.architectures[1]: SCMP_ARCH_ARM does not run on SCMP_ARCH_X86_64, ignored",
			`linux.seccomp.syscalls: not known and ignored: ["" "nothing" "open_by_handle_at_with_a_longer_name"]`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := profileOf(specs.LinuxSyscall{Names: test.names, Action: specs.ActAllow})
			p.ListenerPath, p.ListenerMetadata, p.Flags = "/agent", "about", test.flags
			if test.action != "" {
				p.Syscalls[0].Action = test.action
			}
			if len(test.warnings) == 2 {
				p.Architectures = []specs.Arch{specs.ArchX86, specs.ArchARM}
			}
			f, err := compileFor(specs.ArchX86_64, p)
			if err != nil {
				t.Fatal(err)
			}
			if f.Flags != test.want || f.Listener() != (test.want&listener != 0) {
				t.Errorf("flags %#x, want %#x", f.Flags, test.want)
			}
			if f.Listener() != (f.ListenerPath == "/agent" && f.ListenerMetadata == "about") {
				t.Errorf("listener %q %q", f.ListenerPath, f.ListenerMetadata)
			}
			if !slices.Equal(f.Warnings, test.warnings) {
				t.Errorf("warnings %q", f.Warnings)
			}
		})
	}
}

// TestMeaning has what profiles mean, by example: also a test of the test.
func TestMeaning(t *testing.T) {
	const (
		amd64, i386, arm64, arm = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM

		kill   = 0
		allow  = unix.SECCOMP_RET_ALLOW
		trap   = unix.SECCOMP_RET_TRAP
		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	rule := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
	}
	errno := func(s specs.LinuxSyscall, n uint) specs.LinuxSyscall {
		s.ErrnoRet = &n
		return s
	}
	allArchs := []specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchARM}
	for _, test := range []struct {
		name    string
		profile specs.LinuxSeccomp
		want    map[call]uint32
	}{
		{"only the native architecture", *profileOf(rule(specs.ActAllow, "openat2")), map[call]uint32{
			{Audit: amd64, Nr: 437}: allow, {Audit: amd64, Nr: 1}: eperm, {Audit: i386, Nr: 437}: kill, {Audit: arm64, Nr: 437}: kill,
			{Audit: amd64, Nr: 1<<30 | 437}: kill, {Audit: amd64, Nr: math.MaxUint32 - 1}: kill, {Audit: amd64, Nr: math.MaxUint32}: eperm,
		}},
		{"all architectures", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: allArchs,
			Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "execve")}}, map[call]uint32{
			{Audit: amd64, Nr: 59}: allow, {Audit: i386, Nr: 11}: allow, {Audit: amd64, Nr: 1<<30 | 520}: allow,
			{Audit: amd64, Nr: 1<<30 | 59}: eperm, {Audit: arm, Nr: 11}: kill,
		}},
		{"newer calls", specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess, Architectures: allArchs,
			Syscalls: []specs.LinuxSyscall{rule(specs.ActKillProcess, "faccessat2")}}, map[call]uint32{
			{Audit: amd64, Nr: 439}: 0x80000000, {Audit: amd64, Nr: 440}: enosys, {Audit: amd64, Nr: 1<<30 - 1}: enosys,
			{Audit: amd64, Nr: 1 << 30}: 0x80000000, {Audit: amd64, Nr: 1<<30 | 440}: enosys, {Audit: amd64, Nr: math.MaxUint32}: enosys,
			{Audit: i386, Nr: 439}: 0x80000000, {Audit: i386, Nr: math.MaxUint32}: enosys,
		}},
		{"newer calls may pass", specs.LinuxSeccomp{DefaultAction: specs.ActTrace,
			Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "openat2")}}, map[call]uint32{
			{Audit: amd64, Nr: 500}: unix.SECCOMP_RET_TRACE | 1,
		}},
		{"newer than nothing", *profileOf(rule(specs.ActAllow, "nothing")), map[call]uint32{{Audit: amd64, Nr: 500}: eperm}},
		{"the first unconditional rule", *profileOf(rule(specs.ActLog, "openat2", arg(0, specs.OpEqualTo, 0)),
			rule(specs.ActTrap, "openat2"), rule(specs.ActAllow, "openat2")), map[call]uint32{{Audit: amd64, Nr: 437}: trap}},
		{"errno", *profileOf(errno(rule(specs.ActErrno, "read"), 0xffff), errno(rule(specs.ActTrace, "write"), 7), rule(specs.ActErrno, "openat2")),
			map[call]uint32{{Audit: amd64, Nr: 0}: 0x5ffff, {Audit: amd64, Nr: 1}: 0x7ff00007, {Audit: amd64, Nr: 437}: eperm}},
		{"conditions together", *profileOf(rule(specs.ActAllow, "openat2", arg(1, specs.OpGreaterThan, 3), arg(0, specs.OpLessEqual, 1<<32))),
			map[call]uint32{
				{amd64, 437, [6]uint64{1 << 32, 4}}: allow, {amd64, 437, [6]uint64{1<<32 + 1, 4}}: eperm,
				{amd64, 437, [6]uint64{0, 3}}: eperm, {amd64, 437, [6]uint64{1, 1 << 63}}: allow,
			}},
		{"conditions apart", *profileOf(rule(specs.ActAllow, "openat2", arg(1, specs.OpEqualTo, 3), arg(0, specs.OpEqualTo, 1), arg(1, specs.OpEqualTo, 4))),
			map[call]uint32{
				{amd64, 437, [6]uint64{0, 3}}: allow, {amd64, 437, [6]uint64{1, 0}}: allow, {amd64, 437, [6]uint64{0, 4}}: allow,
				{amd64, 437, [6]uint64{0, 0}}: eperm,
			}},
		{"the low half", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: allArchs,
			Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "openat2", arg(0, specs.OpEqualTo, 1<<32|5))}}, map[call]uint32{
			{amd64, 437, [6]uint64{5}}: eperm, {amd64, 437, [6]uint64{1<<32 | 5}}: allow, {i386, 437, [6]uint64{5}}: allow,
			{amd64, 1<<30 | 437, [6]uint64{7<<32 | 5}}: allow,
		}},
		{"the mask", *profileOf(specs.LinuxSyscall{Names: []string{"openat2"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
			{Index: 2, Op: specs.OpMaskedEqual, Value: 1<<63 | 0xf0, ValueTwo: 0xff}}}), map[call]uint32{
			{amd64, 437, [6]uint64{2: 0xf7}}: allow, {amd64, 437, [6]uint64{2: 1<<63 | 0xf7}}: eperm, {amd64, 437, [6]uint64{2: 1<<62 | 0xf0}}: allow,
		}},
		{"no mask, no condition", *profileOf(rule(specs.ActAllow, "openat2", arg(0, specs.OpEqualTo, 1)), rule(specs.ActTrap, "openat2", arg(0, specs.OpMaskedEqual, 0))),
			map[call]uint32{{amd64, 437, [6]uint64{1}}: trap}},
		{"the narrower range", *profileOf(
			rule(specs.ActAllow, "openat2", arg(0, specs.OpGreaterThan, 10)), rule(specs.ActTrap, "openat2", arg(0, specs.OpGreaterThan, 100)),
			rule(specs.ActLog, "openat2", arg(0, specs.OpEqualTo, 200)), rule(specs.ActKill, "openat2", arg(0, specs.OpLessThan, 300))),
			map[call]uint32{
				{amd64, 437, [6]uint64{200}}: unix.SECCOMP_RET_LOG, {amd64, 437, [6]uint64{50}}: kill,
				{amd64, 437, [6]uint64{300}}: trap,
			}},
		{"calls in calls", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: allArchs, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActAllow, "socket", arg(0, specs.OpEqualTo, 2)), rule(specs.ActTrap, "shmat")}}, map[call]uint32{
			{amd64, 41, [6]uint64{2}}: allow, {amd64, 41, [6]uint64{1}}: eperm,
			{i386, 359, [6]uint64{2}}: allow, {i386, 359, [6]uint64{1}}: eperm, {i386, 102, [6]uint64{1, 99}}: allow, {i386, 102, [6]uint64{2}}: eperm,
			{i386, 117, [6]uint64{21}}: trap, {i386, 117, [6]uint64{22}}: eperm, {i386, 397, [6]uint64{}}: trap,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := compileFor(specs.ArchX86_64, &test.profile)
			if err != nil {
				t.Fatal(err)
			}
			m := meaningOf(&test.profile, specs.ArchX86_64)
			compare(t, m, f)
			run := machine(t, f.Program)
			for c, want := range test.want {
				if got, meant := run(c), m.action(c); got != want || meant != want {
					t.Errorf("%+v: %#x, meant %#x, want %#x", c, got, meant, want)
				}
			}
		})
	}

	// The private calls of arm do not make all other calls old.
	p := profileOf(rule(specs.ActAllow, "openat2"), rule(specs.ActAllow, "cacheflush"))
	p.Architectures = []specs.Arch{specs.ArchARM}
	f, err := compileFor(specs.ArchAARCH64, p)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, meaningOf(p, specs.ArchAARCH64), f)
	for nr, want := range map[uint32]uint32{437: allow, 438: enosys, 0xeffff: enosys, 0xf0000: eperm, 0xf0002: allow, 0xf0003: enosys} {
		if got := machine(t, f.Program)(call{Audit: arm, Nr: nr}); got != want {
			t.Errorf("arm, %#x: %#x, want %#x", nr, got, want)
		}
	}
}

func TestCache(t *testing.T) {
	var c Cache
	if f, err := c.Compile(nil); f != nil || err != nil {
		t.Error(f, err)
	}
	if _, err := c.Compile(&specs.LinuxSeccomp{DefaultAction: "no"}); !errors.Is(err, spec.ErrInvalid) {
		t.Error(err)
	}
	get := func(change func(*specs.LinuxSeccomp)) *Filter {
		p := profileOf(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow})
		change(p)
		f, err := c.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	same := get(func(*specs.LinuxSeccomp) {})
	if get(func(*specs.LinuxSeccomp) {}) != same {
		t.Error("compiled twice")
	}
	for _, change := range []func(*specs.LinuxSeccomp){
		func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{} },
		func(p *specs.LinuxSeccomp) { p.Syscalls[0].Names[0] = "write" },
		func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = ptr(0) },
		func(p *specs.LinuxSeccomp) { p.ListenerPath = "/agent" },
	} {
		if get(change) == same {
			t.Error("another profile has the same filter")
		}
	}
	for n := range uint(100) {
		get(func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = &n })
	}
	if len(c.compiled) > cacheSize {
		t.Errorf("%d filters", len(c.compiled))
	}
}

func TestFeatures(t *testing.T) {
	f := Features()
	for _, names := range [][]string{f.Actions, f.Operators, f.Archs, f.KnownFlags} {
		if len(names) < 4 || !slices.IsSorted(names) {
			t.Error(names)
		}
	}
}

// TestNoInit starts a program with this package in it: every shim does, so
// nothing may be done then.
func TestNoInit(t *testing.T) {
	program := filepath.Join(t.TempDir(), "inittrace")
	if out, err := exec.Command("go", "build", "-o", program, "./testdata/inittrace").CombinedOutput(); err != nil {
		t.Skipf("no go: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "init runtime") || strings.Contains(string(out), "process/seccomp") {
		t.Errorf("%v\n%s", err, out)
	}
}
