package cgroup

import (
	"math"
	"os"
	"strconv"
	"strings"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
)

func (s *reader) v1() *v1.Metrics {
	m := &v1.Metrics{CPU: s.cpuV1()}
	if s.g.dir("pids") != nil {
		m.Pids = &v1.PidsStat{Current: s.number("pids", "pids.current"), Limit: s.number("pids", "pids.max")}
		if m.Pids.Limit == math.MaxUint64 {
			m.Pids.Limit = 0 // as containerd's own shims have it, with v1 only
		}
	}
	if s.g.dir("memory") != nil {
		m.Memory, m.MemoryOomControl = s.memoryV1()
	}
	if s.g.dir("blkio") != nil {
		m.Blkio = s.blkio()
	}
	if s.g.dir("hugetlb") != nil {
		for _, size := range pageSizes() {
			file := "hugetlb." + size
			m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{
				Pagesize: size,
				Usage:    s.number("hugetlb", file+".usage_in_bytes"),
				Max:      s.number("hugetlb", file+".max_usage_in_bytes"),
				Failcnt:  s.number("hugetlb", file+".failcnt"),
			})
		}
	}
	if s.g.dir("rdma") != nil {
		m.Rdma = &v1.RdmaStat{Current: rdmaV1(s.rdma("rdma.current")), Limit: rdmaV1(s.rdma("rdma.max"))}
	}
	return m
}

func (s *reader) cpuV1() *v1.CPUStat {
	const tick = 1e9 / 100 // ns; USER_HZ is 100 on every Linux
	var user, system uint64
	s.fields("cpuacct", "cpuacct.stat", map[string]*uint64{"user": &user, "system": &system})
	c := &v1.CPUStat{
		Usage:      &v1.CPUUsage{Total: s.number("cpuacct", "cpuacct.usage"), User: user * tick, Kernel: system * tick},
		Throttling: &v1.Throttle{},
	}
	for text := range strings.FieldsSeq(s.text("cpuacct", "cpuacct.usage_percpu")) {
		n, err := parseNumber(text)
		if err != nil {
			s.fail(err)
		}
		c.Usage.PerCPU = append(c.Usage.PerCPU, n)
	}
	s.fields("cpu", "cpu.stat", map[string]*uint64{
		"nr_periods":     &c.Throttling.Periods,
		"nr_throttled":   &c.Throttling.ThrottledPeriods,
		"throttled_time": &c.Throttling.ThrottledTime,
	})
	return c
}

func (s *reader) memoryV1() (*v1.MemoryStat, *v1.MemoryOomControl) {
	m := &v1.MemoryStat{
		Usage:     s.counter("memory."),
		Swap:      s.counter("memory.memsw."),
		Kernel:    s.counter("memory.kmem."),
		KernelTCP: s.counter("memory.kmem.tcp."),
	}
	s.fields("memory", "memory.stat", map[string]*uint64{
		"cache":                     &m.Cache,
		"rss":                       &m.RSS,
		"rss_huge":                  &m.RSSHuge,
		"mapped_file":               &m.MappedFile,
		"dirty":                     &m.Dirty,
		"writeback":                 &m.Writeback,
		"pgpgin":                    &m.PgPgIn,
		"pgpgout":                   &m.PgPgOut,
		"pgfault":                   &m.PgFault,
		"pgmajfault":                &m.PgMajFault,
		"inactive_anon":             &m.InactiveAnon,
		"active_anon":               &m.ActiveAnon,
		"inactive_file":             &m.InactiveFile,
		"active_file":               &m.ActiveFile,
		"unevictable":               &m.Unevictable,
		"hierarchical_memory_limit": &m.HierarchicalMemoryLimit,
		"hierarchical_memsw_limit":  &m.HierarchicalSwapLimit,
		"total_cache":               &m.TotalCache,
		"total_rss":                 &m.TotalRSS,
		"total_rss_huge":            &m.TotalRSSHuge,
		"total_mapped_file":         &m.TotalMappedFile,
		"total_dirty":               &m.TotalDirty,
		"total_writeback":           &m.TotalWriteback,
		"total_pgpgin":              &m.TotalPgPgIn,
		"total_pgpgout":             &m.TotalPgPgOut,
		"total_pgfault":             &m.TotalPgFault,
		"total_pgmajfault":          &m.TotalPgMajFault,
		"total_inactive_anon":       &m.TotalInactiveAnon,
		"total_active_anon":         &m.TotalActiveAnon,
		"total_inactive_file":       &m.TotalInactiveFile,
		"total_active_file":         &m.TotalActiveFile,
		"total_unevictable":         &m.TotalUnevictable,
	})
	oom := &v1.MemoryOomControl{}
	s.fields("memory", "memory.oom_control", map[string]*uint64{
		"oom_kill_disable": &oom.OomKillDisable,
		"under_oom":        &oom.UnderOom,
		"oom_kill":         &oom.OomKill,
	})
	return m, oom
}

