package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// v2 takes the controllers in runc's order; unified is last, so it overrides
// the others. What v2 does not have is left out, see warnings.
func (p *plan) v2(r *specs.LinuxResources) {
	p.pids(r.Pids)
	if r.Memory != nil {
		p.memoryV2(r.Memory)
	}
	if r.BlockIO != nil {
		p.io(r.BlockIO)
	}
	if r.CPU != nil {
		p.cpuV2(r.CPU)
	}
	if !p.Update {
		p.devicesV2(r.Devices)
	}
	if r.CPU != nil {
		p.cpuset(r.CPU)
	}
	p.hugetlb(r.HugepageLimits, ".max")
	p.rdma(r.Rdma)
	p.unified(r.Unified)
}

func (p *plan) memoryV2(m *specs.LinuxMemory) {
	limit, swap := value(m.Limit), value(m.Swap)
	p.checkUsage(m)
	total := swap // of memory and swap, which v2 counts apart
	if p.Update && m.Swap == nil && limit > 0 {
		// The total stays, as it does with v1.
		memory, swap := p.current("memory", "memory.max"), p.current("memory", "memory.swap.max")
		if memory != unlimited && swap != unlimited {
			total = int64(memory + swap)
		}
	}
	if p.Update && limit == 0 && swap > 0 {
		if now := p.current("memory", "memory.max"); now != unlimited {
			limit = int64(now)
		}
	}
	text, err := swapMax(limit, total)
	if err != nil {
		p.fail("memory.swap", "%v", err)
	}
	if text != "" {
		// Where swap cannot be limited, there is none.
		p.limit(text == "max" || text == "0", "memory", "memory.swap.max", text, "memory.swap")
	}
	if n := value(m.Limit); n != 0 {
		p.limit(n == -1, "memory", "memory.max", maxed(n), "memory.limit")
	}
	if n := value(m.Reservation); n != 0 {
		p.put("memory", "memory.low", maxed(n), "memory.reservation")
	}
}

// swapMax is memory.swap.max: v1's total of memory and swap less the memory;
// empty to leave it.
func swapMax(limit, total int64) (string, error) {
	switch {
	case limit == -1 && total == 0: // as with v1
		return "max", nil
	case total == 0:
		return "", nil
	case total == -1:
		return "max", nil
	case limit == -1:
		return itoa(total), nil
	case limit == 0:
		return "", errors.New("no limit of swap is possible without one of memory")
	case limit < 0:
		return "", fmt.Errorf("%d is no limit of memory", limit)
	case total < limit:
		return "", fmt.Errorf("the limit of memory and swap together (%d) is below the one of memory (%d)", total, limit)
	}
	return itoa(total - limit), nil
}

func maxed(n int64) string {
	if n == -1 {
		return "max"
	}
	return itoa(n)
}

// checkUsage: v2 would kill rather than refuse a limit that is below the usage.
func (p *plan) checkUsage(m *specs.LinuxMemory) {
	if !value(m.CheckBeforeUpdate) {
		return
	}
	text, err := p.Read("memory", "memory.current")
	if err != nil {
		return
	}
	usage := number(text)
	if n := value(m.Swap); n > 0 && uint64(n) <= usage {
		p.fail("memory.swap", "%d is not above the usage, %d", n, usage)
	}
	if n := value(m.Limit); n > 0 && uint64(n) <= usage {
		p.fail("memory.limit", "%d is not above the usage, %d", n, usage)
	}
}

const bfq = "io.bfq.weight"

// weighsDevices says whether BFQ knows single devices, since Linux 5.4: "default
// 100" and not "100". Without it runc ignores them, since io.weight needs set-up
// by an administrator, and so must a container that starts with runc.
func (f Facts) weighsDevices() bool {
	text, err := f.Read("io", bfq)
	return err == nil && strings.HasPrefix(text, "default ")
}

func (p *plan) io(b *specs.LinuxBlockIO) {
	if n := value(b.Weight); n != 0 {
		switch {
		case p.exists("io", bfq):
			p.put("io", bfq, utoa(uint64(n)), "blockIO.weight")
		case n < 10 || n > 1000:
			p.fail("blockIO.weight", "%d is not between 10 and 1000", n)
		default:
			p.put("io", "io.weight", utoa(ioWeight(uint64(n))), "blockIO.weight")
		}
	}
	if p.weighsDevices() {
		for i, d := range b.WeightDevice {
			p.put("io", bfq, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, value(d.Weight)), fmt.Sprintf("blockIO.weightDevice[%d].weight", i))
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			rate := utoa(d.Rate)
			if d.Rate == 0 {
				rate = "max" // v1's way to lift a limit
			}
			p.put("io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate), fmt.Sprintf("blockIO.%s[%d]", t.field, i))
		}
	}
}

func (p *plan) cpuV2(cpu *specs.LinuxCPU) {
	idle := cpu.Idle != nil && *cpu.Idle != 0
	if cpu.Idle != nil {
		p.limit(!idle, "cpu", "cpu.idle", itoa(*cpu.Idle), "cpu.idle")
	}
	if n := value(cpu.Shares); n != 0 && !idle { // an idle group has no weight
		p.put("cpu", "cpu.weight", utoa(weight(n)), "cpu.shares")
	}
	p.burst(cpu, "cpu.max.burst", func() { p.cpuMax(cpu) })
}

// cpuMax sets quota and period by one write. Where only one is given, an update
// leaves the other one.
func (p *plan) cpuMax(cpu *specs.LinuxCPU) {
	quota, period, field := value(cpu.Quota), value(cpu.Period), "cpu.quota"
	if quota == 0 && period == 0 {
		return
	}
	if quota == 0 {
		field = "cpu.period"
	}
	if now, err := p.Read("cpu", "cpu.max"); err == nil && p.Update {
		if f := strings.Fields(now); len(f) == 2 {
			if n := number(f[0]); quota == 0 && n != unlimited {
				quota = int64(n)
			}
			if period == 0 {
				period = number(f[1])
			}
		}
	}
	if period == 0 {
		period = defaultPeriod
	}
	text := "max"
	if quota > 0 {
		text = itoa(quota)
	}
	p.limit(quota <= 0, "cpu", "cpu.max", text+" "+utoa(period), field)
}

// defaultPeriod is the kernel's, of quotas of CPU time.
const defaultPeriod = 100000

// ioWeight turns a weight of v1, 10–1000, into one of v2, 1–10000.
func ioWeight(n uint64) uint64 { return 1 + (n-10)*9999/990 }

// weight turns v1's shares (2–262144, normally 1024) into v2's weight (1–10000,
// normally 100) by the curve that all runtimes took over in 2025: the old,
// straight line gave normal shares a weight of 39.
func weight(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}

func (p *plan) unified(files map[string]string) {
	for _, file := range sortedKeys(files) {
		field := fmt.Sprintf("unified[%q]", file)
		controller, _, ok := strings.Cut(file, ".")
		switch {
		case strings.Contains(file, "/"):
			p.fail(field, "it must be a file name")
		case !ok || controller == "":
			p.fail(field, "it must have the form CONTROLLER.PARAMETER")
		case controller == "cgroup":
			p.writes = append(p.writes, Write{Controller: controller, File: file, Value: files[file], Field: "linux.resources." + field})
		default:
			p.put(controller, file, files[file], field)
		}
	}
}
