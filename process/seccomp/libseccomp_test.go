package seccomp

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// library is testdata/libseccomp.c, running.
type library struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startLibrary(t *testing.T) *library {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler: ", err)
	}
	program := filepath.Join(t.TempDir(), "libseccomp")
	if out, err := exec.Command(cc, "-o", program, "testdata/libseccomp.c", "-l:libseccomp.so.2").CombinedOutput(); err != nil {
		t.Skipf("no libseccomp.so.2 (Debian: libseccomp2): %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &library{in, bufio.NewReader(out)}
}

// ask sends lines and returns the answer to the last one.
func (l *library) ask(t *testing.T, lines string) string {
	t.Helper()
	if _, err := io.WriteString(l.in, lines); err != nil {
		t.Fatal(err)
	}
	answer, err := l.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

// SCMP_ARCH_*: those of the kernel, but for x32.
var scmpArch = map[specs.Arch]uint32{
	specs.ArchX86_64: unix.AUDIT_ARCH_X86_64, specs.ArchX86: unix.AUDIT_ARCH_I386, specs.ArchX32: 0x4000003e,
	specs.ArchAARCH64: unix.AUDIT_ARCH_AARCH64, specs.ArchARM: unix.AUDIT_ARCH_ARM, specs.ArchRISCV64: unix.AUDIT_ARCH_RISCV64,
}

var scmpCompare = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4, specs.OpGreaterEqual: 5,
	specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

// program compiles a profile as runc does. Names that this libseccomp does not
// know must have been removed.
func (l *library) program(t *testing.T, p *specs.LinuxSeccomp, native specs.Arch) ([]byte, error) {
	t.Helper()
	var b strings.Builder
	def := actionValue(p.DefaultAction, p.DefaultErrnoRet)
	fmt.Fprintf(&b, "filter %d %d", def, scmpArch[native])
	for _, a := range p.Architectures {
		if slices.ContainsFunc(family(native), func(f arch) bool { return f.name == a }) {
			fmt.Fprintf(&b, " %d", scmpArch[a])
		}
	}
	b.WriteByte('\n')
	for _, s := range p.Syscalls {
		action := actionValue(s.Action, s.ErrnoRet)
		if action == def {
			continue
		}
		indices := map[uint]bool{}
		for _, arg := range s.Args {
			indices[arg.Index] = true
		}
		alternatives := [][]specs.LinuxSeccompArg{s.Args}
		if len(indices) < len(s.Args) {
			alternatives = slices.Collect(slices.Chunk(s.Args, 1))
		}
		for _, name := range s.Names {
			for _, args := range alternatives {
				fmt.Fprintf(&b, "rule %d %s", action, name)
				for _, arg := range args {
					fmt.Fprintf(&b, " %d %d %d %d", arg.Index, scmpCompare[arg.Op], arg.Value, arg.ValueTwo)
				}
				b.WriteByte('\n')
			}
		}
	}
	errno, code, _ := strings.Cut(l.ask(t, b.String()+"end\n"), " ")
	if errno != "0" {
		return nil, errors.New("errno " + errno)
	}
	program, err := hex.DecodeString(code)
	if err != nil {
		t.Fatal(err)
	}
	return program, nil
}

// known removes from a profile what this libseccomp has no number for.
func (l *library) known(t *testing.T, p *specs.LinuxSeccomp, seen map[string]bool) {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(name string) bool {
			known, ok := seen[name]
			if !ok {
				known = l.ask(t, fmt.Sprintf("number %d %s\n", unix.AUDIT_ARCH_X86_64, name)) != "-1"
				seen[name] = known
			}
			return !known
		})
	}
}

// TestLibseccomp compares filters with those of libseccomp: for the profiles of
// testdata in every call, for random ones where libseccomp 2.5.4 can be trusted.
func TestLibseccomp(t *testing.T) {
	l := startLibrary(t)
	seen := map[string]bool{}
	for name, p := range profiles(t) {
		l.known(t, p, seen)
		native := nativeOf(name)
		program, err := l.program(t, p, native)
		if err != nil {
			t.Fatal(name, err)
		}
		l.compare(t, name, meaningOf(p, native), program, func(abi, []alternative) bool { return true })
	}

	random, compared := rand.New(rand.NewPCG(3, 4)), 0
	for i := range 600 {
		seed := make([]byte, 10+i%100)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		p := throw(seed)
		native := []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64}[i%2]
		// Without a rule for a call that all architectures have, the program does
		// not even load the number: see pseudo in TestLibseccompWrong.
		p.Syscalls = slices.Insert(p.Syscalls, 0, specs.LinuxSyscall{Names: []string{"getpid"}, Action: specs.ActTrap})
		l.known(t, p, seen)
		program, err := l.program(t, p, native)
		if _, ours := compileFor(native, p); err != nil || ours != nil {
			continue // rules contradict each other
		}
		compared++
		l.compare(t, fmt.Sprint("random ", i), meaningOf(p, native), program, trusted)
	}
	if compared < 300 {
		t.Errorf("only %d random profiles compared", compared)
	}
}

