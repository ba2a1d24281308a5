package seccomp

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// program is written from its end to its start: jumps only lead forward, so
// what a jump leads to is there before it is, and it is known how far that is.
type program struct {
	code    []unix.SockFilter // the last instruction first
	returns map[uint32]int    // where in code an action was returned last
}

// target is where a comparison leads to.
type target struct {
	action uint32
	at     int // in code, or returned if the target is an action
}

const returned = -1

func returns(action uint32) target { return target{action, returned} }

// assemble writes the program for the tables, backwards; def is the default
// action.
func assemble(tables []*table, def uint32) ([]unix.SockFilter, error) {
	p := &program{returns: map[uint32]int{}}
	entry := returns(unix.SECCOMP_RET_KILL_THREAD) // what is not in the tables
	for len(tables) > 0 {
		audit := tables[len(tables)-1].audit
		first := slices.IndexFunc(tables, func(t *table) bool { return t.audit == audit })
		var numbers spans
		for _, t := range tables[first:] {
			if err := p.table(&numbers, t, def); err != nil {
				return nil, err
			}
		}
		if tables[first].name == specs.ArchX86_64 && len(tables[first:]) == 1 {
			// x32 is not in the tables. The last number is none of its calls: it is
			// what a tracer puts there to have a call skipped.
			numbers.add(x32Bit, returns(unix.SECCOMP_RET_KILL_THREAD))
			numbers.add(math.MaxUint32, returns(def))
		}
		entry = p.branch(unix.BPF_JEQ, audit, p.choose(offsetNr, numbers), entry)
		tables = tables[:first]
	}
	p.load(offsetArch)
	return p.code, nil
}

