package cgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// testSlice is the slice of all scopes of the tests.
var testSlice = fmt.Sprintf("myshimtest%d.slice", os.Getpid())

func needSystemd(t testing.TB) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("needs systemd to be running")
	}
	t.Cleanup(func() {
		if out, err := exec.Command("systemctl", "stop", testSlice).CombinedOutput(); err != nil {
			t.Errorf("systemctl stop: %v: %s", err, out)
		}
	})
}

// hold is a process for CreateScope.
func hold() (int, func(), error) {
	c := exec.Command("/bin/sleep", "1000")
	if err := c.Start(); err != nil {
		return 0, nil, err
	}
	return c.Process.Pid, func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}, nil
}

func newScope(t testing.TB, name string, r *specs.LinuxResources) *Group {
	t.Helper()
	l, err := Resolve(testSlice+":test:"+name, "", false)
	ok(t, err)
	g, err := CreateScope(t.Context(), l, r, map[string]string{"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.CollectMode": "'inactive-or-failed'"}, hold)
	ok(t, err)
	cleanUp(t, g)
	return g
}

// show is what systemctl says of a unit.
func show(t testing.TB, unit string) map[string]string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", unit).Output()
	ok(t, err)
	all := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "DeviceAllow" && all[name] != "" { // a line for each
			value = all[name] + "; " + value
		}
		all[name] = value
	}
	return all
}

// sameUnits compares all properties but those which tell the units apart, those
// that move, and those where we say more than runc: no swap, which runc leaves
// out, and limits of devices.
func sameUnits(t testing.TB, ours, theirs string) {
	t.Helper()
	want := show(t, theirs)
	for name, got := range show(t, ours) {
		switch {
		case strings.Contains(name, "Timestamp"), strings.HasPrefix(name, "IO"), strings.HasSuffix(name, "NSec"), strings.HasSuffix(name, "Current"),
			name == "Id", name == "Names", name == "Description", name == "ControlGroup", name == "ControlGroupId", name == "InvocationID",
			name == "MemorySwapMax", name == "MemoryAvailable", name == "TimeoutStopUSec", name == "CollectMode", name == "EffectiveCPUs", name == "EffectiveMemoryNodes",
			name == "FragmentPath", name == "DropInPaths", name == "NeedDaemonReload", name == "Documentation", name == "Transient":
		case got != want[name]:
			t.Errorf("%s: %s of %s is %q, of %s %q", t.Name(), name, ours, got, theirs, want[name])
		}
	}
}

func TestScope(t *testing.T) {
	needSystemd(t)
	r := resources(t, `{"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"quota": 33333, "period": 100000, "shares": 512}, "pids": {"limit": 100},
		"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}],
		"unified": {"memory.high": "50000000"}}`)
	r.CPU.Cpus = cpus()
	if l := location(t, ""); !l.V2() {
		r.Unified = nil
	}
	g := newScope(t, "scope", r)
	c := start(t, g, "sleep")
	ok(t, g.Set(&specs.Linux{Resources: r}))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	ok(t, err)
	for controllers, where := range parseProcCgroup(string(text)) {
		if d := g.dir(strings.Split(controllers, ",")[0]); d != nil {
			equal(t, "group in "+controllers, where, "/"+testSlice+"/test-scope.scope")
		}
	}
	pids, err := g.Pids()
	ok(t, err)
	equal(t, "pids", fmt.Sprint(pids), fmt.Sprint([]int{c.Process.Pid})) // without the one that held it
	unit := show(t, g.Unit)
	for name, want := range map[string]string{
		"Delegate": "yes", "TasksMax": "100", "Slice": testSlice, "CPUQuotaPerSecUSec": "340ms", "CPUQuotaPeriodUSec": "100ms",
		"AllowedCPUs": cpus(), "DevicePolicy": "strict", "TimeoutStopUSec": "7s", "ActiveState": "active",
	} {
		equal(t, name, unit[name], want)
	}
	if !strings.Contains(unit["DeviceAllow"], "/dev/char/1:11 r") {
		t.Errorf("DeviceAllow: %s", unit["DeviceAllow"])
	}
	if g.V2() {
		for name, want := range map[string]string{"MemoryMax": "67108864", "MemorySwapMax": "0", "MemoryHigh": "50000000", "CPUWeight": "59"} {
			equal(t, name, unit[name], want)
		}
		equal(t, "cpu.max", file(t, g, "", "cpu.max"), "34000 100000")
	}
	equal(t, "open /dev/kmsg", result(t, g, "open", "/dev/kmsg", "r"), 0)
	equal(t, "write to /dev/kmsg", result(t, g, "open", "/dev/kmsg", "w"), 1)

	ok(t, g.Update(resources(t, `{"cpu": {"quota": 20000}, "pids": {"limit": -1}}`)))
	unit = show(t, g.Unit)
	equal(t, "TasksMax", unit["TasksMax"], "infinity")
	equal(t, "CPUQuotaPerSecUSec", unit["CPUQuotaPerSecUSec"], "200ms")

	// What systemd knows survives it writing everything again.
	before := everything(t, g)
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	sameFiles(t, everything(t, g), before)

	// Refused by the kernel: systemd is not told, not of what was empty before either.
	// (The file is not empty again: a group with processes must not lose its nodes.)
	bad := `{"pids": {"limit": 7}, "cpu": {"mems": "0"}, "blockIO": {"throttleReadBpsDevice": [{"major": 999, "minor": 999, "rate": 1}]}}`
	if err := g.Update(resources(t, bad)); err == nil {
		t.Error("no error")
	}
	unit = show(t, g.Unit)
	equal(t, "TasksMax", unit["TasksMax"], "infinity")
	if g.V2() {
		equal(t, "AllowedMemoryNodes", unit["AllowedMemoryNodes"], "")
	}

	ok(t, g.Freeze(t.Context()))
	ok(t, g.Thaw())
	ok(t, g.Kill())
	_ = c.Wait()
	ok(t, g.Delete(t.Context()))
	equal(t, "LoadState", show(t, g.Unit)["LoadState"], "not-found")
}

