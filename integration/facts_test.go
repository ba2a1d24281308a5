package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

// Facts are what a container is, in comparable form: a path of names to a value.
type facts map[string]string

// Add flattens whatever a report says below a name.
func (f facts) add(name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			f.add(name+"."+key, value)
		}
	case []any:
		for i, value := range v {
			f.add(fmt.Sprintf("%s[%d]", name, i), value)
		}
	default:
		f[name] = fmt.Sprint(v)
	}
}

// AddJSON adds each of the documents that a testbox wrote one after the other.
func (f facts) addJSON(name, text string) error {
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w in %q", err, text)
		}
		f.add(name, doc)
	}
}

// Neutral replaces what is never the same twice: names, directories, numbers
// given in turn.
type neutral struct{ replace []func(string) string }

func newNeutral(b *box) neutral { return neutralFor(b.c.ID()) }

func neutralFor(ids ...string) neutral {
	var n neutral
	// The directory may be a bind mount, and mountinfo tell its other name.
	dir := regexp.MustCompile(`[^\s,=:]*/` + filepath.Base(harness.Dir) + `\b`)
	n.replace = append(n.replace, func(s string) string { return dir.ReplaceAllString(s, "RUN") })
	for _, id := range ids {
		n.replace = append(n.replace, func(s string) string { return strings.ReplaceAll(s, id, "ID") })
	}
	n.replace = append(n.replace, func(s string) string { return strings.ReplaceAll(s, harness.Tag, "TAG") })
	for _, r := range numbered {
		n.replace = append(n.replace, func(s string) string { return r.pattern.ReplaceAllString(s, r.by) })
	}
	return n
}

