package cgroup

import (
	"bytes"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// resolveUnit finds the place of a scope: slice:prefix:name is the unit
// prefix-name.scope of that slice. Where one is missing, they are as with runc:
// system.slice, and no prefix.
func resolveUnit(cgroupsPath, id string) (Location, error) {
	parts := []string{"", "myshim", id}
	if cgroupsPath != "" {
		if parts = strings.Split(cgroupsPath, ":"); len(parts) != 3 {
			return Location{}, spec.Invalid("linux.cgroupsPath", "%q must have the form slice:prefix:name with systemd", cgroupsPath)
		}
	}
	l := Location{Slice: parts[0], Unit: parts[1] + "-" + parts[2] + ".scope"}
	if l.Slice == "" {
		l.Slice = "system.slice"
	}
	dir, err := sliceDir(l.Slice)
	if err != nil {
		return Location{}, err
	}
	switch {
	case strings.HasSuffix(parts[2], ".slice"):
		return Location{}, spec.Invalid("linux.cgroupsPath", "%q is a slice: it cannot have processes", parts[2])
	case parts[2] == "" || strings.ContainsAny(l.Unit, "/\x00\n") || len(l.Unit) > 255:
		return Location{}, spec.Invalid("linux.cgroupsPath", "%q is no name of a unit", l.Unit)
	}
	all, err := hierarchies(false)
	if err != nil {
		return Location{}, err
	}
	l.Dirs = locate(path.Join(dir, l.Unit), all).Dirs
	return l, nil
}

// sliceDir is the directory of a slice: a-b.slice is in a.slice.
func sliceDir(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	parts := strings.Split(name, "-")
	switch {
	case name == "-":
		return "/", nil
	case !ok, slices.Contains(parts, ""), strings.ContainsAny(name, "/\x00\n"):
		return "", spec.Invalid("linux.cgroupsPath", "%q is no slice", slice)
	}
	dir := "/"
	for i := range parts {
		dir = path.Join(dir, strings.Join(parts[:i+1], "-")+".slice")
	}
	return dir, nil
}

// A property is one of a systemd unit. Its value is of the Go type that D-Bus
// has the right type for.
type property struct {
	name  string
	value any
}

// pathNumber and pathText are elements of systemd's lists for devices.
type (
	pathNumber struct {
		Path   string
		Number uint64
	}
	pathText struct{ Path, Text string }
)

// unitProperties says to systemd what the writes say to the kernel: otherwise
// systemd would sooner or later write its own idea again. It knows quotas in
// whole percents only, so it also returns the writes with the quota that
// systemd would write, which is the next larger one.
//
// Not of systemd, and so left to the writes: hugetlb, rdma, v1's swap and
// throttling, and what it does not know of unified.
func unitProperties(writes []Write, f Facts) ([]property, []Write, error) {
	u := unit{Facts: f, writes: slices.Clone(writes)}
	for i := range u.writes {
		w := &u.writes[i]
		if tell, ok := tellings[w.File]; ok {
			if err := tell(&u, w); err != nil {
				return nil, nil, err
			}
		}
	}
	return u.props, u.writes, nil
}

// unit is a systemd unit which is told of writes to its files.
type unit struct {
	Facts
	writes []Write
	props  []property
}

// tellings say by the file of a write which properties it is to systemd.
var tellings = map[string]func(*unit, *Write) error{
	"memory.max":            sameNumber("MemoryMax"),
	"memory.high":           sameNumber("MemoryHigh"),
	"memory.low":            sameNumber("MemoryLow"),
	"memory.min":            sameNumber("MemoryMin"),
	"memory.swap.max":       sameNumber("MemorySwapMax"),
	"memory.limit_in_bytes": sameNumber("MemoryLimit"),
	"pids.max":              (*unit).tasksMax,
	"cpu.idle":              (*unit).cpuIdle,
	"cpu.weight":            (*unit).cpuWeight,
	"cpu.shares":            sameNumber("CPUShares"),
	"cpu.max":               (*unit).cpuMax,
	"cpu.cfs_period_us":     sameNumber("CPUQuotaPeriodUSec"),
	"cpu.cfs_quota_us":      (*unit).cfsQuota,
	"cpuset.cpus":           bits("AllowedCPUs", spec.MaxCPUs),
	"cpuset.mems":           bits("AllowedMemoryNodes", spec.MaxNodes),
	"blkio.weight":          sameNumber("BlockIOWeight"),
	"blkio.bfq.weight":      sameNumber("BlockIOWeight"),
	"io.weight":             (*unit).ioWeight,
	"io.bfq.weight":         (*unit).ioWeight,
	"io.max":                (*unit).ioMax,
}

func (u *unit) add(name string, value any) { u.props = append(u.props, property{name, value}) }

// addDevice adds to a property that is a list of devices.
func (u *unit) addDevice(name, device string, n uint64) {
	entry := pathNumber{"/dev/block/" + device, n}
	if i := slices.IndexFunc(u.props, func(p property) bool { return p.name == name }); i >= 0 {
		u.props[i].value = append(u.props[i].value.([]pathNumber), entry)
	} else {
		u.add(name, []pathNumber{entry})
	}
}

// sameNumber is for a property that has the same value as the file.
func sameNumber(name string) func(*unit, *Write) error {
	return func(u *unit, w *Write) error {
		if n, ok := w.number(); ok {
			u.add(name, n)
		}
		return nil
	}
}

// number is the value of a write. What the kernel takes for one besides, like 1G
// in unified, systemd is not told.
func (w *Write) number() (uint64, bool) {
	text := strings.TrimSpace(w.Value)
	if text == "-1" {
		return math.MaxUint64, true
	}
	n, err := parseNumber(text)
	return n, err == nil
}

// bits is for a property that is bytes of bits, the lowest first.
func bits(name string, limit int) func(*unit, *Write) error {
	return func(u *unit, w *Write) error {
		list := strings.TrimSpace(w.Value)
		if list == "" { // those of the parent
			u.add(name, []byte{})
			return nil
		}
		mask, err := spec.ParseList(list, limit)
		if err != nil {
			return spec.Invalid(w.Field, "%w", err)
		}
		u.add(name, bytes.TrimRight(mask, "\x00"))
		return nil
	}
}

func (u *unit) tasksMax(w *Write) error {
	if n, ok := w.number(); ok {
		u.add("TasksMax", max(n, 1))
	}
	return nil
}

// idle says whether the group gets only the CPU time that nobody else wants.
func (u *unit) idle() bool {
	return slices.ContainsFunc(u.writes, func(w Write) bool { return w.File == "cpu.idle" && w.Value == "1" })
}

func (u *unit) cpuIdle(*Write) error {
	if u.idle() && u.V2 {
		u.add("CPUWeight", uint64(0)) // since systemd 252
	}
	return nil
}

func (u *unit) cpuWeight(w *Write) error {
	if n, ok := w.number(); ok && !u.idle() {
		u.add("CPUWeight", n)
	}
	return nil
}

func (u *unit) cpuMax(w *Write) error {
	quota, period, _ := strings.Cut(strings.TrimSpace(w.Value), " ")
	if period == "" {
		period = utoa(defaultPeriod)
	}
	share, rounded := perSecond(number(quota), number(period))
	u.add("CPUQuotaPeriodUSec", number(period))
	u.add("CPUQuotaPerSecUSec", share)
	if share != unlimited && !strings.HasPrefix(w.Field, "linux.resources.unified") {
		w.Value = utoa(rounded) + " " + period
	}
	return nil
}

func (u *unit) cfsQuota(w *Write) error {
	const periodFile = "cpu.cfs_period_us"
	period := uint64(defaultPeriod)
	if now, err := u.Read("cpu", periodFile); err == nil {
		period = number(now)
	}
	if i := slices.IndexFunc(u.writes, func(w Write) bool { return w.File == periodFile }); i >= 0 {
		period = number(u.writes[i].Value)
	}
	share, rounded := perSecond(number(w.Value), period)
	u.add("CPUQuotaPerSecUSec", share)
	if share != unlimited {
		w.Value = utoa(rounded)
	}
	return nil
}

func (u *unit) ioWeight(w *Write) error {
	device, weight, ok := strings.Cut(strings.TrimSpace(w.Value), " ")
	if !ok {
		device, weight = "default", device
	}
	n, err := strconv.ParseUint(weight, 10, 16)
	if err != nil { // "8:0 default": none of its own
		return nil
	}
	if w.File == "io.bfq.weight" && n >= 10 {
		n = ioWeight(n) // which systemd turns back, nearly
	}
	if device == "default" {
		u.add("IOWeight", n)
	} else {
		u.addDevice("IODeviceWeight", device, n)
	}
	return nil
}

func (u *unit) ioMax(w *Write) error {
	limits := map[string]string{
		"rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
	}
	for line := range strings.Lines(strings.TrimSpace(w.Value)) {
		device, pairs, _ := strings.Cut(line, " ")
		for pair := range strings.FieldsSeq(pairs) {
			kind, text, _ := strings.Cut(pair, "=")
			if name, ok := limits[kind]; ok {
				u.addDevice(name, device, number(text))
			}
		}
	}
	return nil
}

// perSecond is how many microseconds of CPU time there are in a second, in
// whole percents of it, and the quota that this is.
func perSecond(quota, period uint64) (share, rounded uint64) {
	if quota == unlimited || period == 0 {
		return unlimited, quota
	}
	share = quota * 1000000 / period
	if share%10000 == 0 {
		return share, quota
	}
	share = (share/10000 + 1) * 10000
	return share, share * period / 1000000
}

// deviceProperties says the rules to systemd, as far as it can have them: it
// only allows. What it cannot, the rules written after it do.
func deviceProperties(rules []specs.LinuxDeviceCgroup) ([]property, error) {
	f, err := newFilter(rules)
	if err != nil {
		return nil, err
	}
	// An empty list first: others are added to what the unit has.
	props := []property{{"DeviceAllow", []pathText{}}, {"DevicePolicy", "strict"}}
	if f.allow {
		if len(f.exceptions) == 0 {
			props[1].value = "auto"
		}
		return props, nil
	}
	var list []pathText
	for _, d := range f.ordered() {
		kind := map[byte]string{'b': "block", 'c': "char"}[d.kind]
		text := f.exceptions[d].String()
		switch {
		case d.major >= 0 && d.minor >= 0:
			list = append(list, pathText{fmt.Sprintf("/dev/%s/%d:%d", kind, d.major, d.minor), text})
		case d.major >= 0:
			list = append(list, pathText{fmt.Sprintf("%s-%d", kind, d.major), text})
		case d.minor < 0:
			list = append(list, pathText{kind + "-*", text})
		}
	}
	return append(props, property{"DeviceAllow", list}), nil
}
