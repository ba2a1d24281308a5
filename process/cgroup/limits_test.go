package cgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/myshim/myshim/process/spec"
)

func needController(t testing.TB, g *Group, controllers ...string) {
	t.Helper()
	f, err := g.facts(false)
	ok(t, err)
	for _, c := range controllers {
		if !slices.Contains(f.Controllers, c) {
			t.Skipf("needs the %s controller", c)
		}
	}
}

func TestSet(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory", "cpu", "pids", "cpuset")
	ok(t, g.Set(&specs.Linux{Resources: resources(t, `{
		"memory": {"limit": 67108864, "reservation": 33554432, "swap": 134217728},
		"cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 1000, "cpus": "0", "mems": "0"},
		"pids": {"limit": 100}}`)}))
	want := map[string]string{
		"cpu/cpu.shares": "512", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "200000", "cpu/cpu.cfs_burst_us": "1000",
		"cpuset/cpuset.cpus": "0", "cpuset/cpuset.mems": "0", "memory/memory.limit_in_bytes": "67108864",
		"memory/memory.memsw.limit_in_bytes": "134217728", "memory/memory.soft_limit_in_bytes": "33554432", "pids/pids.max": "100",
	}
	if g.V2() {
		want = map[string]string{
			"cpu/cpu.weight": "59", "cpu/cpu.max": "50000 200000", "cpu/cpu.max.burst": "1000", "cpuset/cpuset.cpus": "0",
			"cpuset/cpuset.mems": "0", "memory/memory.max": "67108864", "memory/memory.low": "33554432", "pids/pids.max": "100",
		}
	}
	for name, value := range want {
		controller, name, _ := strings.Cut(name, "/")
		equal(t, name, file(t, g, controller, name), value)
	}
}

func TestSetErrors(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory", "cpu")
	cpu := map[bool]string{false: `linux.resources.cpu.quota: write "5" to cpu.cfs_quota_us: invalid argument`, true: `linux.resources.cpu.quota: write "5 100000" to cpu.max: invalid argument`}[g.V2()]
	for r, want := range map[string]string{
		`{"cpu": {"quota": 5}}`:                                 cpu,
		`{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}`: "linux.resources.hugepageLimits[0]: ",
		`{"rdma": {"nodevice": {"hcaObjects": 1}}}`:             `linux.resources.rdma["nodevice"]: `,
	} {
		if err := g.Set(&specs.Linux{Resources: resources(t, r)}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", r, err, want)
		}
	}
	if g.V2() {
		err := g.Update(resources(t, `{"unified": {"memory.nofile": "1"}}`))
		if want := `linux.resources.unified["memory.nofile"]: write "1" to memory.nofile: no such file or directory`; fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What the group has cannot be read: that is not the same as nothing.
func TestUnreadable(t *testing.T) {
	for name, g := range map[string]*Group{
		"cgroup.controllers": fakeGroup(t, Dir{}, nil),
		"devices.list":       fakeGroup(t, Dir{Controllers: []string{"devices"}}, nil),
	} {
		err := g.Set(nil)
		if !errors.Is(err, unix.ENOENT) || errors.Is(err, spec.ErrInvalid) || !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("got %v, want one about %s", err, name)
		}
	}
}

// A limit below what is in use: v1 refuses it, and tells.
func TestMemoryBelowUsage(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory")
	if g.V2() {
		t.Skip("cgroup v2 takes any limit")
	}
	d := g.dir("memory")
	ok(t, d.write("memory.swappiness", "0"))
	start(t, g, "hold", "33554432")
	eventually(t, "memory", func() bool { return number(file(t, g, "memory", "memory.usage_in_bytes")) > 32<<20 })
	err := g.Update(resources(t, `{"memory": {"limit": 1048576}}`))
	if err == nil || !strings.HasPrefix(err.Error(), `linux.resources.memory.limit: write "1048576" to memory.limit_in_bytes: device or resource busy: it is below the usage, `) {
		t.Errorf("got %v", err)
	}
}

// Half-done updates leave nothing: each starts from other limits, and fails at
// its very end.
func TestUpdateRollsBack(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory", "cpu", "pids", "cpuset", map[bool]string{false: "blkio", true: "io"}[g.V2()])
	start(t, g, "sleep")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := randomResources(rng, true, true)
		if r.CPU != nil {
			r.CPU.Idle = nil
		}
		if err := g.Update(r); err != nil {
			t.Fatalf("%s: %v", describe(r), err)
		}
		before := everything(t, g)
		r = randomResources(rng, true, true)
		if r.CPU != nil {
			r.CPU.Idle = nil
		}
		if r.BlockIO == nil {
			r.BlockIO = &specs.LinuxBlockIO{}
		}
		bad := specs.LinuxThrottleDevice{Rate: 1}
		bad.Major, bad.Minor = 999, 999
		r.BlockIO.ThrottleWriteIOPSDevice = append(r.BlockIO.ThrottleWriteIOPSDevice, bad)
		err := g.Update(r)
		if err == nil || !errors.Is(err, unix.ENODEV) || strings.Contains(err.Error(), "and back") {
			t.Fatalf("%s: %v", describe(r), err)
		}
		sameFiles(t, everything(t, g), before)
		if t.Failed() {
			t.Fatal(describe(r))
		}
	}
}