// Whatever fails, the unit is gone.
func TestScopeFails(t *testing.T) {
	needSystemd(t)
	l, err := Resolve(testSlice+":test:fails", "", true)
	ok(t, err)
	_, err = CreateScope(t.Context(), l, nil, map[string]string{"org.systemd.property.NoSuchThing": "1"}, hold)
	if err == nil || !strings.HasPrefix(err.Error(), "start unit test-fails.scope: ") {
		t.Errorf("got %v", err)
	}
	broken := errors.New("no process")
	if _, err = CreateScope(t.Context(), l, nil, nil, func() (int, func(), error) { return 0, nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	equal(t, "LoadState", show(t, l.Unit)["LoadState"], "not-found")
}

// The scope of a container that was killed for want of memory has failed, as
// systemd sees it; a new one can have the name at once.
func TestScopeAgain(t *testing.T) {
	needSystemd(t)
	for range 3 {
		l, err := Resolve(testSlice+":test:again", "", false)
		ok(t, err)
		g, err := CreateScope(t.Context(), l, nil, nil, hold)
		ok(t, err)
		cleanUp(t, g)
		kills := make(chan uint64, 9)
		ok(t, g.WatchOOM(func(n uint64) { kills <- n }))
		ok(t, g.Set(&specs.Linux{Resources: resources(t, `{"memory": {"limit": 16777216, "swap": 16777216}}`)}))
		if code := result(t, g, "hog", "134217728"); code != -9 {
			t.Errorf("end: %d", code)
		}
		g.CheckOOM()
		equal(t, "kills", <-kills, 1)
		ok(t, g.Delete(t.Context()))
		equal(t, "LoadState", show(t, g.Unit)["LoadState"], "not-found")
	}
}

// A scope that exists is not taken, and not stopped either.
func TestScopeTaken(t *testing.T) {
	needSystemd(t)
	l, err := Resolve(testSlice+":test:taken", "", false)
	ok(t, err)
	g, err := CreateScope(t.Context(), l, nil, nil, hold)
	ok(t, err)
	cleanUp(t, g)
	if _, err := CreateScope(t.Context(), l, nil, nil, hold); err == nil || !strings.Contains(err.Error(), l.Unit) {
		t.Errorf("it is made twice: %v", err)
	}
	equal(t, "ActiveState", show(t, g.Unit)["ActiveState"], "active")
	pids, err := g.Pids()
	ok(t, err)
	equal(t, "processes", len(pids), 1)
	ok(t, g.Delete(t.Context()))
}

func TestScopesAtOnce(t *testing.T) {
	needSystemd(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			l, err := Resolve(fmt.Sprintf("%s:test:many%d", testSlice, i), "", false)
			if err != nil {
				t.Error(err)
				return
			}
			g, err := CreateScope(context.Background(), l, nil, nil, hold)
			if err != nil {
				t.Error(err)
				return
			}
			err = errors.Join(g.Set(nil), g.Freeze(context.Background()), g.Thaw(), g.Kill())
			if err := errors.Join(err, g.Delete(context.Background())); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestResolveUnit(t *testing.T) {
	for _, c := range []struct {
		path    string
		systemd bool
		want    string
	}{
		{"system.slice:docker:web", true, "system.slice /system.slice/docker-web.scope"},
		{"", true, "system.slice /system.slice/myshim-id.scope"},
		{":docker:web", true, "system.slice /system.slice/docker-web.scope"},
		{"kubepods-besteffort-podabc.slice:cri-containerd:web", false, "kubepods-besteffort-podabc.slice /kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podabc.slice/cri-containerd-web.scope"},
		{"-.slice:a:b", true, "-.slice /a-b.scope"},
		{"system.slice:docker", true, `linux.cgroupsPath: "system.slice:docker" must have the form slice:prefix:name with systemd`},
		{"/a/b", true, `linux.cgroupsPath: "/a/b" must have the form slice:prefix:name with systemd`},
		{"a--b.slice:x:y", true, `linux.cgroupsPath: "a--b.slice" is no slice`},
		{"../x.slice:x:y", true, `linux.cgroupsPath: "../x.slice" is no slice`},
		{"a:x:y", true, `linux.cgroupsPath: "a" is no slice`},
		{"a.slice:x:y.slice", true, `linux.cgroupsPath: "y.slice" is a slice: it cannot have processes`},
		{"a.slice:x:../../y", true, `linux.cgroupsPath: "x-../../y.scope" is no name of a unit`},
		{"a.slice:x:", true, `linux.cgroupsPath: "x-.scope" is no name of a unit`},
	} {
		l, err := Resolve(c.path, "id", c.systemd)
		var got string
		if err != nil {
			got = err.Error()
			if !errors.Is(err, spec.ErrInvalid) {
				t.Errorf("%s: %v is not spec.ErrInvalid", c.path, err)
			}
		} else {
			got = l.Slice + " " + l.Dirs[0].Path
			equal(t, "unit", l.Unit, path.Base(l.Dirs[0].Path))
		}
		equal(t, c.path, got, c.want)
	}
}

func TestBits(t *testing.T) {
	for list, want := range map[string]string{
		"0": "[{AllowedCPUs [1]}]", "0-7": "[{AllowedCPUs [255]}]", "1, 8-9,": "[{AllowedCPUs [2 3]}]", "63": "[{AllowedCPUs [0 0 0 0 0 0 0 128]}]",
		"": "[{AllowedCPUs []}]", "3-1": "f: \"3-1\" in \"3-1\" is not a range below 8192", "x": "f: \"x\" in \"x\" is not a number",
	} {
		props, _, err := unitProperties([]Write{{File: "cpuset.cpus", Value: list, Field: "f"}}, Facts{})
		got := fmt.Sprint(props)
		if err != nil {
			got = err.Error()
		}
		equal(t, list, got, want)
	}
}

func TestPerSecond(t *testing.T) {
	for _, c := range []struct{ quota, period, share, rounded uint64 }{
		{50000, 100000, 500000, 50000}, {33333, 100000, 340000, 34000}, {1000, 1000, 1000000, 1000}, {unlimited, 100000, math.MaxUint64, unlimited},
	} {
		share, rounded := perSecond(c.quota, c.period)
		if share != c.share || rounded != c.rounded {
			t.Errorf("%d of %d: %d, %d; want %d, %d", c.quota, c.period, share, rounded, c.share, c.rounded)
		}
	}
}

func TestAnnotated(t *testing.T) {
	props, err := annotated(map[string]string{
		"org.systemd.property.TimeoutStopSec": "uint32 5", "org.systemd.property.RuntimeMaxUSec": "uint64 7", "org.systemd.property.Foo": "'x'", "other": "y",
	})
	ok(t, err)
	equal(t, "properties", fmt.Sprint(props), `[{Foo {{s} x}} {RuntimeMaxUSec {{t} 7}} {TimeoutStopUSec {{t} 5000000}}]`)
	for _, bad := range []map[string]string{
		{"org.systemd.property.X": "1"}, {"org.systemd.property.A-b": "1"}, {"org.systemd.property.Abc": "not dbus"}, {"org.systemd.property.WaitSec": "'x'"},
	} {
		if _, err := annotated(bad); !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestDeviceProperties(t *testing.T) {
	for _, c := range []struct{ rules, want string }{
		{`[{"allow": true, "access": "rwm"}]`, `[{DeviceAllow []} {DevicePolicy auto}]`},
		{`[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}]`, `[{DeviceAllow []} {DevicePolicy strict}]`},
		{`[{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}, {"allow": true, "type": "b", "major": 8, "access": "r"}, {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "c", "minor": 7, "access": "m"}]`,
			`[{DeviceAllow []} {DevicePolicy strict} {DeviceAllow [{char-* m} {/dev/char/1:3 rw} {block-8 r}]}]`},
	} {
		r := resources(t, `{"devices": `+c.rules+`}`)
		props, err := deviceProperties(r.Devices)
		ok(t, err)
		equal(t, c.rules, fmt.Sprint(props), c.want)
	}
}