func (s *reader) counter(prefix string) *v1.MemoryEntry {
	return &v1.MemoryEntry{
		Usage:   s.number("memory", prefix+"usage_in_bytes"),
		Max:     s.number("memory", prefix+"max_usage_in_bytes"),
		Failcnt: s.number("memory", prefix+"failcnt"),
		Limit:   s.number("memory", prefix+"limit_in_bytes"),
	}
}

// blkio: CFQ's files, which kernels before 5.0 have, count more than those of
// throttling, but only what goes through CFQ.
func (s *reader) blkio() *v1.BlkIOStat {
	b := &v1.BlkIOStat{}
	names := deviceNames()
	if s.g.dir("blkio").has("blkio.io_serviced_recursive") {
		b.SectorsRecursive = s.blkioEntries("sectors_recursive", names)
		b.IoServiceBytesRecursive = s.blkioEntries("io_service_bytes_recursive", names)
		b.IoServicedRecursive = s.blkioEntries("io_serviced_recursive", names)
		b.IoQueuedRecursive = s.blkioEntries("io_queued_recursive", names)
		b.IoServiceTimeRecursive = s.blkioEntries("io_service_time_recursive", names)
		b.IoWaitTimeRecursive = s.blkioEntries("io_wait_time_recursive", names)
		b.IoMergedRecursive = s.blkioEntries("io_merged_recursive", names)
		b.IoTimeRecursive = s.blkioEntries("time_recursive", names)
	}
	if len(b.IoServicedRecursive) == 0 {
		b.IoServicedRecursive = s.blkioEntries("throttle.io_serviced", names)
		b.IoServiceBytesRecursive = s.blkioEntries("throttle.io_service_bytes", names)
	}
	return b
}

// blkioEntries reads lines of "major:minor operation number", or without the
// operation, and a last line with the total.
func (s *reader) blkioEntries(file string, names func(major, minor uint64) string) (list []*v1.BlkIOEntry) {
	for line := range strings.Lines(s.text("blkio", "blkio."+file)) {
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' || r == '\n' })
		if len(f) < 3 {
			continue
		}
		e := &v1.BlkIOEntry{}
		var errs [3]error
		e.Major, errs[0] = strconv.ParseUint(f[0], 10, 64)
		e.Minor, errs[1] = strconv.ParseUint(f[1], 10, 64)
		e.Value, errs[2] = strconv.ParseUint(f[len(f)-1], 10, 64)
		if len(f) == 4 {
			e.Op = f[2]
		}
		for _, err := range errs {
			if err != nil {
				s.fail(err)
			}
		}
		e.Device = names(e.Major, e.Minor)
		list = append(list, e)
	}
	return list
}

// deviceNames reads /proc/partitions when the first name is asked for.
func deviceNames() func(major, minor uint64) string {
	var names map[[2]string]string
	return func(major, minor uint64) string {
		if names == nil {
			names = make(map[[2]string]string)
			text, _ := os.ReadFile("/proc/partitions")
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line)
				if len(f) != 4 {
					continue
				}
				if key := [2]string{f[0], f[1]}; names[key] == "" {
					names[key] = "/dev/" + f[3]
				}
			}
		}
		return names[[2]string{utoa(major), utoa(minor)}]
	}
}

func rdmaV1(entries []rdmaEntry) (list []*v1.RdmaEntry) {
	for _, e := range entries {
		list = append(list, &v1.RdmaEntry{Device: e.device, HcaHandles: e.handles, HcaObjects: e.objects})
	}
	return list
}
