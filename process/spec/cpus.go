package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The most CPUs and NUMA nodes that Linux can be built for, NR_CPUS of x86 and
// MAX_NUMNODES.
const (
	MaxCPUs  = 8192
	MaxNodes = 1024
)

// wordSize is how many bytes a word of the kernel's masks has.
const wordSize = 8

// CPUs is a list of CPUs as sched_setaffinity(2) takes it. The list is one that
// was checked.
func CPUs(list string) []byte {
	mask, _ := ParseList(list, MaxCPUs)
	return mask
}

// EveryCPU is the mask of all CPUs that there can be.
func EveryCPU() []byte {
	mask := make([]byte, MaxCPUs/8)
	for i := range mask {
		mask[i] = 0xff
	}
	return mask
}

// ParseList reads a list of numbers below limit, like "0-3,7" (cpuset(7), "List
// format"), into a mask of whole 64-bit words, of which bit n stands for n. As in
// the kernel, there may be commas too many.
func ParseList(list string, limit int) ([]byte, error) {
	var mask []byte
	for part := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(strings.TrimSpace(first), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q in %q is not a number", first, list)
		}
		to, err := strconv.ParseUint(strings.TrimSpace(last), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q in %q is not a number", last, list)
		}
		if from > to || to >= uint64(limit) {
			return nil, fmt.Errorf("%q in %q is not a range below %d", part, list, limit)
		}
		for n := from; n <= to; n++ {
			for uint64(len(mask)) <= n/8 {
				mask = append(mask, make([]byte, wordSize)...)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	if mask == nil {
		return nil, fmt.Errorf("%q has no number", list)
	}
	return mask, nil
}

func checkAffinity(a *specs.CPUAffinity, field string) error {
	if a == nil {
		return nil
	}
	for _, list := range []struct{ name, value string }{{"initial", a.Initial}, {"final", a.Final}} {
		if list.value == "" {
			continue
		}
		if _, err := ParseList(list.value, MaxCPUs); err != nil {
			return Invalid(field+"."+list.name, "%v", err)
		}
	}
	return nil
}

// memoryModes and memoryFlags are those of set_mempolicy(2).
var (
	memoryModes = map[specs.MemoryPolicyModeType]uint32{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3,
		specs.MpolLocal: 4, specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}
	memoryFlags = map[specs.MemoryPolicyFlagType]uint32{
		specs.MpolFNumaBalancing: 1 << 13, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFStaticNodes: 1 << 15,
	}
)

// MemoryPolicy is a policy that was checked, as set_mempolicy(2) takes it: the
// mode with its flags, and the mask of the nodes.
func MemoryPolicy(p *specs.LinuxMemoryPolicy) (mode uint32, nodes []byte) {
	mode = memoryModes[p.Mode]
	for _, f := range p.Flags {
		mode |= memoryFlags[f]
	}
	if p.Nodes != "" {
		nodes, _ = ParseList(p.Nodes, MaxNodes)
	}
	return mode, nodes
}

// MemoryPolicyNames are the modes and flags that there are.
func MemoryPolicyNames() (modes, flags []string) {
	for name := range memoryModes {
		modes = append(modes, string(name))
	}
	for name := range memoryFlags {
		flags = append(flags, string(name))
	}
	slices.Sort(modes)
	slices.Sort(flags)
	return modes, flags
}

func checkMemoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	if _, ok := memoryModes[p.Mode]; !ok {
		return Invalid("linux.memoryPolicy.mode", "there is no mode %q", p.Mode)
	}
	for i, f := range p.Flags {
		if _, ok := memoryFlags[f]; !ok {
			return Invalid(fmt.Sprintf("linux.memoryPolicy.flags[%d]", i), "there is no flag %q", f)
		}
	}
	if p.Nodes == "" {
		return nil
	}
	if _, err := ParseList(p.Nodes, MaxNodes); err != nil {
		return Invalid("linux.memoryPolicy.nodes", "%v", err)
	}
	return nil
}