// Swap, quota and burst cross each other in every direction on the real kernel.
func TestUpdateOrder(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory", "cpu")
	for _, r := range []string{
		`{"memory": {"limit": 67108864, "swap": 67108864}}`,
		`{"memory": {"limit": 134217728, "swap": 134217728}}`,
		`{"memory": {"limit": 33554432, "swap": 33554432}}`,
		`{"memory": {"limit": -1}}`,
		`{"memory": {"limit": 33554432, "swap": 67108864}}`,
		`{"memory": {"limit": 50331648}}`,
		`{"memory": {"swap": 134217728}}`,
		`{"memory": {"limit": -1, "swap": -1}}`,
		`{"cpu": {"quota": 10000, "period": 10000, "burst": 10000}}`,
		`{"cpu": {"quota": 200000, "period": 200000, "burst": 200000}}`,
		`{"cpu": {"quota": 1000, "period": 2000, "burst": 0}}`,
		`{"cpu": {"period": 4000}}`,
		`{"cpu": {"quota": 2000}}`,
		`{"cpu": {"quota": -1, "burst": 0}}`,
		`{"cpu": {"idle": 1}}`,
		`{"cpu": {"idle": 0, "shares": 100}}`,
	} {
		if err := g.Update(resources(t, r)); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
}

func TestDevices(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, map[bool]string{false: "devices", true: "memory"}[g.V2()])
	ok(t, g.Set(&specs.Linux{Resources: resources(t, `{"devices": [
		{"allow": false, "access": "rwm"},
		{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
		{"allow": true, "type": "c", "major": 10, "minor": 237, "access": "rw"}]}`)}))
	kmsg := "/dev/kmsg"
	for _, c := range []struct {
		want int
		args []string
	}{
		{0, []string{"open", "/dev/null", "rw"}},
		{0, []string{"open", "/dev/urandom", "r"}},
		{0, []string{"open", kmsg, "r"}},
		{1, []string{"open", kmsg, "w"}},
		{1, []string{"open", kmsg, "rw"}},
		{1, []string{"open", "/dev/loop0", "r"}},
		{0, []string{"open", "/dev/loop-control", "rw"}},
		{0, []string{"mknod", t.TempDir() + "/x", "99", "99"}},
	} {
		if _, err := os.Stat(c.args[1]); err != nil && c.args[0] == "open" {
			t.Log(err)
			continue
		}
		equal(t, strings.Join(c.args, " "), result(t, g, c.args...), c.want)
	}
	if !g.V2() {
		equal(t, "devices.list", file(t, g, "devices", "devices.list"), strings.Join([]string{
			"b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 1:11 r",
			"c 5:0 rwm", "c 5:2 rwm", "c 10:200 rwm", "c 10:237 rw", "c 136:* rwm"}, "\n"))
	}
	// Everything but one; and in place of the rules above, not besides them.
	ok(t, g.Set(&specs.Linux{Resources: resources(t, `{"devices": [
		{"allow": true, "access": "rwm"},
		{"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}]}`)}))
	equal(t, "read", result(t, g, "open", kmsg, "r"), 0)
	equal(t, "write", result(t, g, "open", kmsg, "w"), 1)
	equal(t, "read and write", result(t, g, "open", kmsg, "rw"), 1)
	if g.V2() {
		fd, err := unix.Open(g.dirs[0].absolute(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		ok(t, err)
		defer unix.Close(fd)
		ids, err := attachedPrograms(fd)
		ok(t, err)
		equal(t, "programs", len(ids), 1)
	}
	// An update leaves them.
	ok(t, g.Update(resources(t, `{"devices": [{"allow": true, "access": "rwm"}]}`)))
	equal(t, "write after update", result(t, g, "open", kmsg, "w"), 1)
}

func TestPidsLimit(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "pids")
	ok(t, g.Update(resources(t, `{"pids": {"limit": 2}}`)))
	start(t, g, "/bin/sleep", "1000")
	if result(t, g, "/bin/sh", "-c", "(exit 0); exit 0") == 0 {
		t.Error("forked beyond the limit")
	}
	ok(t, g.Update(resources(t, `{"pids": {"limit": -1}}`)))
	equal(t, "fork without limit", result(t, g, "/bin/sh", "-c", "(exit 0); exit 0"), 0)
}

// Who wants more is stopped, again and again; without a quota, not any more.
func TestCPUQuota(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "cpu")
	ok(t, g.Update(resources(t, `{"cpu": {"quota": 2000, "period": 10000}}`)))
	start(t, g, "spin")
	throttled := func() uint64 {
		s, err := g.Stats()
		ok(t, err)
		switch m := s.(type) {
		case *v1.Metrics:
			return m.CPU.Throttling.ThrottledPeriods
		case *v2.Metrics:
			return m.CPU.NrThrottled
		}
		return 0
	}
	eventually(t, "stops", func() bool { return throttled() > 10 })
	ok(t, g.Update(resources(t, `{"cpu": {"quota": -1}}`)))
	before := throttled()
	time.Sleep(100 * time.Millisecond)
	equal(t, "stops without a quota", throttled(), before)
}