var numbered = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\b(shared|master|propagate_from):\d+`), "$1:N"},
	{regexp.MustCompile(`/snapshots/\d+/`), "/snapshots/N/"},
	{regexp.MustCompile(`\b(pipe|socket|user|mnt|pid|net|ipc|uts|cgroup|time):\[\d+\]`), "$1:[N]"},
	{regexp.MustCompile(`/fifo/\d+/`), "/fifo/N/"},
	{regexp.MustCompile(`\bRUN/t\d+`), "RUN/t"},
	{regexp.MustCompile(`\bRUN/p\d+`), "RUN/p"},
	{regexp.MustCompile(`/ovl-idmapped\d+/`), "/ovl-idmapped/"},
}

func (n neutral) text(s string) string {
	for _, r := range n.replace {
		s = r(s)
	}
	return s
}

func (f facts) neutral(n neutral) facts {
	out := facts{}
	for name, value := range f {
		out[n.text(name)] = n.text(value)
	}
	return out
}

// Outside reads from the host what a process was given. It should do nothing
// itself, or it changes what is read.
func (f facts) outside(name string, pid uint32) {
	p := procFS{dir: fmt.Sprint("/proc/", pid)}
	status := p.status()
	for _, field := range []string{"Umask", "Uid", "Gid", "Groups", "SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
		"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass",
		"SpeculationIndirectBranch", "Cpus_allowed_list", "Mems_allowed_list", "TracerPid", "CoreDumping", "THP_enabled", "Threads"} {
		f[name+".status."+field] = status[field]
	}
	f[name+".status.SigQ"] = "" // of the whole user
	// Go's signal for itself may still be pending from before the execve.
	f[name+".status.SigPnd"] = strings.Replace(status["SigPnd"], "0000000000400000", "0000000000000000", 1)
	f[name+".pid namespaces"] = strconv.Itoa(len(strings.Fields(status["NSpid"])))
	f[name+".leads its session"] = strconv.FormatBool(status["NSsid"] == status["NSpid"])
	f[name+".leads its group"] = strconv.FormatBool(status["NSpgid"] == status["NSpid"])
	for i, line := range strings.Split(strings.TrimSpace(p.read("limits")), "\n") {
		if i > 0 {
			f[name+".limits."+strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:]), " ")
		}
	}
	f[name+".environ"] = strings.ReplaceAll(p.read("environ"), "\x00", "\n")
	f[name+".cmdline"] = strings.ReplaceAll(p.read("cmdline"), "\x00", " ")
	for _, file := range []string{"cgroup", "oom_score_adj", "loginuid", "personality", "coredump_filter", "timerslack_ns", "comm",
		"attr/current", "uid_map", "gid_map", "setgroups", "timens_offsets", "projid_map", "autogroup"} {
		f[name+"."+file] = strings.TrimSpace(p.read(file))
	}
	delete(f, name+".autogroup") // numbered
	for _, link := range []string{"exe", "cwd", "root"} {
		f[name+"."+link] = p.link(link)
	}
	for fd, target := range p.fds() {
		info := strings.Fields(p.read("fdinfo/" + fd))
		f[name+".fd."+fd] = target
		if i := slices.Index(info, "flags:"); i >= 0 {
			f[name+".fd."+fd+".flags"] = info[i+1]
		}
	}
	namespaces, _ := os.ReadDir(p.dir + "/ns")
	for _, ns := range namespaces {
		kind := "its own"
		if p.link("ns/"+ns.Name()) == (procFS{dir: "/proc/self"}).link("ns/"+ns.Name()) {
			kind = "the host's"
		}
		f[name+".ns."+ns.Name()] = kind
	}
	if attr, err := unix.SchedGetAttr(int(pid), 0); err == nil {
		f[name+".scheduler"] = fmt.Sprintf("policy %d nice %d priority %d flags %d", attr.Policy, attr.Nice, attr.Priority, attr.Flags)
	}
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0)
	f[name+".ioprio"] = fmt.Sprint(prio, errno)
	f.mounts(name+".mount", p.read("mountinfo"))
}

// Mounts are keyed by their place, so that one that is missing doesn't change
// all that follow. Their order is only that in which they were made.
func (f facts) mounts(name, mountinfo string) {
	seen := map[string]int{}
	places, parents := map[string]string{}, map[string]string{} // by the mount's number
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 {
			places[fields[0]], parents[fields[0]] = fields[4], fields[1]
		}
	}
	// Of several at a place, the upper ones come last.
	depth := func(line string) (n int) {
		id, _, _ := strings.Cut(line, " ")
		for ; id != parents[id] && places[id] != "" && places[parents[id]] == places[id]; id = parents[id] {
			n++
		}
		return n
	}
	lines := strings.Split(strings.TrimSpace(mountinfo), "\n")
	slices.SortStableFunc(lines, func(a, b string) int { return depth(a) - depth(b) })
	for _, line := range lines {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 6 {
			continue
		}
		dest := fields[4]
		device := fields[2]
		if strings.HasPrefix(device, "0:") {
			device = "0:N" // anonymous ones are numbered in turn
		}
		seen[dest]++
		key := name + "." + dest
		if seen[dest] > 1 {
			key += " #" + strconv.Itoa(seen[dest])
		}
		f[key] = fmt.Sprintf("on %s: %s %s %s - %s", places[fields[1]], device, fields[3], strings.Join(fields[5:], " "), after)
	}
}

// Inside is what a testbox in the container tells, with everything that can be
// tried there.
var inside = append([]string{"/bin/testbox", "all", "report", "cwd", "env", "fds", "hostname", "ids", "keyring", "net", "proc", "tty", "userns", "clock",
	"--", "list", "/dev", "--", "stat"}, slices.Concat(
	places,
	[]string{"--", "statfs", "/", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/proc", "/sys", "/sys/fs/cgroup", "/run", "/tmp", "/etc/hosts"},
	[]string{"--", "read"}, sensitive, places,
	[]string{"--", "write"}, sensitive, places,
	[]string{"--", "sysctl", "kernel.hostname", "kernel.domainname", "net.ipv4.ip_forward", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "kernel.shmmax", "fs.mqueue.msg_max"},
)...)

// Where containers have mounts, links or missing things.
var places = []string{"/", "/bin", "/data", "/data/owned", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/dev/console", "/etc", "/etc/hosts",
	"/etc/resolv.conf", "/etc/secret", "/home/user", "/proc", "/root", "/run", "/sys", "/sys/fs/cgroup", "/tmp", "/var/run", "/work",
	"/new", "/new/dir", "/new/file", "/mnt"}

// What containers must not read or write, and what they may.
var sensitive = []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
	"/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/hostname", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap",
	"/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/kernel", "/sys/fs/cgroup/cgroup.procs", "/proc/self/attr/current", "/proc/1/environ",
	"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/tty", "/dev/ptmx", "/dev/kmsg", "/dev/mem"}

// Differences are the allowed ones, from a file.
type difference struct {
	test, key, reason string
	used              bool
}

// ReadDifferences: a line holds the patterns of cases and of facts, and why the
// two runtimes differ there. Some are of cgroup v2 only.
func readDifferences(file string) ([]*difference, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []*difference
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, "\t", 3)
		if len(parts) != 3 || parts[2] == "" {
			return nil, fmt.Errorf("%s:%d: want case, fact and reason, with tabs between", file, i+1)
		}
		for _, pattern := range parts[:2] {
			if _, err := glob(pattern, ""); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
			}
		}
		if strings.HasPrefix(parts[2], "cgroup v2: ") && !unifiedOnly() {
			continue
		}
		all = append(all, &difference{test: parts[0], key: parts[1], reason: parts[2]})
	}
	return all, nil
}

// Glob matches with * for anything, also slashes.
func glob(pattern, name string) (bool, error) {
	return filepath.Match(strings.ReplaceAll(pattern, "/", "\x01"), strings.ReplaceAll(name, "/", "\x01"))
}

// Compare lists the facts that differ without being allowed to.
func compare(test string, want, got facts, allowed []*difference) []string {
	names := map[string]bool{}
	for name := range want {
		names[name] = true
	}
	for name := range got {
		names[name] = true
	}
	var found []string
	for name := range names {
		w, inWant := want[name]
		g, inGot := got[name]
		if inWant == inGot && w == g {
			continue
		}
		excused := false
		for _, d := range allowed {
			t, _ := glob(d.test, test)
			k, _ := glob(d.key, name)
			if t && k {
				d.used, excused = true, true
			}
		}
		if !excused {
			found = append(found, fmt.Sprintf("%s: %q, want %q", name, g, w))
		}
	}
	slices.Sort(found)
	return found
}
