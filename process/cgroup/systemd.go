package cgroup

import (
	"errors"
	"fmt"
	"math"
	"math/big"
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
	var props []property
	add := func(name string, value any) { props = append(props, property{name, value}) }
	device := func(name, key string, n uint64) {
		p := pathNumber{"/dev/block/" + key, n}
		if i := slices.IndexFunc(props, func(p property) bool { return p.name == name }); i >= 0 {
			props[i].value = append(props[i].value.([]pathNumber), p)
		} else {
			add(name, []pathNumber{p})
		}
	}
	writes = slices.Clone(writes)
	idle := slices.ContainsFunc(writes, func(w Write) bool { return w.File == "cpu.idle" && w.Value == "1" })
	for i, w := range writes {
		text := strings.TrimSpace(w.Value)
		n, err := parseNumber(text)
		if text == "-1" {
			n, err = math.MaxUint64, nil
		}
		if name, ok := numbers[w.File]; ok && err == nil {
			if w.File == "pids.max" && n == 0 {
				n = 1
			}
			if name != "CPUWeight" || !idle {
				add(name, n)
			}
			continue
		}
		switch w.File {
		case "cpu.idle":
			if idle && f.V2 {
				add("CPUWeight", uint64(0)) // since systemd 252
			}
		case "cpuset.cpus", "cpuset.mems":
			bits, err := bitsOf(text)
			if err != nil {
				return nil, nil, spec.Invalid(w.Field, "%q: %v", text, err)
			}
			add(map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[w.File], bits)
		case "cpu.max":
			quota, period, _ := strings.Cut(text, " ")
			if period == "" {
				period = "100000"
			}
			share, rounded := perSecond(number(quota), number(period))
			add("CPUQuotaPeriodUSec", number(period))
			add("CPUQuotaPerSecUSec", share)
			if share != unlimited && !strings.HasPrefix(w.Field, "linux.resources.unified") {
				writes[i].Value = utoa(rounded) + " " + period
			}
		case "cpu.cfs_period_us":
			add("CPUQuotaPeriodUSec", n)
		case "cpu.cfs_quota_us":
			period := uint64(100000)
			if now, err := f.Read("cpu", "cpu.cfs_period_us"); err == nil {
				period = number(now)
			}
			for _, w := range writes {
				if w.File == "cpu.cfs_period_us" {
					period = number(w.Value)
				}
			}
			share, rounded := perSecond(n, period)
			add("CPUQuotaPerSecUSec", share)
			if share != unlimited {
				writes[i].Value = utoa(rounded)
			}
		case "io.bfq.weight", "io.weight":
			key, weight, keyed := strings.Cut(text, " ")
			if !keyed {
				weight = key
			}
			n, err := strconv.ParseUint(weight, 10, 16)
			if err != nil {
				continue
			}
			if w.File == "io.bfq.weight" && n >= 10 {
				n = 1 + (n-10)*9999/990 // which systemd turns back, nearly
			}
			if keyed && key != "default" {
				device("IODeviceWeight", key, n)
			} else {
				add("IOWeight", n)
			}
		case "io.max":
			for line := range strings.Lines(text) {
				fields := strings.Fields(line)
				for _, pair := range fields[1:] {
					kind, text, _ := strings.Cut(pair, "=")
					if name, ok := ioLimits[kind]; ok {
						device(name, fields[0], number(text))
					}
				}
			}
		}
	}
	return props, writes, nil
}

// numbers are properties that have the same value as the file.
var numbers = map[string]string{
	"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
	"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
	"memory.limit_in_bytes": "MemoryLimit", "cpu.shares": "CPUShares",
	"blkio.weight": "BlockIOWeight", "blkio.bfq.weight": "BlockIOWeight",
}

var ioLimits = map[string]string{
	"rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
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

// bitsOf turns a list like 0-2,7 into systemd's bytes of bits, the lowest first.
func bitsOf(list string) ([]byte, error) {
	bits := new(big.Int)
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q is no range of numbers", part)
		}
		for n := first; n <= last; n++ {
			bits.SetBit(bits, int(n), 1)
		}
	}
	bytes := bits.Bytes()
	if len(bytes) == 0 {
		return nil, errors.New("it is empty")
	}
	slices.Reverse(bytes)
	return bytes, nil
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