func TestOOM(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory")
	sibling, err := Create(location(t, "TestOOM-sibling"), nil)
	ok(t, err)
	cleanUp(t, sibling)
	bystander := start(t, sibling, "sleep")
	var kills, reports, others atomic.Int64
	ok(t, g.WatchOOM(func(n uint64) { kills.Add(int64(n)); reports.Add(1) }))
	ok(t, sibling.WatchOOM(func(uint64) { others.Add(1) }))
	ok(t, g.Set(&specs.Linux{Resources: resources(t, `{"memory": {"limit": 16777216, "swap": 16777216}}`)}))
	for i := range int64(5) {
		equal(t, "end", result(t, g, "hog", "134217728"), -int(unix.SIGKILL))
		g.CheckOOM()
		equal(t, "reported when the exit has been seen", kills.Load(), i+1)
	}
	time.Sleep(50 * time.Millisecond)
	g.CheckOOM()
	equal(t, "kills", kills.Load(), 5)
	equal(t, "reports", reports.Load(), 5)
	equal(t, "reports of the sibling", others.Load(), 0)
	equal(t, "killed in the group", g.OOMKilled(), true)
	equal(t, "killed in the sibling", sibling.OOMKilled(), false)
	ok(t, bystander.Process.Signal(unix.Signal(0)))

	// Without CheckOOM: the watcher is told.
	equal(t, "end", result(t, g, "hog", "134217728"), -int(unix.SIGKILL))
	eventually(t, "report", func() bool { return kills.Load() == 6 })
}

// A thousand groups are watched by one goroutine.
func TestOOMWatcherIsOne(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "memory")
	ok(t, g.WatchOOM(func(uint64) {}))
	before := footprint()
	for i := range 20 {
		more, err := Create(location(t, fmt.Sprint("TestOOMWatcherIsOne", i)), nil)
		ok(t, err)
		cleanUp(t, more)
		ok(t, more.WatchOOM(func(uint64) {}))
	}
	goroutines := func(s string) string { return s[strings.LastIndex(strings.TrimSpace(s), "\n")+1:] }
	equal(t, "goroutines", goroutines(footprint()), goroutines(before))
}