// compare tries what two programs do about the calls whose rules are trusted.
// ENOSYS for new calls is not libseccomp's, but runc's.
func (l *library) compare(t *testing.T, name string, m *meaning, program []byte, trusted func(abi, []alternative) bool) {
	t.Helper()
	f, err := compileFor(m.native, m.LinuxSeccomp)
	if err != nil {
		t.Fatal(name, err)
	}
	ours, theirs := machine(t, f.Program), machine(t, program)
	m.calls(func(c call) {
		a := abiOf(m.native, c.Audit, c.Nr)
		if a.name != "" && m.newer(a, c.Nr) || !trusted(a, m.rules[a][c.Nr]) || t.Failed() {
			return
		}
		if got, want := ours(c), theirs(c); got != want {
			t.Errorf("%s: %#x nr %d (%#x) args %#x: %#x, libseccomp %#x\n%+v", name, c.Audit, c.Nr, c.Nr, c.Args, got, want, m.rules[a][c.Nr])
		}
	})
}

// trusted says whether libseccomp 2.5.4 keeps its own order for such rules of a
// call. TestLibseccompWrong has what is left out.
func trusted(a abi, rules []alternative) bool {
	actions, ops, ranges := map[uint32]bool{}, map[specs.LinuxSeccompOperator]bool{}, false
	multiple, same := false, map[[2]uint64]map[specs.LinuxSeccompOperator]bool{}
	for _, r := range rules {
		if len(r.args) == 0 {
			return true
		}
		actions[r.action] = true
		multiple = multiple || len(r.args) > 1
		for _, arg := range r.args {
			ops[arg.Op] = true
			ranges = ranges || !slices.Contains([]specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpMaskedEqual, specs.OpNotEqual}, arg.Op)
			_, value := a.operands(arg)
			key := [2]uint64{uint64(arg.Index), value}
			if same[key] == nil {
				same[key] = map[specs.LinuxSeccompOperator]bool{}
			}
			same[key][arg.Op] = true
		}
	}
	switch {
	case len(rules) <= 1, len(ops) == 1 && ops[specs.OpEqualTo]:
		return true
	case len(actions) == 1 && !ranges && (!multiple || !ops[specs.OpNotEqual]):
		return true
	}
	for _, ops := range same {
		if len(ops) > 1 {
			return false
		}
	}
	return a.all == math.MaxUint32 && !multiple
}

