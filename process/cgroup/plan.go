package cgroup

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// A Write puts a value into a file of the group.
type Write struct {
	Controller string // with v1 the hierarchy, too
	File       string
	Value      string
	Field      string // of the spec, which asked for it
	// Optional: a kernel without the file does not have, either, what the
	// value switches off.
	Optional bool

	program []instruction // v2 devices: a program instead of a file
}

// String is the line which a user is shown: what would be written, and why.
func (w Write) String() string {
	return fmt.Sprintf("%-8s %s = %q  # %s", w.Controller, w.File, w.Value, w.Field)
}

// Facts are what a plan must know of the group.
type Facts struct {
	V2          bool
	Controllers []string // which the group has
	// Update says that there are limits already.
	Update bool
	// Read returns what is in a file of the group.
	Read func(controller, file string) (string, error)
}

// Plan compiles limits to the writes that set them, in an order that the kernel
// accepts whatever the group has now, if it accepts the result. It changes
// nothing and is made of Facts alone.
//
// What is nil, zero or empty in r stays as it is: so it is with runc.
func Plan(r *specs.LinuxResources, f Facts) ([]Write, error) {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	p := plan{Facts: f}
	if f.V2 {
		p.v2(r)
	} else {
		p.v1(r)
	}
	return p.writes, p.err
}

// planEarly is the part of a v1 plan that comes before the first process: it
// has to have CPUs and memory nodes, and could not join with realtime priority
// otherwise.
func planEarly(r *specs.LinuxResources, f Facts) ([]Write, error) {
	p := plan{Facts: f}
	if r != nil && r.CPU != nil {
		p.cpuset(r.CPU)
		p.realtime(r.CPU)
	}
	return p.writes, p.err
}

type plan struct {
	Facts
	writes []Write
	err    error // the first one
}

func (p *plan) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = spec.Invalid("linux.resources."+field, format, args...)
	}
}

func (p *plan) has(controller string) bool { return slices.Contains(p.Controllers, controller) }

// exists asks whether this kernel has a file.
func (p *plan) exists(controller, file string) bool {
	_, err := p.Read(controller, file)
	return err == nil
}

// put adds the write of a limit. It is an error if its controller is missing.
func (p *plan) put(controller, file, value, field string) {
	if !p.has(controller) {
		p.fail(field, "the cgroup has no %s controller", controller)
		return
	}
	p.writes = append(p.writes, Write{Controller: controller, File: file, Value: value, Field: "linux.resources." + field})
}

// lift adds the write of "no limit", which also holds where nothing can be
// limited.
func (p *plan) lift(controller, file, value, field string) {
	if p.has(controller) {
		p.put(controller, file, value, field)
		p.optional()
	}
}

// optional marks the last write.
func (p *plan) optional() {
	if n := len(p.writes); n > 0 {
		p.writes[n-1].Optional = true
	}
}

// limit is put or lift.
func (p *plan) limit(unlimited bool, controller, file, value, field string) {
	if unlimited {
		p.lift(controller, file, value, field)
	} else {
		p.put(controller, file, value, field)
	}
}

func (p *plan) pids(pids *specs.LinuxPids) {
	if pids == nil || pids.Limit == nil {
		return
	}
	switch n := *pids.Limit; {
	case n > 0:
		p.put("pids", "pids.max", itoa(n), "pids.limit")
	case n == 0:
		// systemd's TasksMax cannot be 0, and 1 is as little: runc's choice.
		p.put("pids", "pids.max", "1", "pids.limit")
	default:
		p.lift("pids", "pids.max", "max", "pids.limit")
	}
}

func (p *plan) cpuset(cpu *specs.LinuxCPU) {
	if cpu.Cpus != "" {
		p.put("cpuset", "cpuset.cpus", cpu.Cpus, "cpu.cpus")
	}
	if cpu.Mems != "" {
		p.put("cpuset", "cpuset.mems", cpu.Mems, "cpu.mems")
	}
}

func (p *plan) hugetlb(limits []specs.LinuxHugepageLimit, suffix string) {
	for i, l := range limits {
		field := fmt.Sprintf("hugepageLimits[%d]", i)
		if l.Pagesize == "" || strings.Contains(l.Pagesize, "/") {
			p.fail(field, "%q is no page size", l.Pagesize)
			return
		}
		value := utoa(l.Limit)
		p.put("hugetlb", "hugetlb."+l.Pagesize+suffix, value, field)
		// Reservations are limited by a file of their own, since Linux 5.7.
		p.put("hugetlb", "hugetlb."+l.Pagesize+".rsvd"+suffix, value, field)
		p.optional()
	}
}

func (p *plan) rdma(devices map[string]specs.LinuxRdma) {
	for _, name := range sortedKeys(devices) {
		value, limits := name, devices[name]
		if limits.HcaHandles != nil {
			value += " hca_handle=" + utoa(uint64(*limits.HcaHandles))
		}
		if limits.HcaObjects != nil {
			value += " hca_object=" + utoa(uint64(*limits.HcaObjects))
		}
		p.put("rdma", "rdma.max", value, fmt.Sprintf("rdma[%q]", name))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func itoa(n int64) string  { return strconv.FormatInt(n, 10) }
func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

// value is *p, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// unlimited is more than any limit.
const unlimited = math.MaxUint64

// number reads a limit: -1 and max are none, and so is v1's largest number of
// whole pages.
func number(text string) uint64 {
	text = strings.TrimSpace(text)
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n >= math.MaxInt64&^0xffff {
		return unlimited
	}
	return n
}

// current is the number in a file, unlimited if there is none.
func (p *plan) current(controller, file string) uint64 {
	text, err := p.Read(controller, file)
	if err != nil {
		return unlimited
	}
	return number(text)
}

// asLimit is a limit of the spec as number has it.
func asLimit(n int64) uint64 {
	if n < 0 {
		return unlimited
	}
	return uint64(n)
}
