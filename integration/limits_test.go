package integration

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What is limited stays below its limit, and gets it: 5 % are the slack of the
// scheduler's periods at both ends.
func TestCPUQuota(t *testing.T) {
	each(t, func(e *env) {
		const share, seconds = 0.2, 10
		tolerance := 0.05
		if patience() > 1 { // the kernel's ticks come late then
			tolerance = 0.2
		}
		r := e.run(testbox("cpuhog", strconv.Itoa(seconds)), withSpec(oci.WithCPUCFS(share*100_000, 100_000)))
		used, err := strconv.ParseFloat(strings.TrimSpace(r.out), 64)
		e.must(err)
		got := used / seconds
		e.Logf("%.4f of a CPU, quota %v", got, share)
		if math.Abs(got/share-1) > tolerance {
			e.Errorf("%.4f of a CPU with a quota of %v", got, share)
		}
	})
}

// A fork bomb fills its own container and nothing else: its shim answers, and
// other containers can be started and run.
func TestForkBomb(t *testing.T) {
	each(t, func(e *env) {
		const limit = 50
		sibling := e.launch(still(), withSpec(oci.WithPidsLimit(limit)))
		b := e.launch(testbox("all", "forkbomb", "1000", "inf"), withSpec(oci.WithPidsLimit(limit)))
		b.await("EAGAIN")
		if u, err := b.metrics(); err != nil || u.pids < limit-1 || u.pids > limit {
			e.Errorf("the bomb's pids: %+v, %v", u, err)
		}
		if !e.oracle() { // it moves a process in that was started outside: that is not counted
			p, err := b.tryExec([]string{"/bin/still"})
			e.must(err)
			if err := p.Start(e.ctx); err == nil || !strings.Contains(err.Error(), "resource temporarily unavailable") {
				e.Errorf("exec in a full container: %v", err)
			}
			_, err = p.Delete(e.ctx)
			e.must(err)
		}
		if r := sibling.execRun([]string{"echo", "sibling"}); r.out != "sibling\n" {
			e.Errorf("exec in another container: %+v", r)
		}
		if r := e.run(testbox("echo", "new")); r.out != "new\n" {
			e.Errorf("another container: %+v", r)
		}
		b.kill(unix.SIGKILL)
		if code := b.wait(); code != 137 {
			e.Errorf("exit code %d", code)
		}
	})
}

// A limit on a device holds, in both directions, as does its change while the
// container runs.
func TestIOLimit(t *testing.T) {
	each(t, func(e *env) {
		const size, rate = 2 << 20, 2 << 20
		minor := e.loopDevice(2 * size)
		mode := os.FileMode(0o600)
		major := int64(7)
		b := e.launch(still(), edit(func(s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/disk", Type: "b", Major: major, Minor: minor, FileMode: &mode})
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: "rw"})
			s.Linux.Resources.BlockIO = throttle(minor, rate)
		}))
		transfer := func(direction string) float64 {
			e.Helper()
			r := b.execRun([]string{"direct", "/dev/disk", direction, strconv.Itoa(size)})
			seconds, err := strconv.ParseFloat(strings.TrimSpace(r.out), 64)
			if err != nil {
				e.Fatalf("%s: %+v", direction, r)
			}
			return seconds
		}
		for _, direction := range []string{"write", "read"} {
			if s := transfer(direction); s < 0.85*size/rate || s > 1.5*size/rate {
				e.Errorf("%s of %d bytes at %d a second takes %.2f s", direction, size, rate, s)
			}
		}
		e.must(b.task.Update(e.ctx, client.WithResources(&specs.LinuxResources{BlockIO: throttle(minor, 100*rate)})))
		for _, direction := range []string{"write", "read"} {
			if s := transfer(direction); s > 0.5*size/rate {
				e.Errorf("%s of %d bytes at %d a second takes %.2f s", direction, size, 100*rate, s)
			}
		}
	})
}

func throttle(minor int64, rate uint64) *specs.LinuxBlockIO {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = 7, minor
	return &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}, ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{d}}
}