// TestLibseccompWrong has an example of each kind of difference: what is meant,
// and what libseccomp 2.5.4 does.
func TestLibseccompWrong(t *testing.T) {
	l := startLibrary(t)
	arg := func(index uint, op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
	}
	rule := func(name string, action specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	const (
		eperm   = 0x50001 // the default
		trap    = 0x30000
		allow   = 0x7fff0000
		refused = 1
	)
	for _, test := range []struct {
		name         string
		audit, nr    uint32
		args         [6]uint64
		ours, theirs uint32
		rules        []specs.LinuxSyscall
	}{
		{"the first block is of a call that the architecture lacks: it is left out, and the load of the number with it",
			unix.AUDIT_ARCH_AARCH64, 437, [6]uint64{}, allow, eperm, []specs.LinuxSyscall{
				rule("socketcall", specs.ActAllow),
				rule("openat2", specs.ActAllow, arg(0, specs.OpEqualTo, 0)),
			}},
		{"where one rule ends in the lower half, the next one takes that for the upper half",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{2}, eperm, allow, []specs.LinuxSyscall{
				rule("openat2", specs.ActAllow, arg(0, specs.OpGreaterThan, 1<<32)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpLessThan, 1)),
			}},
		{"the rules after one that held in part are not tried",
			unix.AUDIT_ARCH_I386, 437, [6]uint64{0, 2}, allow, eperm, []specs.LinuxSyscall{
				rule("openat2", specs.ActTrap, arg(0, specs.OpNotEqual, 3), arg(1, specs.OpEqualTo, 1)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpEqualTo, 0)),
			}},
		{"the second rule is lost, because their upper halves are compared alike",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{math.MaxUint32}, allow, trap, []specs.LinuxSyscall{
				rule("openat2", specs.ActTrap, arg(0, specs.OpGreaterEqual, 1)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpGreaterEqual, math.MaxUint32), arg(1, specs.OpLessEqual, 1)),
			}},
		{"of both kinds of equality the first rule counts, if their upper halves are equal; ours is the greater value",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{3}, allow, trap, []specs.LinuxSyscall{
				rule("openat2", specs.ActTrap, arg(0, specs.OpMaskedEqual, 1<<31)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpEqualTo, 3)),
			}},
		{"of inequalities the first rule counts, but only for large arguments",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{1 << 32}, allow, trap, []specs.LinuxSyscall{
				rule("openat2", specs.ActTrap, arg(0, specs.OpNotEqual, 240)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpNotEqual, math.MaxUint32)),
			}},
		{"a range takes the place of the one that it completes",
			unix.AUDIT_ARCH_I386, 437, [6]uint64{math.MaxUint32}, allow, trap, []specs.LinuxSyscall{
				rule("openat2", specs.ActTrap, arg(0, specs.OpLessThan, 0)),
				rule("openat2", specs.ActTrap, arg(0, specs.OpGreaterEqual, 0)),
				rule("openat2", specs.ActAllow, arg(0, specs.OpGreaterEqual, 1<<31)),
			}},
		{"rules contradict each other if their upper halves do",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{3, 0, 240}, trap, refused, []specs.LinuxSyscall{
				rule("openat2", specs.ActAllow, arg(0, specs.OpGreaterEqual, 2), arg(2, specs.OpEqualTo, 240)),
				rule("openat2", specs.ActTrap, arg(0, specs.OpGreaterThan, 2)),
			}},
		{"rules contradict each other, though a later one takes the place of both",
			unix.AUDIT_ARCH_X86_64, 437, [6]uint64{1}, allow, refused, []specs.LinuxSyscall{
				rule("openat2", specs.ActAllow, arg(0, specs.OpEqualTo, 1)),
				rule("openat2", specs.ActTrap, arg(0, specs.OpEqualTo, 1)),
				rule("openat2", specs.ActAllow),
			}},
		{"the rule for send is implied by the one for socketcall and does not contradict the last one",
			unix.AUDIT_ARCH_I386, 102, [6]uint64{9, 1}, refused, allow, []specs.LinuxSyscall{
				rule("getpid", specs.ActTrap),
				rule("socketcall", specs.ActAllow, arg(1, specs.OpEqualTo, 1)),
				rule("send", specs.ActAllow, arg(1, specs.OpEqualTo, 1)),
				rule("send", specs.ActTrap),
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: test.rules}
			native := specs.ArchX86_64
			if test.audit == unix.AUDIT_ARCH_AARCH64 {
				native = specs.ArchAARCH64
			}
			c := call{test.audit, test.nr, test.args}
			ours, theirs := uint32(refused), uint32(refused)
			if f, err := compileFor(native, p); err == nil {
				ours = machine(t, f.Program)(c)
			}
			if program, err := l.program(t, p, native); err == nil {
				theirs = machine(t, program)(c)
			}
			switch {
			case ours != test.ours:
				t.Errorf("%#x, want %#x", ours, test.ours)
			case theirs == test.ours:
				t.Log("not so with this libseccomp")
			case theirs != test.theirs:
				t.Errorf("libseccomp %#x, where the table has %#x", theirs, test.theirs)
			}
		})
	}
}

// TestTable compares syscalls.txt with what libseccomp knows.
func TestTable(t *testing.T) {
	l := startLibrary(t)
	for column, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchRISCV64} {
		bit := 0
		if arch == specs.ArchX32 {
			bit = 1 << 30
		}
		for name, fields := range lines {
			theirs, err := strconv.Atoi(l.ask(t, fmt.Sprintf("number %d %s\n", scmpArch[arch], name)))
			if err != nil {
				t.Fatal(err)
			}
			ours, err := strconv.Atoi(fields[column+1])
			if theirs >= 0 && (err != nil || ours|bit != theirs) {
				t.Errorf("%s: %s is %s, libseccomp %d", arch, name, fields[column+1], theirs)
			}
		}
		for nr := range 600 {
			name := l.ask(t, fmt.Sprintf("name %d %d\n", scmpArch[arch], nr|bit))
			if fields := lines[name]; name != "-" && (fields == nil || fields[column+1] != strconv.Itoa(nr)) {
				t.Errorf("%s: libseccomp has %s, %d", arch, name, nr)
			}
		}
	}
}
