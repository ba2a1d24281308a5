package seccomp

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is struct seccomp_data, less the instruction pointer.
type call struct {
	Audit, Nr uint32
	Args      [6]uint64
}

// machine executes the programs of filters.
func machine(t testing.TB, program []byte) func(call) uint32 {
	t.Helper()
	var code []bpf.RawInstruction
	for len(program) > 0 {
		code = append(code, bpf.RawInstruction{
			Op: binary.LittleEndian.Uint16(program), Jt: program[2], Jf: program[3],
			K: binary.LittleEndian.Uint32(program[4:]),
		})
		program = program[8:]
	}
	instructions, ok := bpf.Disassemble(code)
	if !ok {
		t.Fatalf("not a program: %v", instructions)
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	var data [64]byte
	return func(c call) uint32 {
		// The words in the order of a little endian machine, each of them in the
		// order of the network, which is how this machine loads them.
		binary.BigEndian.PutUint32(data[0:], c.Nr)
		binary.BigEndian.PutUint32(data[4:], c.Audit)
		for i, arg := range c.Args {
			binary.BigEndian.PutUint32(data[16+8*i:], uint32(arg))
			binary.BigEndian.PutUint32(data[20+8*i:], uint32(arg>>32))
		}
		action, err := vm.Run(data[:])
		if err != nil {
			t.Fatal(err)
		}
		return uint32(action)
	}
}

// What follows evaluates a profile by its meaning, one call at a time. Of the
// package it takes nothing but syscalls.txt.

// abi is who makes a call.
type abi struct {
	name    specs.Arch
	column  int    // of syscalls.txt
	all     uint64 // the bits of an argument
	private bool   // arm's own calls, not those that all architectures have
}

func abiOf(native specs.Arch, audit, nr uint32) abi {
	switch {
	case native == specs.ArchX86_64 && audit == unix.AUDIT_ARCH_X86_64 && nr < 1<<30:
		return abi{specs.ArchX86_64, 1, math.MaxUint64, false}
	case native == specs.ArchX86_64 && audit == unix.AUDIT_ARCH_X86_64:
		return abi{specs.ArchX32, 3, math.MaxUint32, false}
	case native == specs.ArchX86_64 && audit == unix.AUDIT_ARCH_I386:
		return abi{specs.ArchX86, 2, math.MaxUint32, false}
	case native == specs.ArchAARCH64 && audit == unix.AUDIT_ARCH_AARCH64:
		return abi{specs.ArchAARCH64, 4, math.MaxUint64, false}
	case native == specs.ArchAARCH64 && audit == unix.AUDIT_ARCH_ARM:
		return abi{specs.ArchARM, 5, math.MaxUint32, nr >= 0xf0000}
	case native == specs.ArchRISCV64 && audit == unix.AUDIT_ARCH_RISCV64:
		return abi{specs.ArchRISCV64, 6, math.MaxUint64, false}
	case native == specs.ArchLOONGARCH64 && audit == unix.AUDIT_ARCH_LOONGARCH64:
		return abi{specs.ArchLOONGARCH64, 7, math.MaxUint64, false}
	}
	return abi{}
}

// lines of syscalls.txt, by name.
var lines = func() map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(syscalls) {
		fields := strings.Fields(line)
		m[fields[0]] = fields
	}
	return m
}()

// numbers returns the numbers that a call can have, and for each of them what
// its first argument then is, if that is given.
func (a abi) numbers(name string) map[uint32]string {
	fields, ok := lines[name]
	if !ok {
		return nil
	}
	numbers := map[uint32]string{}
	if n, err := strconv.ParseUint(fields[a.column], 10, 32); err == nil {
		nr := uint32(n)
		if a.name == specs.ArchX32 {
			nr += 1 << 30
		}
		if a.private == (nr >= 0xf0000 && nr < 1<<30) {
			numbers[nr] = ""
		}
	}
	if a.name == specs.ArchX86 && fields[8] != "-" {
		numbers[102] = fields[8]
	}
	if a.name == specs.ArchX86 && fields[9] != "-" {
		numbers[117] = fields[9]
	}
	return numbers
}

var actionValues = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x30000,
	specs.ActErrno: 0x50001, specs.ActTrace: 0x7ff00001, specs.ActAllow: 0x7fff0000, specs.ActLog: 0x7ffc0000,
	specs.ActNotify: 0x7fc00000,
}

func actionValue(a specs.LinuxSeccompAction, errno *uint) uint32 {
	if errno != nil {
		return actionValues[a]&^0xffff | uint32(*errno)
	}
	return actionValues[a]
}

