package cgroup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// v1 takes the controllers in runc's order.
func (p *plan) v1(r *specs.LinuxResources) {
	if len(r.Unified) > 0 {
		p.fail("unified", "these are files of cgroup v2, and this machine has v1")
		return
	}
	if r.CPU != nil {
		p.cpuset(r.CPU)
	}
	if !p.Update { // as runc: an update of the devices would undo what plugins did
		p.devicesV1(r.Devices)
	}
	if r.Memory != nil {
		p.memoryV1(r.Memory)
	}
	if r.CPU != nil {
		p.cpuV1(r.CPU)
	}
	p.pids(r.Pids)
	if r.BlockIO != nil {
		p.blkio(r.BlockIO)
	}
	p.hugetlb(r.HugepageLimits, ".limit_in_bytes")
	if r.Network != nil {
		p.network(r.Network)
	}
	p.rdma(r.Rdma)
}

// memoryV1: the limit of memory must at no time be above the one of memory and
// swap together.
func (p *plan) memoryV1(m *specs.LinuxMemory) {
	const file, swapFile = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	limit, swap := value(m.Limit), value(m.Swap)
	swapField := "memory.swap"
	if limit == -1 && swap == 0 && p.exists("memory", swapFile) {
		swap, swapField = -1, "memory.limit" // or it would still be a limit
	}
	putLimit := func() {
		if limit != 0 {
			p.limit(limit == -1, "memory", file, itoa(limit), "memory.limit")
		}
	}
	putSwap := func() {
		if swap != 0 {
			p.limit(swap == -1, "memory", swapFile, itoa(swap), swapField)
		}
	}
	if asLimit(limit) <= p.current("memory", swapFile) {
		putLimit()
		putSwap()
	} else {
		putSwap()
		putLimit()
	}
	if n := value(m.Reservation); n != 0 {
		p.limit(n == -1, "memory", "memory.soft_limit_in_bytes", itoa(n), "memory.reservation")
	}
	if m.DisableOOMKiller != nil {
		if *m.DisableOOMKiller {
			p.put("memory", "memory.oom_control", "1", "memory.disableOOMKiller")
		} else if p.Update {
			p.lift("memory", "memory.oom_control", "0", "memory.disableOOMKiller")
		}
	}
	if n := m.Swappiness; n != nil && int64(*n) != -1 {
		if *n > 100 {
			p.fail("memory.swappiness", "%d is not between 0 and 100", *n)
		} else {
			p.put("memory", "memory.swappiness", utoa(*n), "memory.swappiness")
		}
	}
}

// Limits of cpu.shares in the kernel, which would silently take the nearest.
const minShares, maxShares = 2, 1 << 18

func (p *plan) cpuV1(cpu *specs.LinuxCPU) {
	idle := cpu.Idle != nil && *cpu.Idle != 0
	putIdle := func() {
		if cpu.Idle != nil {
			p.limit(!idle, "cpu", "cpu.idle", itoa(*cpu.Idle), "cpu.idle")
		}
	}
	putIdle()
	if n := value(cpu.Shares); n != 0 && !idle { // an idle group has no weight
		switch {
		case n < minShares:
			p.fail("cpu.shares", "the minimum is %d", minShares)
		case n > maxShares:
			p.fail("cpu.shares", "the maximum is %d", maxShares)
		default:
			p.put("cpu", "cpu.shares", utoa(n), "cpu.shares")
		}
	}
	p.burst(cpu, "cpu.cfs_burst_us", func() {
		p.ratio("cpu.cfs_quota_us", value(cpu.Quota), "cpu.quota", "cpu.cfs_period_us", value(cpu.Period), "cpu.period")
	})
	p.realtime(cpu)
}

func (p *plan) realtime(cpu *specs.LinuxCPU) {
	p.ratio("cpu.rt_runtime_us", value(cpu.RealtimeRuntime), "cpu.realtimeRuntime",
		"cpu.rt_period_us", value(cpu.RealtimePeriod), "cpu.realtimePeriod")
}

// ratio sets how much of which period: together not more than the parent has.
// A longer period goes first, a shorter one last, so the ratio in between is
// below one of those before and after.
func (p *plan) ratio(file string, part int64, field, periodFile string, period uint64, periodField string) {
	putPart := func() {
		if part != 0 {
			p.limit(part < 0, "cpu", file, itoa(part), field)
		}
	}
	if period == 0 {
		putPart()
		return
	}
	if period >= p.current("cpu", periodFile) {
		p.put("cpu", periodFile, utoa(period), periodField)
		putPart()
	} else {
		putPart()
		p.put("cpu", periodFile, utoa(period), periodField)
	}
}

// burst sets cpu.burst, which must at no time be above the quota: a smaller one
// goes before it, a larger one after it.
func (p *plan) burst(cpu *specs.LinuxCPU, file string, quota func()) {
	if cpu.Burst == nil {
		quota()
		return
	}
	put := func() {
		p.limit(*cpu.Burst == 0, "cpu", file, utoa(*cpu.Burst), "cpu.burst")
	}
	now, err := p.Read("cpu", file)
	if err == nil && *cpu.Burst <= number(now) {
		put()
		quota()
	} else {
		quota()
		put()
	}
}

func (p *plan) blkio(b *specs.LinuxBlockIO) {
	weightFile := "blkio.weight"
	if !p.exists("blkio", weightFile) { // CFQ is gone since Linux 5.0
		weightFile = "blkio.bfq.weight"
	}
	if n := value(b.Weight); n != 0 {
		p.put("blkio", weightFile, utoa(uint64(n)), "blockIO.weight")
	}
	if n := value(b.LeafWeight); n != 0 {
		p.put("blkio", "blkio.leaf_weight", utoa(uint64(n)), "blockIO.leafWeight")
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		if n := value(d.Weight); n != 0 {
			p.put("blkio", weightFile+"_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, n), field+".weight")
		}
		if n := value(d.LeafWeight); n != 0 {
			p.put("blkio", "blkio.leaf_weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, n), field+".leafWeight")
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			p.put("blkio", "blkio.throttle."+t.v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate), fmt.Sprintf("blockIO.%s[%d]", t.field, i))
		}
	}
}

type throttle struct {
	field, v1, v2 string
	devices       []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func (p *plan) network(n *specs.LinuxNetwork) {
	if id := value(n.ClassID); id != 0 {
		p.put("net_cls", "net_cls.classid", utoa(uint64(id)), "network.classID")
	}
	for i, prio := range n.Priorities {
		p.put("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", prio.Name, prio.Priority), fmt.Sprintf("network.priorities[%d]", i))
	}
}