// encode turns a program over, into what the kernel reads.
func encode(code []unix.SockFilter) []byte {
	var b []byte
	for _, in := range slices.Backward(code) {
		b = binary.NativeEndian.AppendUint16(b, in.Code)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return b
}

// table adds to numbers where the calls of one architecture lead to.
func (p *program) table(numbers *spans, t *table, def uint32) error {
	numbers.add(t.first, returns(def))
	for n, e := range t.entries {
		to := returns(e.action)
		if !e.always {
			if e.rules == nil {
				continue
			}
			rules, err := settle(e.rules)
			if err != nil {
				return err
			}
			to = p.rules(rules, t.wide, returns(def))
		}
		numbers.put(t.first+uint32(n), to, returns(def))
	}
	switch def & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		// New calls work, or a tracer takes care of them.
	default:
		if t.newest > 0 {
			numbers.add(t.newest+1, returns(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
		}
	}
	return nil
}

// rules leads to the action of the first rule that holds.
func (p *program) rules(rules []rule, wide bool, otherwise target) target {
	for len(rules) > 0 {
		n := len(rules) - 1
		// Equalities of one argument are found by bisection, as the numbers are.
		var values []match
		for n >= 0 && len(rules[n].conditions) == 1 && rules[n].conditions[0].op == specs.OpEqualTo &&
			rules[n].conditions[0].arg == rules[len(rules)-1].conditions[0].arg {
			values = append(values, match{rules[n].conditions[0].value, returns(rules[n].action)})
			n--
		}
		if len(values) > 0 {
			otherwise = p.equal(rules[len(rules)-1].conditions[0].arg, wide, values, otherwise)
			rules = rules[:n+1]
			continue
		}
		holds := returns(rules[n].action)
		for _, c := range slices.Backward(rules[n].conditions) {
			holds = p.condition(c, wide, holds, otherwise)
		}
		otherwise = holds
		rules = rules[:n]
	}
	return otherwise
}

// condition compares an argument.
func (p *program) condition(c condition, wide bool, yes, no target) target {
	lo, hi := uint32(c.value), uint32(c.value>>32)
	switch c.op {
	case specs.OpNotEqual:
		return p.equal(c.arg, wide, []match{{c.value, no}}, yes)
	case specs.OpEqualTo:
		return p.equal(c.arg, wide, []match{{c.value, yes}}, no)
	case specs.OpMaskedEqual:
		yes = p.masked(low(c.arg), uint32(c.mask), lo, yes, no)
		return p.masked(high(c.arg), uint32(c.mask>>32), hi, yes, no)
	case specs.OpLessThan, specs.OpLessEqual:
		yes, no = no, yes
	}
	op := uint16(unix.BPF_JGT)
	if c.op == specs.OpGreaterEqual || c.op == specs.OpLessThan {
		op = unix.BPF_JGE
	}
	p.branch(op, lo, yes, no)
	at := p.load(low(c.arg))
	if wide {
		at = p.branch(unix.BPF_JEQ, hi, at, no)
		p.branch(unix.BPF_JGT, hi, yes, at)
		at = p.load(high(c.arg))
	}
	return at
}

// masked compares those bits of a word that are in the mask.
func (p *program) masked(offset, mask, value uint32, yes, no target) target {
	if mask == 0 {
		return yes
	}
	p.branch(unix.BPF_JEQ, value, yes, no)
	if mask != math.MaxUint32 {
		p.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0)
	}
	return p.load(offset)
}

// match is a value of an argument, and where it leads to.
type match struct {
	value uint64
	to    target
}

// equal looks an argument up among values, which ascend.
func (p *program) equal(arg uint, wide bool, values []match, otherwise target) target {
	his := spans{{0, otherwise}}
	for len(values) > 0 {
		hi := uint32(values[0].value >> 32)
		los := spans{{0, otherwise}}
		for len(values) > 0 && uint32(values[0].value>>32) == hi {
			los.put(uint32(values[0].value), values[0].to, otherwise)
			values = values[1:]
		}
		his.put(hi, p.choose(low(arg), los), otherwise)
	}
	if !wide {
		return his[0].to // 0 is the only one
	}
	return p.choose(high(arg), his)
}

// spans say where the values of a word lead to: those from one start to the
// next lead to the same target. Starts ascend.
type spans []span

type span struct {
	start uint32
	to    target
}

// add lets all values from start on lead to a target.
func (s *spans) add(start uint32, to target) {
	n := len(*s)
	if n > 0 && (*s)[n-1].start == start {
		n--
	}
	if *s = (*s)[:n]; n == 0 || (*s)[n-1].to != to {
		*s = append(*s, span{start, to})
	}
}

// put lets one value lead to a target, those after it somewhere else.
func (s *spans) put(value uint32, to, after target) {
	s.add(value, to)
	if value < math.MaxUint32 {
		s.add(value+1, after)
	}
}

// The words of struct seccomp_data, on a little endian machine.
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

func low(arg uint) uint32  { return offsetArgs + 8*uint32(arg) }
func high(arg uint) uint32 { return low(arg) + 4 }

// choose looks up a word.
func (p *program) choose(offset uint32, s spans) target {
	if len(s) == 1 {
		return s[0].to
	}
	p.bisect(s)
	return p.load(offset)
}

// bisect looks up the word that was loaded.
func (p *program) bisect(s spans) target {
	if len(s) == 1 {
		return s[0].to
	}
	if len(s) == 3 && s[0].to == s[2].to && s[2].start == s[1].start+1 {
		return p.branch(unix.BPF_JEQ, s[1].start, s[1].to, s[0].to)
	}
	half := len(s) / 2
	above := p.bisect(s[half:])
	return p.branch(unix.BPF_JGE, s[half].start, above, p.bisect(s[:half]))
}

func (p *program) load(offset uint32) target {
	return p.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0)
}

// branch compares what was loaded with a value.
func (p *program) branch(op uint16, value uint32, yes, no target) target {
	jt, jf := p.near(yes), p.near(no)
	next := len(p.code) - 1
	return p.emit(unix.BPF_JMP|unix.BPF_K|op, value, uint8(next-jt), uint8(next-jf))
}

// near returns where in code a target is, as far as a comparison can jump and
// one instruction less: it may need another one for its other target.
func (p *program) near(to target) int {
	next := len(p.code) - 1
	if to.at != returned {
		if next-to.at < math.MaxUint8 {
			return to.at
		}
		return p.emit(unix.BPF_JMP|unix.BPF_JA, uint32(next-to.at), 0, 0).at
	}
	at, ok := p.returns[to.action]
	if !ok || next-at >= math.MaxUint8 {
		at = p.emit(unix.BPF_RET|unix.BPF_K, to.action, 0, 0).at
		p.returns[to.action] = at
	}
	return at
}

func (p *program) emit(code uint16, k uint32, jt, jf uint8) target {
	p.code = append(p.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return target{at: len(p.code) - 1}
}