// LoopDevice makes one of a file, and returns its minor number.
func (e *env) loopDevice(size int64) int64 {
	e.Helper()
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		e.Skipf("*** I/O limits NOT TESTED: /dev/loop-control: %v ***", err)
	}
	defer unix.Close(control)
	file, err := os.Create(filepath.Join(e.dir(), "disk"))
	e.must(err)
	defer file.Close()
	e.must(file.Truncate(size))
	for {
		minor, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		e.must(err)
		device, err := os.OpenFile(fmt.Sprint("/dev/loop", minor), os.O_RDWR, 0)
		e.must(err)
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd())})
		if errors.Is(err, unix.EBUSY) { // somebody else was faster
			device.Close()
			continue
		}
		e.must(err)
		e.Cleanup(func() {
			if err := errors.Join(unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0), device.Close()); err != nil {
				e.Error(err)
			}
		})
		return int64(minor)
	}
}

// Device rules allow and deny exactly what they say; the last one that fits counts.
func TestDevices(t *testing.T) {
	each(t, func(e *env) {
		type rules = []specs.LinuxDeviceCgroup
		number := func(n int64) *int64 { return &n }
		rule := func(allow bool, kind string, major, minor *int64, access string) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access}
		}
		major, minor := number(10), number(int64(miscMinor(e, "fuse", "loop-control", "cpu_dma_latency")))
		all := func(allow bool) specs.LinuxDeviceCgroup { return rule(allow, "a", nil, nil, "rwm") }
		this := func(allow bool, access string) specs.LinuxDeviceCgroup { return rule(allow, "c", major, minor, access) }
		for name, c := range map[string]struct {
			rules []specs.LinuxDeviceCgroup
			want  string // what it can be opened for
		}{
			"one":             {rules{all(false), this(true, "rw")}, "rw"},
			"read only":       {rules{all(false), this(true, "r")}, "r"},
			"write only":      {rules{all(false), this(true, "w")}, "w"},
			"make only":       {rules{all(false), this(true, "m")}, ""},
			"a whole major":   {rules{all(false), rule(true, "c", major, nil, "rw")}, "rw"},
			"all of its kind": {rules{all(false), rule(true, "c", nil, nil, "r")}, "r"},
			"a minor":         {rules{all(false), rule(true, "c", nil, minor, "rw")}, "rw"},
			"another kind":    {rules{all(false), rule(true, "b", major, minor, "rw")}, ""},
			"another minor":   {rules{all(false), rule(true, "c", major, number(*minor+1), "rw")}, ""},
			"taken back":      {rules{all(false), this(true, "rw"), this(false, "w")}, "r"},
			"everything":      {rules{all(true)}, "rw"},
			"all but one":     {rules{all(true), this(false, "rwm")}, ""},
			"all but writing": {rules{all(true), this(false, "w")}, "r"},
			"nothing is said": {nil, ""},
		} {
			words := []string{"all"}
			// Zero is among the devices that every container has.
			for _, device := range []string{"/dev/probe", "/dev/zero"} {
				words = append(words, "open", device, "rdonly", "--", "open", device, "wronly", "--")
			}
			r := e.run(testbox(append(words, "echo", "end")...), edit(func(s *specs.Spec) {
				mode := os.FileMode(0o600)
				s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/probe", Type: "c", Major: *major, Minor: *minor, FileMode: &mode})
				s.Linux.Resources.Devices = c.rules
			}))
			var want []string
			for _, access := range []string{"r", "w"} {
				if strings.Contains(c.want, access) {
					want = append(want, "ok")
				} else {
					want = append(want, "EPERM")
				}
			}
			want = append(want, "ok", "ok", "end")
			if got := strings.Fields(r.out); !slices.Equal(got, want) {
				e.Errorf("%s: reading and writing the device, then /dev/zero: %q, want %q", name, got, want)
			}
		}
	})
}

// AllLimits are of every kind that the machine has.
func allLimits() *specs.LinuxResources {
	memory, reservation, quota, pids := int64(64<<20), int64(32<<20), int64(50_000), int64(100)
	shares, period := uint64(512), uint64(100_000)
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory, Reservation: &reservation},
		CPU:    &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
}

// The whole life of many containers, twenty at a time. What is left in any
// hierarchy is found by the check after the test.
func TestLimitsOfMany(t *testing.T) {
	each(t, func(e *env) { e.limitsOfMany(func(string) opt { return func(*setup) {} }) })
}

