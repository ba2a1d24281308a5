package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// UnifiedOnly tells that the machine has no v1 controllers.
func unifiedOnly() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// CgroupFile reads a file of the container's cgroup, by its names in v1 and v2.
func (b *box) cgroupFile(controller, v1, v2 string) string {
	b.e.Helper()
	path := filepath.Join("/sys/fs/cgroup", controller, harness.Tag, b.c.ID(), v1)
	if unifiedOnly() {
		path = filepath.Join("/sys/fs/cgroup", harness.Tag, b.c.ID(), v2)
	}
	data, err := os.ReadFile(path)
	b.e.must(err)
	return strings.TrimSpace(string(data))
}

// Usage is what both kinds of metrics have.
type usage struct{ cpu, memory, memoryLimit, pids, oomKills uint64 }

func (b *box) metrics() (usage, error) {
	b.e.Helper()
	m, err := b.task.Metrics(b.e.ctx)
	if err != nil {
		return usage{}, err
	}
	data, err := typeurl.UnmarshalAny(m.Data)
	b.e.must(err)
	switch m := data.(type) {
	case *cgroup1.Metrics:
		return usage{m.CPU.Usage.Total / 1000, m.Memory.Usage.Usage, m.Memory.Usage.Limit, m.Pids.Current, m.MemoryOomControl.GetOomKill()}, nil
	case *cgroup2.Metrics:
		return usage{m.CPU.UsageUsec, m.Memory.Usage, m.Memory.UsageLimit, m.Pids.Current, m.MemoryEvents.GetOomKill()}, nil
	}
	b.e.Fatalf("metrics of type %T", data)
	return usage{}, nil
}

func TestMetrics(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("all", "cpuhog", "0.3", "--", "memhog", fmt.Sprint(32<<20), "inf"), withSpec(oci.WithMemoryLimit(100<<20)))
		b.await("touched")
		u, err := b.metrics()
		e.must(err)
		if u.cpu < 50_000 || u.memory < 32<<20 || u.memoryLimit != 100<<20 || u.pids < 1 {
			e.Errorf("%+v", u)
		}
		if got, err := strconv.ParseUint(b.cgroupFile("pids", "pids.current", "pids.current"), 10, 64); err != nil || got != u.pids {
			e.Errorf("%d pids by the metrics, %d by the cgroup", u.pids, got)
		}
		b.kill(9)
		b.wait()
		if after, err := b.metrics(); err != nil || after.cpu < u.cpu {
			e.Errorf("metrics of a stopped container: %+v, %v", after, err)
		}
		b.remove()
		if _, err := b.metrics(); !errdefs.IsNotFound(err) {
			e.Errorf("metrics of a deleted container: %v", err)
		}
	})
}

// "No limit" is a number that everybody knows.
func TestMetricsWithoutLimit(t *testing.T) {
	each(t, func(e *env) {
		u, err := e.launch(still()).metrics()
		e.must(err)
		want := uint64(9223372036854771712)
		if unifiedOnly() {
			want = 1<<64 - 1
		}
		if u.memoryLimit != want {
			e.Errorf("memory limit %d, want %d", u.memoryLimit, want)
		}
	})
}

func TestPidsLimit(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still(), withSpec(oci.WithPidsLimit(30)))
		if got := b.cgroupFile("pids", "pids.max", "pids.max"); got != "30" {
			e.Errorf("pids.max %s", got)
		}
		r := b.execRun([]string{"forkbomb", "100"})
		var bomb struct {
			Started int
			Error   string
		}
		e.must(json.Unmarshal([]byte(r.out), &bomb))
		if bomb.Started < 5 || bomb.Started > 28 || !strings.Contains(bomb.Error, "EAGAIN") {
			e.Errorf("%+v", bomb)
		}
		if r := b.execRun([]string{"echo", "after the bomb"}); r.out != "after the bomb\n" {
			e.Errorf("%+v", r)
		}
	})
}

// The kernel kills what is too big and nothing else; containerd is told.
func TestMemoryLimit(t *testing.T) {
	each(t, func(e *env) {
		events, errs := e.daemon.Client.Subscribe(e.ctx, `topic=="/tasks/oom"`)
		sibling := e.launch(testbox("memhog", fmt.Sprint(40<<20), "inf"), withSpec(oci.WithMemoryLimit(64<<20)))
		sibling.await("touched")
		b := e.launch(still(), withSpec(oci.WithMemoryLimit(64<<20)))
		if r := b.execRun([]string{"memhog", fmt.Sprint(256 << 20)}); r.code != 137 || r.out != "" {
			e.Errorf("memory hog: %+v", r)
		}
		select {
		case envelope := <-events:
			body, err := typeurl.UnmarshalAny(envelope.Event)
			e.must(err)
			if id := body.(*eventsapi.TaskOOM).ContainerID; id != b.c.ID() {
				e.Errorf("out of memory in %s, want %s", id, b.c.ID())
			}
		case err := <-errs:
			e.Fatalf("no event: %v", err)
		}
		if u, err := b.metrics(); err != nil || u.oomKills != 1 {
			e.Errorf("metrics %+v, %v, want one kill", u, err)
		}
		for _, alive := range []*box{b, sibling} {
			if s := alive.state(); s != client.Running {
				e.Errorf("%s is %s", alive.c.ID(), s)
			}
		}
		if r := b.execRun([]string{"memhog", fmt.Sprint(16 << 20)}); r.code != 0 {
			e.Errorf("a small exec afterwards: %+v", r)
		}
	})
}

