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
	rules  map[uint32][]rule // by number, in the profile's order
	newest uint32            // of the calls that the profile names, whatever their rules
}

type rule struct {
	conditions []condition
	action     uint32
	field      string // of the profile, for errors
}

// condition compares (argument & mask) with value. There is at most one for an
// argument in a rule, and they are in the order of the arguments.
type condition struct {
	arg         uint
	op          specs.LinuxSeccompOperator
	mask, value uint64
}

const lastArg = 5

// conditionsOf returns the alternatives that a rule's arguments are: one,
// unless two conditions are about the same argument.
func conditionsOf(args []specs.LinuxSeccompArg, field string) ([][]condition, error) {
	var all []condition
	var seen [lastArg + 1]bool
	split := false
	for i, a := range args {
		if a.Index > lastArg {
			return nil, invalid(fmt.Sprintf("%s.args[%d].index", field, i), "%d, the last argument is %d", a.Index, lastArg)
		}
		if !slices.Contains(operators, a.Op) {
			return nil, invalid(fmt.Sprintf("%s.args[%d].op", field, i), "%q is not an operator", a.Op)
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

// enter adds the rules for a call, one for each alternative; none if the call
// is only to be known.
func (t *table) enter(call numbers, alternatives [][]condition, action uint32, field string) {
	if n := call[t.column]; n >= 0 {
		if nr := uint32(n) | t.bit; t.first <= nr && nr <= t.last {
			t.newest = max(t.newest, nr)
			for _, conditions := range alternatives {
				t.rules[nr] = append(t.rules[nr], rule{t.cut(conditions), action, field})
			}
		}
	}
	if t.name != specs.ArchX86 {
		return
	}
	for _, mux := range []struct {
		nr uint32
		n  int // of the call, in the first argument
	}{{102, call[colSocketcall]}, {117, call[colIPC]}} {
		if mux.n < 0 {
			continue
		}
		t.newest = max(t.newest, mux.nr)
		for _, conditions := range alternatives {
			conditions = t.cut(conditions)
			if len(conditions) > 0 && conditions[0].arg == 0 {
				conditions = conditions[1:]
			}
			first := condition{0, specs.OpEqualTo, math.MaxUint32, uint64(mux.n)}
			t.rules[mux.nr] = append(t.rules[mux.nr], rule{slices.Insert(conditions, 0, first), action, field})
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

// settle decides between the rules of one system call: what it returns does not
// contradict itself, and the first one that holds counts.
func settle(rules []rule) ([]rule, error) {
	for _, r := range rules {
		if len(r.conditions) == 0 {
			return []rule{r}, nil
		}
	}
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
				return nil, invalid(r.field, "contradicts %s", k.field)
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
