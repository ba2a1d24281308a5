package cgroup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Warnings are for the log: limits that are left out, as by runc, since this
// version of cgroups does not have them. Most are for v1, and containers have
// them that run with v2 as well.
func (g *Group) Warnings(r *specs.LinuxResources) []string {
	return warnings(r, Facts{V2: g.V2(), Read: g.read})
}

func warnings(r *specs.LinuxResources, f Facts) []string {
	var list []string
	ignored := func(is bool, field, why string) {
		if is {
			list = append(list, fmt.Sprintf("linux.resources.%s is ignored: %s", field, why))
		}
	}
	if r == nil {
		return nil
	}
	const none = "cgroup v2 has none"
	if m := r.Memory; m != nil {
		const obsolete = "limits of kernel memory are obsolete"
		ignored(value(m.Kernel) > 0, "memory.kernel", obsolete) //nolint:staticcheck // it may be in a spec
		ignored(value(m.KernelTCP) > 0, "memory.kernelTCP", obsolete)
		ignored(m.UseHierarchy != nil && !*m.UseHierarchy, "memory.useHierarchy", "groups below are always counted")
		ignored(f.V2 && m.Swappiness != nil && int64(*m.Swappiness) != -1, "memory.swappiness", none)
		ignored(f.V2 && value(m.DisableOOMKiller), "memory.disableOOMKiller", none)
	}
	if c := r.CPU; c != nil {
		ignored(value(c.Idle) != 0 && value(c.Shares) != 0, "cpu.shares", "what is idle has none")
		ignored(f.V2 && value(c.RealtimeRuntime) > 0, "cpu.realtimeRuntime", none)
		ignored(f.V2 && value(c.RealtimePeriod) != 0, "cpu.realtimePeriod", none)
	}
	if b := r.BlockIO; b != nil && f.V2 {
		ignored(value(b.LeafWeight) != 0, "blockIO.leafWeight", none)
		for i, d := range b.WeightDevice {
			field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
			if f.weighsDevices() {
				ignored(value(d.LeafWeight) != 0, field+".leafWeight", none)
			} else {
				ignored(value(d.Weight) != 0 || value(d.LeafWeight) != 0, field, "it needs the I/O scheduler BFQ")
			}
		}
	}
	if n := r.Network; n != nil && f.V2 {
		ignored(value(n.ClassID) != 0, "network.classID", none)
		ignored(len(n.Priorities) > 0, "network.priorities", none)
	}
	return list
}