// meaning is a profile, and the rules of each number of each abi.
type meaning struct {
	*specs.LinuxSeccomp
	native specs.Arch
	def    uint32
	rules  map[abi]map[uint32][]alternative
}

type alternative struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

func meaningOf(p *specs.LinuxSeccomp, native specs.Arch) *meaning {
	m := &meaning{p, native, actionValue(p.DefaultAction, p.DefaultErrnoRet), map[abi]map[uint32][]alternative{}}
	for _, audit := range audits {
		for _, nr := range []uint32{0, 1 << 30, 0xf0000} {
			a := abiOf(native, audit, nr)
			m.rules[a] = map[uint32][]alternative{}
			for _, s := range p.Syscalls {
				for _, name := range s.Names {
					for nr, first := range a.numbers(name) {
						m.add(a, nr, first, s)
					}
				}
			}
		}
	}
	return m
}

var audits = []uint32{
	unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM,
	unix.AUDIT_ARCH_RISCV64, unix.AUDIT_ARCH_LOONGARCH64, 0,
}

func (m *meaning) add(a abi, nr uint32, first string, s specs.LinuxSyscall) {
	rules := m.rules[a][nr]
	alternatives := [][]specs.LinuxSeccompArg{s.Args}
	indices := map[uint]bool{}
	for _, arg := range s.Args {
		indices[arg.Index] = true
	}
	if len(indices) < len(s.Args) {
		alternatives = slices.Collect(slices.Chunk(s.Args, 1))
	}
	for _, args := range alternatives {
		args = slices.DeleteFunc(slices.Clone(args), func(arg specs.LinuxSeccompArg) bool {
			return first != "" && arg.Index == 0 || arg.Op == specs.OpMaskedEqual && arg.Value&a.all == 0
		})
		if first != "" {
			n, _ := strconv.ParseUint(first, 10, 64)
			args = append(args, specs.LinuxSeccompArg{Index: 0, Value: n, Op: specs.OpEqualTo})
		}
		slices.SortFunc(args, func(x, y specs.LinuxSeccompArg) int { return cmp.Compare(x.Index, y.Index) })
		if action := actionValue(s.Action, s.ErrnoRet); action != m.def {
			rules = append(rules, alternative{args, action})
		}
	}
	m.rules[a][nr] = rules // there, even if it has none
}

// action returns what is to become of a call.
func (m *meaning) action(c call) uint32 {
	a := abiOf(m.native, c.Audit, c.Nr)
	listed := a.name == m.native || slices.Contains(m.Architectures, a.name)
	switch {
	case a.name == specs.ArchX32 && !listed && c.Nr == math.MaxUint32:
		return m.def
	case a.name == "" || !listed:
		return 0
	case m.newer(a, c.Nr):
		return 0x50000 | uint32(unix.ENOSYS)
	}
	return m.ruled(a, c)
}

// newer says whether a call is newer than all that the profile names.
func (m *meaning) newer(a abi, nr uint32) bool {
	switch m.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return false
	}
	newest := uint32(0)
	for n := range m.rules[a] {
		newest = max(newest, n)
	}
	return newest > 0 && nr > newest
}

// ruled returns what the rules say about a call.
func (m *meaning) ruled(a abi, c call) uint32 {
	rules := m.rules[a][c.Nr]
	for _, r := range rules {
		if len(r.args) == 0 {
			return r.action
		}
	}
	var best *alternative
	for i, r := range rules {
		shadowed := slices.ContainsFunc(rules[:i], func(earlier alternative) bool {
			n := len(earlier.args)
			return n < len(r.args) && slices.EqualFunc(earlier.args, r.args[:n], a.same)
		})
		if !shadowed && a.holds(r.args, c) && (best == nil || a.before(r.args, best.args)) {
			best = &rules[i]
		}
	}
	if best == nil {
		return m.def
	}
	return best.action
}

// operands returns the mask and the value of a comparison.
func (a abi) operands(arg specs.LinuxSeccompArg) (mask, value uint64) {
	if arg.Op == specs.OpMaskedEqual {
		return arg.Value & a.all, arg.Value & arg.ValueTwo & a.all
	}
	return a.all, arg.Value & a.all
}

func (a abi) same(x, y specs.LinuxSeccompArg) bool {
	xm, xv := a.operands(x)
	ym, yv := a.operands(y)
	return x.Index == y.Index && x.Op == y.Op && xm == ym && xv == yv
}