// The same with systemd, which has to be left without a unit of ours.
func TestScopesOfMany(t *testing.T) {
	needSystemd(t)
	each(t, func(e *env) {
		slice := e.slice()
		e.limitsOfMany(func(id string) opt { return e.withScope(slice, id) })
		out, err := exec.CommandContext(e.ctx, "systemctl", "list-units", "--all", "--plain", "--no-legend", "test-"+harness.Tag+"-*").Output()
		if err != nil || len(out) > 0 {
			e.Errorf("units that are left: %s, %v", out, err)
		}
	})
}

func (e *env) limitsOfMany(where func(id string) opt) {
	e.Helper()
	const batch = 20
	rounds := count(5, 25)
	if patience() > 1 {
		rounds = 2 // systemd needs seconds for each container there
	}
	for range rounds {
		boxes := make([]*box, batch)
		for i := range boxes {
			id := newID()
			boxes[i], _ = e.newBox(withID(id), still(), where(id), edit(func(s *specs.Spec) {
				limits := allLimits()
				limits.Devices = s.Linux.Resources.Devices
				s.Linux.Resources = limits
			}))
		}
		done := make(chan error, batch)
		for i, b := range boxes {
			go func() { done <- b.limitedLife(e.ctx, int64(100+i)) }()
		}
		for range boxes {
			err := <-done
			if err != nil && e.oracle() && strings.Contains(err.Error(), "unable to freeze") {
				e.Logf("runc gives up under load: %v", err)
			} else if err != nil {
				e.Error(err)
			}
		}
	}
}

func (b *box) limitedLife(ctx context.Context, pids int64) error {
	task, err := b.c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return fmt.Errorf("create %s: %w", b.c.ID(), err)
	}
	exit, err := task.Wait(ctx)
	life := []struct {
		name string
		step func() error
	}{
		{"wait", func() error { return err }},
		{"start", func() error { return task.Start(ctx) }},
		{"update", func() error {
			return task.Update(ctx, client.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}))
		}},
		{"pause", func() error { return task.Pause(ctx) }},
		{"resume", func() error { return task.Resume(ctx) }},
		{"kill", func() error { return task.Kill(ctx, unix.SIGKILL) }},
		{"exit", func() error { return exitedWith(ctx, exit, 137) }},
	}
	var failed error
	for _, s := range life {
		if err := s.step(); err != nil {
			failed = fmt.Errorf("%s %s: %w", s.name, b.c.ID(), err)
			break
		}
	}
	_, err = task.Delete(ctx, client.WithProcessKill)
	return errors.Join(failed, err)
}

func exitedWith(ctx context.Context, exit <-chan client.ExitStatus, want uint32) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case status := <-exit:
		if code, _, err := status.Result(); err != nil || code != want {
			return fmt.Errorf("exit code %d, want %d: %w", code, want, err)
		}
		return nil
	}
}

// A container that is given its cgroups divides them as systemd does: processes
// move to a group below, limits are handed on. Execs, of which none can be born
// in the container's group then, follow its init; all of it is counted, frozen
// and removed.
func TestDelegation(t *testing.T) {
	each(t, func(e *env) {
		if !unifiedOnly() {
			e.Skip("needs cgroup v2")
		}
		const root = "/sys/fs/cgroup"
		b := e.launch(
			testbox("all", "mkdir", root+"/inner/deeper", "--", "put", root+"/inner/cgroup.procs", "0", "--",
				"put", root+"/cgroup.subtree_control", "+memory +pids", "--", "put", root+"/inner/pids.max", "77", "--", "trap"),
			withSpec(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}),
				oci.WithMounts([]specs.Mount{{Type: "cgroup", Source: "cgroup", Destination: root, Options: []string{"nosuid", "noexec", "nodev", "relatime", "rw"}}})))
		b.await("ready")
		if r := b.execRun([]string{"cat", "/proc/1/cgroup", "/proc/self/cgroup"}); r.out != "0::/inner\n0::/inner\n" {
			e.Errorf("init and exec are in %+v", r)
		}
		if got := b.cgroupFile("", "", "inner/pids.max"); got != "77" {
			e.Errorf("the container's own limit is %s", got)
		}
		if u, err := b.metrics(); err != nil || u.pids < 2 {
			e.Errorf("metrics %+v, %v", u, err)
		}
		e.must(b.task.Pause(e.ctx))
		if got := b.cgroupFile("", "", "inner/cgroup.events"); !strings.Contains(got, "frozen 1") {
			e.Errorf("while paused: %s", got)
		}
		e.must(b.task.Resume(e.ctx))
	})
}