func TestUpdate(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still(), withSpec(oci.WithMemoryLimit(64<<20), oci.WithPidsLimit(100)))
		change := func(r *specs.LinuxResources) {
			e.Helper()
			e.must(b.task.Update(e.ctx, client.WithResources(r)))
		}
		number := func(n int64) *int64 { return &n }
		memory := func() string { return b.cgroupFile("memory", "memory.limit_in_bytes", "memory.max") }

		change(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number(200 << 20)}})
		if got := memory(); got != fmt.Sprint(200<<20) {
			e.Errorf("memory limit %s", got)
		}
		e.must(b.task.Pause(e.ctx))
		change(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number(100 << 20)}, Pids: &specs.LinuxPids{Limit: number(50)}})
		e.must(b.task.Resume(e.ctx))
		if got := memory(); got != fmt.Sprint(100<<20) {
			e.Errorf("memory limit %s", got)
		}
		if got := b.cgroupFile("pids", "pids.max", "pids.max"); got != "50" {
			e.Errorf("pids.max %s", got)
		}
		quota, period, shares := int64(50_000), uint64(200_000), uint64(512)
		change(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}})
		if got := b.cgroupFile("cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
			e.Errorf("cpu quota %s", got)
		}
		// A limit below what is used: the error says so, and what was stays.
		if err := b.task.Update(e.ctx, client.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4096"}})); err == nil {
			e.Error("a CPU that doesn't exist is accepted")
		}
		if s := b.state(); s != client.Running {
			e.Errorf("after a failed update: %s", s)
		}
	})
}

// Paused means that nothing runs, not only that the state says so.
func TestPause(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("ticks", "0.002"))
		for range 3 {
			b.await("tick")
			e.must(b.task.Pause(e.ctx))
			if state := b.cgroupFile("freezer", "freezer.state", "cgroup.freeze"); state != "FROZEN" && state != "1" {
				e.Errorf("the cgroup is %s", state)
			}
			var before int
			for before != b.out.Len() { // until all is copied that was written before
				before = b.out.Len()
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond) // nothing may come
			if after := b.out.Len(); after != before {
				e.Errorf("%d bytes of output while paused", after-before)
			}
			e.must(b.task.Resume(e.ctx))
			e.must(b.out.AwaitFunc(e.ctx, "more output", func(all string) bool { return len(all) > before }))
		}
	})
}

// MiscMinor is the number of the first of these devices that the kernel has; all
// of them can be opened by whoever may.
func miscMinor(e *env, names ...string) int {
	e.Helper()
	fields := strings.Fields(procFS{dir: "/proc"}.read("misc"))
	for _, name := range names {
		if i := slices.Index(fields, name); i > 0 {
			n, err := strconv.Atoi(fields[i-1])
			e.must(err)
			return n
		}
	}
	e.Skipf("the kernel has none of the devices %q", names)
	return 0
}

// The container's cgroup namespace is rooted at its own cgroup, in every
// hierarchy, also for execs.
func TestCgroupNamespace(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still(), withSpec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace})))
		r := b.execRun([]string{"cat", "/proc/self/cgroup", "/proc/1/cgroup"})
		for _, line := range strings.Split(strings.TrimSpace(r.out), "\n") {
			if !strings.HasSuffix(line, ":/") {
				e.Errorf("cgroup %q", line)
			}
		}
	})
}

// Execs are in the container's cgroup, in every hierarchy.
func TestExecCgroup(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		p := b.exec([]string{"/bin/still"})
		init := (procFS{dir: fmt.Sprint("/proc/", b.Pid())}).read("cgroup")
		exec := (procFS{dir: fmt.Sprint("/proc/", p.Pid())}).read("cgroup")
		if init != exec || strings.Count(init, b.c.ID()) == 0 {
			e.Errorf("init in\n%s\nexec in\n%s", init, exec)
		}
	})
}

// A controller that the kernel lacks is an error only for who asks for it.
func TestMissingController(t *testing.T) {
	each(t, func(e *env) {
		if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil || unifiedOnly() {
			e.Skip("every controller is there")
		}
		_, err := e.tryCreate(still(), withIO(cio.NullIO), edit(func(s *specs.Spec) {
			s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}
		}))
		if err == nil || !strings.Contains(err.Error(), "hugetlb") {
			e.Errorf("create: %v", err)
		}
	})
}

// Without a path the runtime finds one, and removes it.
func TestDefaultCgroupPath(t *testing.T) {
	each(t, func(e *env) {
		r := e.run(testbox("cat", "/proc/self/cgroup"), withSpec(oci.WithCgroup("")))
		if !strings.Contains(r.out, harness.Tag) {
			e.Errorf("not in a cgroup of its own: %s", r.out)
		}
	})
}
