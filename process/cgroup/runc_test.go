package cgroup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestLikeRunc gives the same limits to a container of runc and to a group of
// ours, and sixty others one after the other, and compares all files each time.
// RUNC is the path of runc 1.5, if it is not the one that "make tools" builds:
//
//	RUNC=/usr/sbin/runc go test -run LikeRunc
func TestLikeRunc(t *testing.T) {
	t.Run("cgroupfs", func(t *testing.T) { likeRunc(t, false, 10) })
	t.Run("systemd", func(t *testing.T) {
		needSystemd(t)
		likeRunc(t, true, 3) // systemctl is slow
	})
}

const updates = 60

func likeRunc(t *testing.T, systemd bool, rounds int) {
	needRoot(t)
	runc := os.Getenv("RUNC")
	if runc == "" {
		runc = "../../bin/runc"
	}
	if _, err := os.Stat(runc); err != nil {
		t.Skipf("*** NOT COMPARED with runc: %v ***", err)
	}
	all := 0 // rounds that came to the end
	defer func() {
		t.Logf("%d rounds of %d updates", all, updates)
		if all < rounds/2 {
			t.Error("too few")
		}
	}()
	for round := range rounds {
		rng := rand.New(rand.NewPCG(uint64(round), 1))
		idle := round%3 == 2 // after which shares are refused, by the kernel
		r := randomResources(rng, false, idle)
		theirs := newRuncContainer(t, runc, r, systemd)
		var ours *Group
		if systemd {
			ours = newScope(t, fmt.Sprint("likerunc", round), r)
		} else {
			var err error
			ours, err = Create(location(t, "TestLikeRunc"), r)
			ok(t, err)
			cleanUp(t, ours)
		}
		start(t, ours, "sleep")
		ok(t, ours.Set(&specs.Linux{Resources: r}))
		history := []string{describe(r)}
		if compare(t, history, ours, theirs.group) {
			t.FailNow()
		}
		if systemd {
			sameUnits(t, ours.Unit, theirs.group.Unit)
		}
		text, err := os.ReadFile("/proc/" + theirs.pid + "/cgroup")
		ok(t, err)
		where := parseProcCgroup(string(text))
		for _, d := range ours.dirs {
			equal(t, fmt.Sprintf("runc's group in %v", d.Controllers), where[strings.Join(d.Controllers, ",")], theirs.group.dirs[0].Path)
		}
		for i := range updates {
			r := randomResources(rng, true, idle)
			history = append(history, describe(r))
			before := everything(t, ours)
			want := theirs.update(r)
			got := ours.Update(r)
			if (got == nil) != (want == nil) {
				t.Fatalf("%s\nours: %v\nrunc: %v", strings.Join(history, "\n"), got, want)
			}
			if got != nil { // runc does not find back
				t.Log(got)
				sameFiles(t, everything(t, ours), before)
				break
			}
			if systemd {
				sameUnits(t, ours.Unit, theirs.group.Unit)
			}
			if compare(t, history, ours, theirs.group) {
				t.FailNow()
			}
			if i == updates-1 {
				all++
			}
		}
		ok(t, ours.Kill())
		ok(t, ours.Delete(t.Context()))
		theirs.delete()
	}
}

func describe(r *specs.LinuxResources) string {
	text, _ := json.Marshal(r)
	return string(text)
}

func compare(t *testing.T, history []string, ours, theirs *Group) (different bool) {
	t.Helper()
	want := everything(t, theirs)
	for name, got := range everything(t, ours) {
		name = strings.Replace(name, ours.dirs[0].Path, theirs.dirs[0].Path, 1)
		// systemd forgets the period when there is no quota.
		if ours.Unit != "" && strings.HasPrefix(got, "max ") && strings.HasPrefix(want[name], "max ") {
			continue
		}
		if period, ok := strings.CutSuffix(name, "cfs_period_us"); ok && ours.Unit != "" && want[period+"cfs_quota_us"] == "-1\n" {
			continue
		}
		if want[name] != got {
			t.Errorf("%s\n%s: ours %q, runc's %q", strings.Join(history, "\n"), name, got, want[name])
			different = true
		}
	}
	return different
}

