package cgroup

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// fresh is what the files of a new group say.
var fresh = map[string]string{
	"memory.limit_in_bytes": "9223372036854771712\n", "memory.memsw.limit_in_bytes": "9223372036854771712\n",
	"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n", "cpu.cfs_burst_us": "0\n",
	"cpu.rt_runtime_us": "0\n", "cpu.rt_period_us": "1000000\n",
	"blkio.bfq.weight": "100\n", "devices.list": "a *:* rwm\n",
	"memory.max": "max\n", "memory.swap.max": "max\n", "memory.current": "4096\n",
	"cpu.max": "max 100000\n", "cpu.max.burst": "0\n", "io.bfq.weight": "default 100\n",
}

func testFacts(v2, update bool, now map[string]string) Facts {
	f := Facts{
		V2: v2, Update: update, Controllers: v1Controllers,
		Read: func(_, file string) (string, error) {
			text, ok := now[file]
			if !ok {
				text, ok = fresh[file]
			}
			if !ok || text == "(missing)" {
				return "", os.ErrNotExist
			}
			return text, nil
		},
	}
	if v2 {
		f.Controllers = []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"}
	}
	return f
}

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", file, got)
	}
}

func TestPlanGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/plan/*.json")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Update bool
				Now    map[string]string
				Linux  *specs.Linux
			}
			if err := json.Unmarshal(text, &c); err != nil {
				t.Fatal(err)
			}
			r := c.Linux.Resources
			if !c.Update {
				if r == nil {
					r = &specs.LinuxResources{}
				}
				r.Devices = DeviceRules(c.Linux)
			}
			var out strings.Builder
			for _, v2 := range []bool{false, true} {
				fmt.Fprintf(&out, "# cgroup v%d\n", map[bool]int{false: 1, true: 2}[v2])
				facts := testFacts(v2, c.Update, c.Now)
				writes, err := Plan(r, facts)
				for _, w := range writes {
					fmt.Fprintln(&out, w)
				}
				props, _, failed := unitProperties(writes, facts)
				for _, p := range props {
					fmt.Fprintf(&out, "systemd  %s = %v\n", p.name, p.value)
				}
				err = cmp.Or(err, failed)
				if err != nil {
					fmt.Fprintln(&out, "error:", err)
				}
				for _, w := range warnings(r, facts) {
					fmt.Fprintln(&out, "warning:", w)
				}
			}
			golden(t, strings.TrimSuffix(file, ".json")+".golden", out.String())
		})
	}
}

// Nothing is left out silently: without any of the fields something is different,
// the writes, the error, or the warnings.
func TestEveryFieldMatters(t *testing.T) {
	text, err := os.ReadFile("testdata/plan/full.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Linux struct{ Resources map[string]any }
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	all := c.Linux.Resources
	delete(all, "devices") // a rule may say what is so anyway
	for _, facts := range []Facts{
		testFacts(false, false, nil), testFacts(true, false, nil), testFacts(true, false, map[string]string{bfq: "(missing)"}),
	} {
		outcome := func() string {
			text, err := json.Marshal(all)
			if err != nil {
				t.Fatal(err)
			}
			r := resources(t, string(text))
			writes, err := Plan(r, facts)
			return fmt.Sprint(writes, err, warnings(r, facts))
		}
		whole := outcome()
		var without func(path string, part any)
		without = func(path string, part any) {
			if strings.Contains(whole, "linux.resources"+path+" is ignored") {
				return
			}
			switch part := part.(type) {
			case []any:
				for i, p := range part {
					without(fmt.Sprintf("%s[%d]", path, i), p)
				}
			case map[string]any:
				for name, value := range part {
					delete(part, name)
					if outcome() == whole {
						t.Errorf("v2 %v: linux.resources%s.%s is left out silently", facts.V2, path, name)
					}
					part[name] = value
					without(path+"."+name, value)
				}
			}
		}
		without("", all)
	}
}

func TestPlanErrors(t *testing.T) {
	for _, c := range []struct{ v, r, want string }{
		{"1", `{"unified": {"memory.high": "1"}}`, `linux.resources.unified: these are files of cgroup v2, and this machine has v1`},
		{"1", `{"memory": {"swappiness": 101}}`, `linux.resources.memory.swappiness: 101 is not between 0 and 100`},
		{"1", `{"cpu": {"shares": 1}}`, `linux.resources.cpu.shares: the minimum is 2`},
		{"1", `{"cpu": {"shares": 262145}}`, `linux.resources.cpu.shares: the maximum is 262144`},
		{"1", `{"devices": [{"allow": true, "access": ""}]}`, `linux.resources.devices[0]: access is empty`},
		{"12", `{"devices": [{"allow": true, "type": "p", "access": "r"}]}`, `linux.resources.devices[0]: type "p" is none of a, b, c`},
		{"12", `{"devices": [{"allow": true, "type": "c", "major": -2, "access": "r"}]}`, `linux.resources.devices[0]: there is no device c *:*`},
		{"12", `{"devices": [{"allow": true, "type": "c", "major": 1, "access": "rw"}, {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"}]}`,
			`linux.resources.devices[1]: c 1:3 w cannot be taken out of the rule for c 1:* rw`},
		{"2", `{"memory": {"limit": 2, "swap": 1}}`, `linux.resources.memory.swap: the limit of memory and swap together (1) is below the one of memory (2)`},
		{"2", `{"memory": {"swap": 1}}`, `linux.resources.memory.swap: no limit of swap is possible without one of memory`},
		{"2", `{"memory": {"limit": 4096, "checkBeforeUpdate": true}}`, `linux.resources.memory.limit: 4096 is not above the usage, 4096`},
		{"2", `{"unified": {"a/b.c": "1"}}`, `linux.resources.unified["a/b.c"]: it must be a file name`},
		{"2", `{"unified": {"high": "1"}}`, `linux.resources.unified["high"]: it must have the form CONTROLLER.PARAMETER`},
		{"2", `{"unified": {"..": "1"}}`, `linux.resources.unified[".."]: it must have the form CONTROLLER.PARAMETER`},
		{"2", `{"unified": {"net.x": "1"}}`, `linux.resources.unified["net.x"]: the cgroup has no net controller`},
		{"12", `{"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}`, `linux.resources.hugepageLimits[0]: "../x" is no page size`},
	} {
		for _, v := range c.v {
			var r specs.LinuxResources
			if err := json.Unmarshal([]byte(c.r), &r); err != nil {
				t.Fatal(err)
			}
			_, err := Plan(&r, testFacts(v == '2', false, nil))
			if err == nil || err.Error() != c.want || !errors.Is(err, spec.ErrInvalid) {
				t.Errorf("v%c %s:\ngot  %v\nwant %s", v, c.r, err, c.want)
			}
		}
	}
}

// A controller that is missing matters only to a real limit.
func TestPlanMissingController(t *testing.T) {
	none := testFacts(false, true, map[string]string{"memory.memsw.limit_in_bytes": "(missing)"})
	none.Controllers = nil
	for r, want := range map[string]string{
		`{"memory": {"limit": -1, "swap": -1, "reservation": -1}, "cpu": {"quota": -1, "burst": 0, "idle": 0}, "pids": {"limit": -1}}`: "",
		`{"memory": {"limit": 1}}`:                              "linux.resources.memory.limit: the cgroup has no memory controller",
		`{"cpu": {"period": 1}}`:                                "linux.resources.cpu.period: the cgroup has no cpu controller",
		`{"pids": {"limit": 1}}`:                                "linux.resources.pids.limit: the cgroup has no pids controller",
		`{"network": {"classID": 1}}`:                           "linux.resources.network.classID: the cgroup has no net_cls controller",
		`{"hugepageLimits": [{"limit": 1, "pageSize": "2MB"}]}`: "linux.resources.hugepageLimits[0]: the cgroup has no hugetlb controller",
	} {
		var rs specs.LinuxResources
		if err := json.Unmarshal([]byte(r), &rs); err != nil {
			t.Fatal(err)
		}
		writes, err := Plan(&rs, none)
		if got := fmt.Sprint(err); want == "" && (err != nil || len(writes) > 0) || want != "" && got != want {
			t.Errorf("%s: got %v %v, want %q", r, writes, err, want)
		}
	}
}

// Numbers of runc 1.5 (opencontainers/cgroups 0.1.0).
func TestConversions(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 3: 2, 100: 17, 512: 59, 1024: 100, 2048: 174, 262143: 10000, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
	for _, c := range []struct {
		limit, total int64
		want         string
	}{{0, 0, ""}, {-1, 0, "max"}, {100, 0, ""}, {100, -1, "max"}, {-1, 50, "50"}, {100, 100, "0"}, {100, 150, "50"}} {
		if got, err := swapMax(c.limit, c.total); got != c.want || err != nil {
			t.Errorf("swapMax(%d, %d) = %q, %v; want %q", c.limit, c.total, got, err, c.want)
		}
	}
}

// model is a kernel that knows what it refuses about limits which depend on
// each other. Below a parent that allows half of the CPU time.
type model struct {
	v2     bool
	values map[string]string
}

func newModel(v2 bool) *model {
	m := &model{v2: v2, values: map[string]string{
		"memory.limit_in_bytes": "max", "memory.memsw.limit_in_bytes": "max",
		"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpu.cfs_burst_us": "0",
		"cpu.rt_runtime_us": "0", "cpu.rt_period_us": "1000000",
		"memory.max": "max", "memory.swap.max": "max", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.idle": "0",
	}}
	return m
}

func (m *model) number(file string) uint64 { return number(m.values[file]) }

func (m *model) write(w Write) error {
	old, known := m.values[w.File]
	if !known {
		return nil
	}
	m.values[w.File] = w.Value
	bad := func() bool {
		quota, period := m.number("cpu.cfs_quota_us"), m.number("cpu.cfs_period_us")
		burst := m.number("cpu.cfs_burst_us")
		if m.v2 {
			f := strings.Fields(m.values["cpu.max"])
			quota, period, burst = number(f[0]), number(f[1]), m.number("cpu.max.burst")
		}
		rt, rtPeriod := m.number("cpu.rt_runtime_us"), m.number("cpu.rt_period_us")
		switch {
		case period < 1000 || period > 1000000 || quota < 1000:
			return true
		case quota != unlimited && burst > quota:
			return true
		case !m.v2 && quota != unlimited && quota*2 > period:
			return true // v2 takes the smaller of its own and the parent's
		case rt > rtPeriod || rt*2 > rtPeriod:
			return true
		case !m.v2 && m.number("memory.limit_in_bytes") > m.number("memory.memsw.limit_in_bytes"):
			return true
		}
		return false
	}()
	if bad {
		m.values[w.File] = old
		return fmt.Errorf("%v: EINVAL", w)
	}
	return nil
}

func (m *model) facts(update bool) Facts {
	f := testFacts(m.v2, update, m.values)
	read := f.Read
	f.Read = func(c, file string) (string, error) {
		text, err := read(c, file)
		if text == "max" && !m.v2 {
			text = "9223372036854771712"
		}
		return text + "\n", err
	}
	return f
}

// Whatever limits are followed by whatever others, if the kernel takes them at
// all: none of the writes in between is refused.
func TestPlanOrder(t *testing.T) {
	pick := func(from ...int64) int64 { return from[rand.IntN(len(from))] }
	for range 5000 {
		for _, v2 := range []bool{false, true} {
			m := newModel(v2)
			var done []string
			for step := range 6 {
				limit := pick(-1, 1<<20, 1<<21, 1<<24, 1<<30)
				swap := pick(-1, 1<<20, 1<<21, 1<<24, 1<<30)
				if swap != -1 && (limit == -1 || limit > swap) {
					swap = -1
				}
				period := pick(1000, 5000, 50000, 100000, 1000000)
				quota := pick(-1, period/2, period/4, period/100)
				if quota >= 0 && quota < 1000 {
					quota = -1
				}
				burst := uint64(pick(0, 500, 1000, 10000, 400000))
				if quota > 0 && burst > uint64(quota) {
					burst = uint64(quota)
				}
				rtPeriod := pick(1000, 100000, 1000000)
				rt := pick(rtPeriod/2, rtPeriod/5, 1)
				uperiod, urtPeriod := uint64(period), uint64(rtPeriod)
				r := &specs.LinuxResources{
					Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap},
					CPU:    &specs.LinuxCPU{Quota: &quota, Period: &uperiod, Burst: &burst, RealtimeRuntime: &rt, RealtimePeriod: &urtPeriod},
				}
				writes, err := Plan(r, m.facts(step > 0))
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range writes {
					done = append(done, w.String())
					if err := m.write(w); err != nil {
						t.Fatalf("%v\nafter\n%s", err, strings.Join(done, "\n"))
					}
				}
			}
		}
	}
}

// Taking back every write, in reverse, is never refused, and leads back.
func TestInverse(t *testing.T) {
	list := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	for _, c := range []struct{ file, value, before, want string }{
		{"memory.max", "1", "max\n", "max"},
		{"cpu.max", "1 2", "max 100000\n", "max 100000"},
		{"cpuset.cpus", "0", "\n", ""},
		{"cpuset.cpus", "", "0-1\n", "0-1"},
		{"memory.high", "5\n", "max\n", "max"},
		{"memory.oom_control", "1", list("oom_kill_disable 0", "under_oom 0", "oom_kill 3"), "0"},
		{"io.max", "8:0 rbps=1", list("8:0 rbps=max wbps=5 riops=max wiops=max", "8:16 rbps=7 wbps=max riops=max wiops=max"), "8:0 rbps=max wbps=5 riops=max wiops=max"},
		{"io.max", "8:32 rbps=1", "", "8:32 rbps=max wbps=max riops=max wiops=max"},
		{"io.max", "8:0 rbps=1\n8:16 wbps=2", list("8:0 rbps=9 wbps=max riops=max wiops=max"), "8:0 rbps=9 wbps=max riops=max wiops=max\n8:16 rbps=max wbps=max riops=max wiops=max"},
		{"io.bfq.weight", "300", list("default 100", "8:0 200"), "100"},
		{"io.bfq.weight", "8:0 300", list("default 100", "8:0 200"), "8:0 200"},
		{"io.bfq.weight", "8:1 300", list("default 100", "8:0 200"), "8:1 default"},
		{"io.weight", "default 300", list("default 100"), "default 100"},
		{"blkio.throttle.read_bps_device", "8:0 1", list("8:0 4096", "8:01 5"), "8:0 4096"},
		{"blkio.throttle.read_bps_device", "8:0 1", list("8:00 4096"), "8:0 0"},
		{"rdma.max", "mlx4_0 hca_handle=2", list("mlx4_0 hca_handle=max hca_object=9"), "mlx4_0 hca_handle=max hca_object=9"},
		{"rdma.max", "mlx4_1 hca_handle=2", "", "mlx4_1 hca_handle=max hca_object=max"},
		{"net_prio.ifpriomap", "eth0 5", list("lo 0", "eth0 1"), "eth0 1"},
	} {
		if got := inverse(Write{File: c.file, Value: c.value}, c.before); got.Value != c.want {
			t.Errorf("inverse of %q in %s, before %q: got %q, want %q", c.value, c.file, c.before, got.Value, c.want)
		}
	}
}

func FuzzPlan(f *testing.F) {
	cases, _ := filepath.Glob("testdata/plan/*.json")
	for _, file := range cases {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var c struct {
			Linux struct{ Resources json.RawMessage }
		}
		if err := json.Unmarshal(text, &c); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(c.Linux.Resources), "67108864\n")
	}
	f.Add([]byte(`{"unified": {"io.max": "8:0 rbps=1\n\n8:16 wbps=2"}}`), "")
	f.Fuzz(func(t *testing.T, text []byte, now string) {
		var r specs.LinuxResources
		if json.Unmarshal(text, &r) != nil {
			return
		}
		r.Devices = DeviceRules(&specs.Linux{Resources: &r})
		for _, v2 := range []bool{false, true} {
			for _, update := range []bool{false, true} {
				facts := testFacts(v2, update, nil)
				facts.Read = func(_, file string) (string, error) {
					if file == "devices.list" {
						return "a *:* rwm\n", nil
					}
					if now == "" {
						return "", os.ErrNotExist
					}
					return now, nil
				}
				first, err := Plan(&r, facts)
				second, again := Plan(&r, facts)
				if fmt.Sprint(first, err) != fmt.Sprint(second, again) {
					t.Fatalf("two plans of the same:\n%v %v\n%v %v", first, err, second, again)
				}
				if err != nil && !errors.Is(err, spec.ErrInvalid) {
					t.Fatalf("%v is not spec.ErrInvalid", err)
				}
				if _, _, err := unitProperties(first, facts); err != nil && !errors.Is(err, spec.ErrInvalid) {
					t.Fatalf("%v is not spec.ErrInvalid", err)
				}
				for _, w := range first {
					if strings.ContainsAny(w.File, "/") || w.File == "" || w.File == ".." || !strings.HasPrefix(w.Field, "linux.resources.") {
						t.Fatalf("a write that must not be: %v", w)
					}
					inverse(w, now)
				}
			}
		}
	})
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]uint64{"max\n": unlimited, "-1": unlimited, "9223372036854771712": unlimited, "18446744073709551615": unlimited, "0\n": 0, "4096": 4096} {
		if got := number(text); got != want {
			t.Errorf("number(%q) = %s", text, strconv.FormatUint(got, 10))
		}
	}
}