func (a abi) holds(args []specs.LinuxSeccompArg, c call) bool {
	for _, arg := range args {
		mask, want := a.operands(arg)
		have := c.Args[arg.Index] & mask
		ok := false
		switch arg.Op {
		case specs.OpEqualTo, specs.OpMaskedEqual:
			ok = have == want
		case specs.OpNotEqual:
			ok = have != want
		case specs.OpGreaterEqual:
			ok = have >= want
		case specs.OpGreaterThan:
			ok = have > want
		case specs.OpLessEqual:
			ok = have <= want
		case specs.OpLessThan:
			ok = have < want
		}
		if !ok {
			return false
		}
	}
	return true
}

// before says whether the conditions x are tried before y: those on a later
// argument, then equalities, then upper and then lower bounds, then by the value.
func (a abi) before(x, y []specs.LinuxSeccompArg) bool {
	key := func(args []specs.LinuxSeccompArg) (k []uint64) {
		for _, arg := range args {
			mask, value := a.operands(arg)
			place := map[specs.LinuxSeccompOperator][3]uint64{
				specs.OpEqualTo:      {0, ^value, 0},
				specs.OpMaskedEqual:  {0, ^value, 1},
				specs.OpNotEqual:     {0, ^value, 2},
				specs.OpLessThan:     {1, value, 0},
				specs.OpLessEqual:    {1, value, 1},
				specs.OpGreaterThan:  {2, ^value, 0},
				specs.OpGreaterEqual: {2, ^value, 1},
			}[arg.Op]
			k = append(k, uint64(5-arg.Index), place[0], place[1], place[2], ^mask)
		}
		return k
	}
	return slices.Compare(key(x), key(y)) < 0
}

// calls are those worth trying on a filter: every number, and around each
// condition of the profile every argument that could be told apart.
func (m *meaning) calls(try func(call)) {
	nrs := []uint32{1 << 29, 1<<30 - 1, 1<<31 - 1, 1 << 31, 3 << 30, math.MaxUint32 - 1, math.MaxUint32}
	for nr := range uint32(601) {
		nrs = append(nrs, nr, 1<<30+nr)
	}
	for nr := range uint32(16) {
		nrs = append(nrs, 0xeffff+nr)
	}
	for _, audit := range audits {
		for _, nr := range nrs {
			try(call{Audit: audit, Nr: nr})
		}
	}
	conditions := map[call][]specs.LinuxSeccompArg{}
	for _, s := range m.Syscalls {
		for _, name := range s.Names {
			for a := range m.rules {
				for nr := range a.numbers(name) {
					for _, audit := range audits {
						if abiOf(m.native, audit, nr) == a {
							c := call{Audit: audit, Nr: nr}
							conditions[c] = append(conditions[c], s.Args...)
						}
					}
				}
			}
		}
	}
	for c, args := range conditions {
		for c.Args = range arguments(args) {
			try(c)
		}
	}
}

// arguments yields what is at the border of conditions: all combinations, or
// two thousand of them.
func arguments(conditions []specs.LinuxSeccompArg) iter.Seq[[6]uint64] {
	var values [6][]uint64
	for _, c := range conditions {
		for _, v := range []uint64{c.Value, c.ValueTwo, c.Value & c.ValueTwo} {
			values[c.Index] = append(values[c.Index], v-1, v, v+1, v^1<<32, v|1<<63, v&math.MaxUint32)
		}
		values[c.Index] = append(values[c.Index], 0, 1, 20, math.MaxUint32, math.MaxUint64)
	}
	combinations := 1.0
	for i := range values {
		values[i] = append(values[i], 0)
		slices.Sort(values[i])
		values[i] = slices.Compact(values[i])
		combinations *= float64(len(values[i]))
	}
	random := rand.New(rand.NewPCG(5, 6))
	return func(yield func([6]uint64) bool) {
		for n := range int(min(combinations, 2000)) {
			var args [6]uint64
			for i, v := range values {
				if combinations > 2000 {
					args[i] = v[random.IntN(len(v))]
				} else {
					args[i] = v[n%len(v)]
					n /= len(v)
				}
			}
			if !yield(args) {
				return
			}
		}
	}
}

// profiles are the ones of testdata, with the architecture they are for.
func profiles(t testing.TB) map[string]*specs.LinuxSeccomp {
	t.Helper()
	files, err := filepath.Glob("testdata/profiles/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("testdata/profiles is empty", err)
	}
	all := map[string]*specs.LinuxSeccomp{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := &specs.LinuxSeccomp{}
		if err := json.Unmarshal(text, p); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = p
	}
	return all
}

func nativeOf(profile string) specs.Arch {
	if strings.HasSuffix(profile, "aarch64") {
		return specs.ArchAARCH64
	}
	return specs.ArchX86_64
}
