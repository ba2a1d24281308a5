package seccomp

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// table is what the profile says about the system calls of one architecture.
type table struct {
	arch
	entries []entry // by number, less the first
	newest  uint32  // of the calls that the profile names, whatever their rules
}

// entry is what it says about one call: what the first unconditional rule does,
// or the conditional rules.
type entry struct {
	always bool
	action uint32
	rules  []rule
}

type rule struct {
	conditions []condition
	action     uint32
	index      int // in the profile
}

// condition compares (argument & mask) with value. There is at most one for an
// argument in a rule, and they are in the order of the arguments.
type condition struct {
	arg         uint
	op          specs.LinuxSeccompOperator
	mask, value uint64
}

const lastArg = 5

// rulesOf reads the arguments of the profile's rule number index. It is one
// rule, unless two conditions are about the same argument.
func rulesOf(args []specs.LinuxSeccompArg, action uint32, index int) ([]rule, error) {
	var all []condition
	var seen [lastArg + 1]bool
	split := false
	for i, a := range args {
		if a.Index > lastArg {
			return nil, fmt.Errorf(".args[%d].index: %d, the last argument is %d", i, a.Index, lastArg)
		}
		if !slices.Contains(operators, a.Op) {
			return nil, fmt.Errorf(".args[%d].op: %q is not an operator", i, a.Op)
		}
		c := condition{a.Index, a.Op, math.MaxUint64, a.Value}
		if a.Op == specs.OpMaskedEqual {
			c.mask, c.value = a.Value, a.ValueTwo
		}
		all = append(all, c)
		split = split || seen[a.Index]
		seen[a.Index] = true
	}
	if !split {
		slices.SortFunc(all, func(a, b condition) int { return cmp.Compare(a.arg, b.arg) })
		return []rule{{all, action, index}}, nil
	}
	var rules []rule
	for c := range slices.Chunk(all, 1) {
		rules = append(rules, rule{c, action, index})
	}
	return rules, nil
}

// The calls of x86 that stand for many: their first argument says for which.
const (
	nrSocketcall = 102
	nrIPC        = 117
)

// enter adds rules for a call; without any, the call is only known from then on.
func (t *table) enter(call line, rules []rule) {
	if nr, ok := call.number(t.column); ok {
		if nr |= t.bit; t.first <= nr && nr <= t.last {
			t.add(nr, rules)
		}
	}
	if t.name != specs.ArchX86 {
		return
	}
	if n, ok := call.number(colSocketcall); ok {
		t.add(nrSocketcall, within(n, rules))
	}
	if n, ok := call.number(colIPC); ok {
		t.add(nrIPC, within(n, rules))
	}
}

// within returns the rules for a call that has n as the first argument, and its
// own arguments in memory. It is libseccomp's doing, not ours, that conditions
// on the others stay.
func within(n uint32, rules []rule) []rule {
	var all []rule
	for _, r := range rules {
		conditions := []condition{{0, specs.OpEqualTo, math.MaxUint64, uint64(n)}}
		for _, c := range r.conditions {
			if c.arg > 0 {
				conditions = append(conditions, c)
			}
		}
		r.conditions = conditions
		all = append(all, r)
	}
	return all
}

func (t *table) add(nr uint32, rules []rule) {
	t.newest = max(t.newest, nr)
	n := int(nr - t.first)
	if n >= len(t.entries) {
		t.entries = append(t.entries, make([]entry, n+512)...)
	}
	e := &t.entries[n]
	for _, r := range rules {
		r.conditions = t.cut(r.conditions)
		switch {
		case e.always:
		case len(r.conditions) == 0:
			e.always, e.action = true, r.action
		default:
			e.rules = append(e.rules, r)
		}
	}
}

// cut reduces conditions to the bits that the architecture compares, and leaves
// out those without any.
func (t *table) cut(conditions []condition) []condition {
	var cut []condition
	for _, c := range conditions {
		if !t.wide {
			c.mask &= math.MaxUint32
		}
		c.value &= c.mask
		if c.mask != 0 {
			cut = append(cut, c)
		}
	}
	return cut
}

// settle puts the conditional rules of a call in the order in which they are
// tried: the first one that holds counts.
func settle(rules []rule) ([]rule, error) {
	var kept []rule
next:
	for _, r := range rules {
		for i := 0; i < len(kept); {
			k := kept[i]
			common := min(len(k.conditions), len(r.conditions))
			if !slices.Equal(k.conditions[:common], r.conditions[:common]) {
				i++
				continue
			}
			// One of the two holds whenever the other does.
			if len(k.conditions) < len(r.conditions) {
				continue next
			}
			if k.action != r.action {
				return nil, fmt.Errorf(".syscalls[%d]: contradicts linux.seccomp.syscalls[%d]", r.index, k.index)
			}
			kept = slices.Delete(kept, i, i+1)
		}
		kept = append(kept, r)
	}
	slices.SortFunc(kept, precedence)
	return kept, nil
}

// precedence is the order in which libseccomp's trees of comparisons are
// walked. Of two conditions on the same argument the narrower one comes first,
// as far as that is known without looking at both: equality before ranges, the
// inner range before the outer one.
func precedence(a, b rule) int {
	for i := range min(len(a.conditions), len(b.conditions)) {
		a, b := a.conditions[i], b.conditions[i]
		aClass, aPlace := rank(a.op)
		bClass, bPlace := rank(b.op)
		values := cmp.Compare(b.value, a.value)
		if aClass == upperBound {
			values = -values
		}
		if order := cmp.Or(cmp.Compare(b.arg, a.arg), cmp.Compare(aClass, bClass), values,
			cmp.Compare(aPlace, bPlace), cmp.Compare(b.mask, a.mask)); order != 0 {
			return order
		}
	}
	return 0
}

const (
	equality = iota
	upperBound
	lowerBound
)

// rank returns the class of an operator, and its place among those of the class
// for the same value.
func rank(op specs.LinuxSeccompOperator) (class, place int) {
	switch op {
	case specs.OpEqualTo:
		return equality, 0
	case specs.OpMaskedEqual:
		return equality, 1
	case specs.OpNotEqual:
		return equality, 2
	case specs.OpLessThan:
		return upperBound, 0
	case specs.OpLessEqual:
		return upperBound, 1
	case specs.OpGreaterThan:
		return lowerBound, 0
	default: // OpGreaterEqual
		return lowerBound, 1
	}
}