func some[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// randomResources are limits that the machine takes, mostly.
func randomResources(rng *rand.Rand, update, idle bool) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	maybe := func(f func()) {
		if rng.IntN(3) > 0 {
			f()
		}
	}
	const mb = 1 << 20
	maybe(func() {
		limit := some[int64](rng, -1, 64*mb, 128*mb, 256*mb, 1000*mb)
		swap := some[int64](rng, -1, 256*mb, 512*mb, 2000*mb)
		r.Memory = &specs.LinuxMemory{Limit: &limit}
		if limit == -1 || swap != -1 && swap < limit {
			swap = -1
		}
		r.Memory.Swap = &swap
		if rng.IntN(2) == 0 {
			low := some[int64](rng, 16*mb, 32*mb)
			r.Memory.Reservation = &low
		}
		if !update && rng.IntN(2) == 0 {
			n, disable := some[uint64](rng, 0, 10, 60, 100), some(rng, true, false)
			r.Memory.Swappiness, r.Memory.DisableOOMKiller = &n, &disable
		}
	})
	maybe(func() {
		r.CPU = &specs.LinuxCPU{}
		maybe(func() { n := some[uint64](rng, 2, 100, 512, 1024, 2048, 100000, 262144); r.CPU.Shares = &n })
		maybe(func() {
			period := some[uint64](rng, 1000, 10000, 100000, 1000000)
			quota := some(rng, -1, int64(period), int64(period)*2, int64(period)/2+1000)
			r.CPU.Period, r.CPU.Quota = &period, &quota
			burst := some[uint64](rng, 0, 500, 1000)
			r.CPU.Burst = &burst
		})
		maybe(func() { r.CPU.Cpus = some(rng, "0", cpus(), lastCPU()) })
		maybe(func() { r.CPU.Mems = "0" })
		if idle && r.CPU.Shares == nil && rng.IntN(10) == 0 {
			n := some[int64](rng, 0, 1)
			r.CPU.Idle = &n
		}
	})
	maybe(func() { n := some[int64](rng, -1, 0, 50, 1000); r.Pids = &specs.LinuxPids{Limit: &n} })
	maybe(func() {
		dev := func(rate uint64) []specs.LinuxThrottleDevice {
			d := specs.LinuxThrottleDevice{Rate: rate}
			d.Major, d.Minor = 7, some[int64](rng, 0, 1)
			return []specs.LinuxThrottleDevice{d}
		}
		r.BlockIO = &specs.LinuxBlockIO{}
		maybe(func() { r.BlockIO.ThrottleReadBpsDevice = dev(some[uint64](rng, 1<<20, 1<<22)) })
		maybe(func() { r.BlockIO.ThrottleWriteBpsDevice = dev(some[uint64](rng, 1<<20, 1<<22)) })
		maybe(func() { r.BlockIO.ThrottleReadIOPSDevice = dev(some[uint64](rng, 100, 1000)) })
		maybe(func() { r.BlockIO.ThrottleWriteIOPSDevice = dev(some[uint64](rng, 100, 1000)) })
	})
	if !update {
		maybe(func() {
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: some(rng, true, false), Access: "rwm"})
			maybe(func() { r.Devices = append(r.Devices, allow("b", 7, 0, "rw")) })
			maybe(func() { r.Devices = append(r.Devices, allow("c", 10, -1, "r")) })
		})
	}
	return r
}

type runcContainer struct {
	t       *testing.T
	runc    string
	state   string
	systemd string
	group   *Group
	pid     string
}

// newRuncContainer makes a container that waits to be started.
func newRuncContainer(t *testing.T, runc string, r *specs.LinuxResources, systemd bool) *runcContainer {
	t.Helper()
	bundle := t.TempDir()
	c := &runcContainer{t: t, runc: runc, state: t.TempDir(), systemd: "--systemd-cgroup=false"}
	ok(t, os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755))
	ok(t, os.WriteFile(filepath.Join(bundle, "rootfs", "init"), nil, 0o755))
	l := location(t, "TestLikeRunc-runc")
	path := l.Dirs[0].Path
	if systemd {
		path = testSlice + ":runc:differential"
		var err error
		l, err = Resolve(path, "", true)
		ok(t, err)
		c.systemd = "--systemd-cgroup=true"
	}
	spec := specs.Spec{
		Version: "1.2.0",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/", Args: []string{"/init"}, Env: []string{"PATH=/"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: path, Resources: r,
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}},
		},
	}
	text, err := json.Marshal(spec)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644))
	t.Cleanup(c.delete)
	log, err := os.Create(bundle + "/log") // not a pipe, which the container would keep
	ok(t, err)
	defer log.Close()
	if err := retryCrash(func() *exec.Cmd {
		_ = exec.Command(runc, "--root", c.state, c.systemd, "delete", "--force", "differential").Run()
		create := exec.Command(runc, "--root", c.state, c.systemd, "create", "--bundle", bundle, "--pid-file", bundle+"/pid", "differential")
		create.Stdout, create.Stderr = log, log
		return create
	}); err != nil {
		text, _ := os.ReadFile(bundle + "/log")
		t.Fatalf("runc create: %v: %s", err, text)
	}
	pid, err := os.ReadFile(bundle + "/pid")
	ok(t, err)
	c.pid = string(pid)
	if c.group, err = Open(l); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *runcContainer) update(r *specs.LinuxResources) error {
	var out bytes.Buffer
	err := retryCrash(func() *exec.Cmd {
		out.Reset()
		cmd := exec.Command(c.runc, "--root", c.state, c.systemd, "update", "-r", "-", "differential")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(describe(r)), &out, &out
		return cmd
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	return nil
}

// retryCrash: runc crashes at random in an emulated machine (QEMU without KVM).
func retryCrash(cmd func() *exec.Cmd) (err error) {
	for range 10 {
		c := cmd()
		if err = c.Run(); c.ProcessState.Exited() && c.ProcessState.ExitCode() < 2 {
			return err
		}
	}
	return err
}

func (c *runcContainer) delete() {
	if c.group == nil {
		return
	}
	if err := retryCrash(func() *exec.Cmd {
		return exec.Command(c.runc, "--root", c.state, c.systemd, "delete", "--force", "differential")
	}); err != nil {
		c.t.Errorf("runc delete: %v", err)
	}
	c.group.Close()
	c.group = nil
}