// What is no limit has its own number in v1 and v2.
func TestStatsWithoutLimits(t *testing.T) {
	g := newTestGroup(t)
	needController(t, g, "pids")
	start(t, g, "hold", "1048576")
	got, err := g.Stats()
	ok(t, err)
	if mine, unified := got.(*v2.Metrics); unified {
		m, err := cgroup2.Load(g.dirs[0].Path)
		ok(t, err)
		stat, err := m.Stat()
		ok(t, err)
		equal(t, "limit of pids", mine.Pids.Limit, stat.Pids.Limit)
		equal(t, "limit of memory", mine.Memory.UsageLimit, stat.Memory.UsageLimit)
		return
	}
	mine := got.(*v1.Metrics)
	c, err := cgroup1.Load(cgroup1.StaticPath(g.dirs[0].Path))
	ok(t, err)
	stat, err := c.Stat(cgroup1.IgnoreNotExist)
	ok(t, err)
	equal(t, "limit of pids", mine.Pids.Limit, stat.Pids.Limit)
	equal(t, "limit of memory", mine.Memory.Usage.Limit, stat.Memory.Usage.Limit)
}

// The statistics are those of containerd's own collectors.
func TestStats(t *testing.T) {
	g := newTestGroup(t)
	ok(t, g.Set(&specs.Linux{Resources: resources(t, `{"pids": {"limit": 100}, "memory": {"limit": 67108864}, "cpu": {"quota": 50000}}`)}))
	scratch := filepath.Join(t.TempDir(), "file")
	equal(t, "work", result(t, g, "/bin/dd", "if=/dev/zero", "of="+scratch, "bs=1M", "count=8", "conv=fsync", "status=none"), 0)
	start(t, g, "hold", "1048576")
	var last string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(last)
		}
	})
	eventually(t, "the same statistics", func() bool { // some of them move
		got, err := g.Stats()
		ok(t, err)
		var want proto.Message
		if g.V2() {
			m, err := cgroup2.Load(g.dirs[0].Path)
			ok(t, err)
			stat, err := m.Stat()
			ok(t, err)
			mine := got.(*v2.Metrics)
			mine.Memory.WorkingsetRefault, mine.Memory.WorkingsetActivate = 0, 0 // which they don't find
			for _, h := range [][]*v2.HugeTlbStat{mine.Hugetlb, stat.Hugetlb} {
				slices.SortFunc(h, func(a, b *v2.HugeTlbStat) int { return strings.Compare(a.Pagesize, b.Pagesize) })
			}
			want = stat
			if mine.Memory.Usage == 0 || mine.Memory.UsageLimit != 67108864 || mine.Pids.Current == 0 || mine.Pids.Limit != 100 || mine.Memory.SwapLimit == 0 {
				t.Errorf("statistics: %v", mine)
			}
		} else {
			c, err := cgroup1.Load(cgroup1.StaticPath(g.dirs[0].Path))
			ok(t, err)
			stat, err := c.Stat(cgroup1.IgnoreNotExist)
			ok(t, err)
			mine := got.(*v1.Metrics)
			want = stat
			if mine.Memory.Usage.Usage == 0 || mine.Memory.Usage.Limit != 67108864 || mine.Pids.Current == 0 || mine.Pids.Limit != 100 || mine.CPU.Usage.Total == 0 || len(mine.CPU.Usage.PerCPU) == 0 {
				t.Errorf("statistics: %v", mine)
			}
		}
		if proto.Equal(got.(proto.Message), want) {
			return true
		}
		last = fmt.Sprintf("ours   %v\ntheirs %v", got, want)
		return false
	})
	ok(t, g.Kill())
	eventually(t, "end", func() bool { return g.Delete(t.Context()) == nil })
	if _, err := g.Stats(); !errors.Is(err, ErrDeleted) {
		t.Errorf("Stats after Delete: %v", err)
	}
}

// Somebody else removed the group: not zeros, but an error.
func TestStatsOfRemoved(t *testing.T) {
	g := newTestGroup(t)
	for _, d := range g.dirs {
		ok(t, os.Remove(d.absolute()))
	}
	if s, err := g.Stats(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, %v", s, err)
	}
	if pids, err := g.Pids(); len(pids) != 0 || err != nil {
		t.Errorf("got %v, %v", pids, err)
	}
	if err := g.Freeze(t.Context()); err == nil || !strings.Contains(err.Error(), "open "+g.freezer().absolute()+"/") {
		t.Errorf("Freeze: got %v, want the file that was opened", err)
	}
	ok(t, g.Kill())
}

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]uint64{"max": 1<<64 - 1, "5": 5, "-5": 0, strconv.FormatUint(1<<63, 10): 1 << 63} {
		if got, err := parseNumber(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
}
