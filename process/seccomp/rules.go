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

// alternativesOf returns the conditions that a rule's arguments are. There is
// one alternative, unless two conditions are about the same argument.
func alternativesOf(args []specs.LinuxSeccompArg) ([][]condition, error) {
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
	if split {
		return slices.Collect(slices.Chunk(all, 1)), nil
	}
	slices.SortFunc(all, func(a, b condition) int { return cmp.Compare(a.arg, b.arg) })
	return [][]condition{all}, nil
}

// The calls of x86 that stand for many, the one meant being the first argument.
const (
	nrSocketcall = 102
	nrIPC        = 117
)

// enter adds a rule for a call, once for each alternative; with none of them,
// the call is only noted to be known.
func (t *table) enter(call line, alternatives [][]condition, action uint32, index int) {
	if nr, ok := call.number(t.column); ok {
		if nr |= t.bit; t.first <= nr && nr <= t.last {
			t.add(nr, nil, alternatives, action, index)
		}
	}
	if t.name != specs.ArchX86 {
		return
	}
	if n, ok := call.number(colSocketcall); ok {
		t.add(nrSocketcall, &condition{0, specs.OpEqualTo, math.MaxUint32, uint64(n)}, alternatives, action, index)
	}
	if n, ok := call.number(colIPC); ok {
		t.add(nrIPC, &condition{0, specs.OpEqualTo, math.MaxUint32, uint64(n)}, alternatives, action, index)
	}
}

// add enters a rule by number. The condition first, if given, takes the place
// of one about the first argument.
func (t *table) add(nr uint32, first *condition, alternatives [][]condition, action uint32, index int) {
	t.newest = max(t.newest, nr)
	for n := nr - t.first; n >= uint32(len(t.entries)); {
		t.entries = append(t.entries, make([]entry, 512)...)
	}
	e := &t.entries[nr-t.first]
	for _, conditions := range alternatives {
		conditions = t.cut(conditions)
		if first != nil {
			if len(conditions) > 0 && conditions[0].arg == 0 {
				conditions = conditions[1:]
			}
			conditions = slices.Insert(conditions, 0, *first)
		}
		switch {
		case e.always:
		case len(conditions) == 0:
			e.always, e.action = true, action
		default:
			e.rules = append(e.rules, rule{conditions, action, index})
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
	slices.SortStableFunc(kept, precedence)
	return kept, nil
}

// precedence is the order in which libseccomp's trees of comparisons are
// walked. It knows which condition is narrower, if they are about the same
// argument: equality before ranges, and of two ranges the one inside the other.
func precedence(a, b rule) int {
	for i := range min(len(a.conditions), len(b.conditions)) {
		a, b := a.conditions[i], b.conditions[i]
		if order := cmp.Or(cmp.Compare(b.arg, a.arg), cmp.Compare(rank(a.op), rank(b.op))); order != 0 {
			return order
		}
		if a.value != b.value {
			if rank(a.op) == 1 {
				return cmp.Compare(a.value, b.value)
			}
			return cmp.Compare(b.value, a.value)
		}
	}
	return 0
}

func rank(op specs.LinuxSeccompOperator) int {
	switch op {
	case specs.OpLessThan, specs.OpLessEqual:
		return 1
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		return 2
	}
	return 0
}
