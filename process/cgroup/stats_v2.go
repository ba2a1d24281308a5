package cgroup

import (
	"strconv"
	"strings"

	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
)

func (s *reader) v2() *v2.Metrics {
	m := &v2.Metrics{
		Pids:         &v2.PidsStat{Current: s.number("", "pids.current"), Limit: s.number("", "pids.max")},
		CPU:          s.cpuV2(),
		Memory:       s.memoryV2(),
		MemoryEvents: s.memoryEvents(),
		Io:           &v2.IOStat{Usage: s.io(), PSI: s.pressure("io.pressure")},
		Rdma:         &v2.RdmaStat{Current: rdmaV2(s.rdma("rdma.current")), Limit: rdmaV2(s.rdma("rdma.max"))},
	}
	for _, size := range pageSizes() {
		file := "hugetlb." + size
		h := &v2.HugeTlbStat{Pagesize: size, Current: s.number("", file+".current"), Max: s.number("", file+".max")}
		s.fields("", file+".events", map[string]*uint64{"max": &h.Failcnt})
		m.Hugetlb = append(m.Hugetlb, h)
	}
	return m
}

func (s *reader) cpuV2() *v2.CPUStat {
	c := &v2.CPUStat{PSI: s.pressure("cpu.pressure")}
	s.fields("", "cpu.stat", map[string]*uint64{
		"usage_usec":     &c.UsageUsec,
		"user_usec":      &c.UserUsec,
		"system_usec":    &c.SystemUsec,
		"nr_periods":     &c.NrPeriods,
		"nr_throttled":   &c.NrThrottled,
		"throttled_usec": &c.ThrottledUsec,
		"nr_bursts":      &c.NrBursts,
		"burst_usec":     &c.BurstUsec,
	})
	return c
}

func (s *reader) memoryV2() *v2.MemoryStat {
	if !s.g.dir("").has("memory.stat") {
		return &v2.MemoryStat{}
	}
	var refault, activate [2]uint64 // anonymous memory and files, apart since Linux 5.9
	m := &v2.MemoryStat{
		Usage:        s.number("", "memory.current"),
		UsageLimit:   s.number("", "memory.max"),
		MaxUsage:     s.number("", "memory.peak"),
		SwapUsage:    s.number("", "memory.swap.current"),
		SwapLimit:    s.number("", "memory.swap.max"),
		SwapMaxUsage: s.number("", "memory.swap.peak"),
		PSI:          s.pressure("memory.pressure"),
	}
	s.fields("", "memory.stat", map[string]*uint64{
		"anon":                     &m.Anon,
		"file":                     &m.File,
		"kernel_stack":             &m.KernelStack,
		"slab":                     &m.Slab,
		"sock":                     &m.Sock,
		"shmem":                    &m.Shmem,
		"file_mapped":              &m.FileMapped,
		"file_dirty":               &m.FileDirty,
		"file_writeback":           &m.FileWriteback,
		"anon_thp":                 &m.AnonThp,
		"inactive_anon":            &m.InactiveAnon,
		"active_anon":              &m.ActiveAnon,
		"inactive_file":            &m.InactiveFile,
		"active_file":              &m.ActiveFile,
		"unevictable":              &m.Unevictable,
		"slab_reclaimable":         &m.SlabReclaimable,
		"slab_unreclaimable":       &m.SlabUnreclaimable,
		"pgfault":                  &m.Pgfault,
		"pgmajfault":               &m.Pgmajfault,
		"workingset_refault_anon":  &refault[0],
		"workingset_refault_file":  &refault[1],
		"workingset_activate_anon": &activate[0],
		"workingset_activate_file": &activate[1],
		"workingset_nodereclaim":   &m.WorkingsetNodereclaim,
		"pgrefill":                 &m.Pgrefill,
		"pgscan":                   &m.Pgscan,
		"pgsteal":                  &m.Pgsteal,
		"pgactivate":               &m.Pgactivate,
		"pgdeactivate":             &m.Pgdeactivate,
		"pglazyfree":               &m.Pglazyfree,
		"pglazyfreed":              &m.Pglazyfreed,
		"thp_fault_alloc":          &m.ThpFaultAlloc,
		"thp_collapse_alloc":       &m.ThpCollapseAlloc,
	})
	m.WorkingsetRefault = refault[0] + refault[1]
	m.WorkingsetActivate = activate[0] + activate[1]
	return m
}

// memoryEvents is nil without a memory controller.
func (s *reader) memoryEvents() *v2.MemoryEvents {
	if !s.g.dir("").has("memory.events") {
		return nil
	}
	e := &v2.MemoryEvents{}
	s.fields("", "memory.events", map[string]*uint64{
		"low":            &e.Low,
		"high":           &e.High,
		"max":            &e.Max,
		"oom":            &e.Oom,
		"oom_kill":       &e.OomKill,
		"oom_group_kill": &e.OomGroupKill,
	})
	return e
}

// io reads lines of "major:minor rbytes=1 wbytes=2 …".
func (s *reader) io() (list []*v2.IOEntry) {
	for line := range strings.Lines(s.text("", "io.stat")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, _ := strings.Cut(f[0], ":")
		e := &v2.IOEntry{}
		var err1, err2 error
		e.Major, err1 = strconv.ParseUint(major, 10, 64)
		e.Minor, err2 = strconv.ParseUint(minor, 10, 64)
		if err1 != nil || err2 != nil { // Linux 6.1 and older may write half a line
			continue
		}
		for _, pair := range f[1:] {
			name, text, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				continue
			}
			switch name {
			case "rbytes":
				e.Rbytes = n
			case "wbytes":
				e.Wbytes = n
			case "rios":
				e.Rios = n
			case "wios":
				e.Wios = n
			}
		}
		list = append(list, e)
	}
	return list
}

// pressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the same
// of "full"; nil where it is not measured.
func (s *reader) pressure(file string) *v2.PSIStats {
	text := s.text("", file)
	if text == "" {
		return nil
	}
	p := &v2.PSIStats{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		d := &v2.PSIData{}
		switch {
		case len(f) == 0:
			continue
		case f[0] == "some":
			p.Some = d
		case f[0] == "full":
			p.Full = d
		}
		for _, pair := range f[1:] {
			name, text, _ := strings.Cut(pair, "=")
			var err error
			switch name {
			case "avg10":
				d.Avg10, err = strconv.ParseFloat(text, 64)
			case "avg60":
				d.Avg60, err = strconv.ParseFloat(text, 64)
			case "avg300":
				d.Avg300, err = strconv.ParseFloat(text, 64)
			case "total":
				d.Total, err = strconv.ParseUint(text, 10, 64)
			}
			if err != nil {
				s.fail(err)
			}
		}
	}
	return p
}

func rdmaV2(entries []rdmaEntry) (list []*v2.RdmaEntry) {
	for _, e := range entries {
		list = append(list, &v2.RdmaEntry{Device: e.device, HcaHandles: e.handles, HcaObjects: e.objects})
	}
	return list
}
