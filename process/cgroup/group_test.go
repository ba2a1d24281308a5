package cgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func resources(t testing.TB, text string) *specs.LinuxResources {
	t.Helper()
	var r specs.LinuxResources
	ok(t, json.Unmarshal([]byte(text), &r))
	return &r
}

func TestCreate(t *testing.T) {
	g := newTestGroup(t)
	for _, d := range g.Dirs {
		if _, err := os.Stat(d.absolute() + "/cgroup.procs"); err != nil {
			t.Error(err)
		}
	}
	if !g.V2() && g.dir("cpuset") != nil {
		if file(t, g, "cpuset", "cpuset.cpus") == "" || file(t, g, "cpuset", "cpuset.mems") == "" {
			t.Error("cpuset is empty: nothing can join")
		}
	}
	if g.V2() {
		text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		ok(t, err)
		equal(t, "controllers", file(t, g, "", "cgroup.controllers"), strings.TrimSpace(string(text)))
	}
	// One that exists and is not used is taken.
	again, err := Create(g.Location, nil)
	ok(t, err)
	again.Close()
}

func TestCreateDeep(t *testing.T) {
	needRoot(t)
	cpus := resources(t, `{"cpu": {"cpus": "0"}}`)
	g, err := Create(location(t, "TestCreateDeep/a/b"), cpus)
	ok(t, err)
	cleanUp(t, g)
	if !g.V2() {
		equal(t, "cpuset.cpus", file(t, g, "cpuset", "cpuset.cpus"), "0")
	}
	result(t, g, "exit", "0")
	ok(t, g.Delete(t.Context()))
	for _, d := range g.Dirs { // those above stay, as with runc
		ok(t, os.Remove(path.Dir(d.absolute())))
		ok(t, os.Remove(path.Dir(path.Dir(d.absolute()))))
	}
}

func TestCreateInUse(t *testing.T) {
	g := newTestGroup(t)
	c := start(t, g, "sleep")
	before := everything(t, g)
	_, err := Create(g.Location, nil)
	if want := fmt.Sprintf("container's cgroup is not empty: it has processes [%d]", c.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	sameFiles(t, everything(t, g), before)
}

func TestCreateFrozen(t *testing.T) {
	g := newTestGroup(t)
	ok(t, g.Freeze(t.Context()))
	if _, err := Create(g.Location, nil); err == nil || !strings.Contains(err.Error(), "container's cgroup is frozen") {
		t.Errorf("got %v", err)
	}
	ok(t, g.Thaw())
}

// Whatever fails, nothing is left of the group, nor of what was made above it.
func TestCreateFails(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct{ path, r, want string }{
		"name": {"a/b/cgroup.procs", "{}", "not a directory"},
		"cpus": {"a/b", `{"cpu": {"cpus": "1000"}}`, "linux.resources.cpu.cpus: write \"1000\" to cpuset.cpus: "},
	} {
		t.Run(name, func(t *testing.T) {
			l := location(t, "TestCreateFails/"+c.path)
			if c.r != "{}" && l.V2() {
				t.Skip("is an error of Set with cgroup v2")
			}
			g, err := Create(l, resources(t, c.r))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v %v, want %s", g, err, c.want)
			}
			for _, d := range l.Dirs {
				if _, err := os.Stat(d.Mount + base + "/TestCreateFails"); err == nil {
					t.Errorf("%s is left behind", d.Mount)
				}
			}
		})
	}
}

func TestOpen(t *testing.T) {
	g := newTestGroup(t)
	c := start(t, g, "sleep")
	text, err := json.Marshal(g.Location)
	ok(t, err)
	var l Location
	ok(t, json.Unmarshal(text, &l))
	l.Dirs = append(slices.Clone(l.Dirs), Dir{Controllers: []string{"x"}, Mount: l.Dirs[0].Mount, Path: base + "/missing"})
	found, err := Open(l)
	ok(t, err)
	pids, err := found.Pids()
	ok(t, err)
	equal(t, "pids", fmt.Sprint(pids), fmt.Sprint([]int{c.Process.Pid}))
	ok(t, found.Kill())
	_ = c.Wait()
	ok(t, found.Delete(t.Context()))
	ok(t, found.Delete(t.Context()))
	if _, err := found.Pids(); !errors.Is(err, ErrDeleted) {
		t.Errorf("Pids after Delete: %v", err)
	}
}

func TestJoin(t *testing.T) {
	g := newTestGroup(t)
	c := start(t, g, "sleep")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	ok(t, err)
	where := parseProcCgroup(string(text))
	for _, d := range g.dirs {
		equal(t, fmt.Sprint(d.Controllers), where[strings.Join(d.Controllers, ",")], base+"/TestJoin")
	}
	pids, err := g.Pids()
	ok(t, err)
	equal(t, "pids", fmt.Sprint(pids), fmt.Sprint([]int{c.Process.Pid}))

	a, err := g.Join()
	ok(t, err)
	defer a.Close()
	b, err := g.Join()
	ok(t, err)
	defer b.Close()
	if a.Dir != b.Dir || len(a.Tasks) != len(b.Tasks) || len(a.Tasks) > 0 && a.Tasks[0] != b.Tasks[0] {
		t.Error("Join opens its files twice")
	}
	if a.Dir != nil {
		var dir, up unix.Stat_t
		ok(t, unix.Fstat(int(a.Dir.Fd()), &dir))
		ok(t, unix.Fstatat(int(a.Dir.Fd()), "..", &up, 0))
		equal(t, "what .. of the directory is", up.Ino, dir.Ino)
	}
}

// A process that has not joined yet can still do so after Delete: into nothing.
func TestJoinAfterDelete(t *testing.T) {
	g := newTestGroup(t)
	j, err := g.Join()
	ok(t, err)
	ok(t, g.Delete(t.Context()))
	if c := command(t, j, "sleep"); c.Start() == nil && c.Wait() == nil {
		t.Error("joined a group that is deleted")
	}
	j.Close()
	if _, err := g.Join(); !errors.Is(err, ErrDeleted) {
		t.Errorf("Join after Delete: %v", err)
	}
}

// The container manages groups of its own: it moved to one below.
func TestJoinProcess(t *testing.T) {
	g := newTestGroup(t)
	d := g.dir("")
	if d == nil {
		t.Skip("needs cgroup v2 to be mounted")
	}
	c := start(t, g, "sleep")
	ok(t, os.Mkdir(d.absolute()+"/init", 0o755))
	ok(t, os.WriteFile(d.absolute()+"/init/cgroup.procs", fmt.Append(nil, c.Process.Pid), 0))
	if g.V2() {
		ok(t, d.write("cgroup.subtree_control", "+memory"))
		j, err := g.Join()
		ok(t, err)
		if err := command(t, j, "sleep").Start(); !errors.Is(err, unix.EBUSY) {
			t.Errorf("clone into a group with controllers for its children: %v", err)
		}
		j.Close()
	}
	j, err := g.JoinProcess(c.Process.Pid)
	ok(t, err)
	exec := command(t, j, "sleep")
	ok(t, exec.Start())
	j.Close()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", exec.Process.Pid))
	ok(t, err)
	equal(t, "group", parseProcCgroup(string(text))[""], base+"/TestJoinProcess/init")
	eventually(t, "pids", func() bool {
		pids, err := g.Pids()
		ok(t, err)
		return len(pids) == 2
	})
	ok(t, g.Kill())
	_ = exec.Wait()
}

func TestDelegate(t *testing.T) {
	g := newTestGroup(t)
	if !g.V2() {
		ok(t, g.Delegate(1000))
		t.Skip("needs cgroup v2 alone")
	}
	ok(t, g.Delegate(1000))
	for name, want := range map[string]uint32{"": 1000, "cgroup.procs": 1000, "cgroup.subtree_control": 1000, "memory.max": 0} {
		var st unix.Stat_t
		ok(t, unix.Stat(path.Join(g.dirs[0].absolute(), name), &st))
		equal(t, name, st.Uid, want)
	}
}

// startCounter starts a process that counts, and returns how to see how far it is.
func startCounter(t *testing.T, g *Group) (count func() string) {
	t.Helper()
	counter := path.Join(t.TempDir(), "counter")
	start(t, g, "count", counter)
	count = func() string {
		text, _ := os.ReadFile(counter)
		return string(text)
	}
	eventually(t, "count", func() bool { return count() != "" })
	return count
}

func TestFreeze(t *testing.T) {
	g := newTestGroup(t)
	count := startCounter(t, g)
	for range 20 {
		ok(t, g.Freeze(t.Context()))
		frozen, err := g.freezer().frozen()
		ok(t, err)
		equal(t, "frozen", frozen, true)
		before := count()
		time.Sleep(5 * time.Millisecond)
		equal(t, "count while frozen", count(), before)
		ok(t, g.Thaw())
		frozen, err = g.freezer().frozen()
		ok(t, err)
		equal(t, "frozen after thaw", frozen, false)
		eventually(t, "count after thaw", func() bool { return count() != before })
	}
}

// A process that cannot be frozen: Freeze gives up with ctx, and lets the
// others go on.
func TestFreezeGivesUp(t *testing.T) {
	g := newTestGroup(t)
	count := startCounter(t, g)
	start(t, g, "hang")
	cause := errors.New("that is enough")
	eventually(t, "a process that hangs", func() bool {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
		defer cancel()
		err := g.Freeze(ctx)
		if err == nil { // it has not come to that yet
			ok(t, g.Thaw())
		} else if !errors.Is(err, cause) {
			t.Fatal(err)
		}
		return err != nil
	})
	before := count()
	eventually(t, "count of another one", func() bool { return count() != before })
}

func TestKillFrozen(t *testing.T) {
	g := newTestGroup(t)
	c := start(t, g, "sleep")
	ok(t, g.Freeze(t.Context()))
	ok(t, g.Kill())
	done := make(chan error)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the frozen process lives on")
		ok(t, g.Thaw())
		<-done
	}
	if err := g.Freeze(t.Context()); err == nil {
		t.Error("Freeze of a group that was killed")
	}
	ok(t, g.Delete(t.Context()))
}

// Freeze, Kill, Update, Stats and Pids at the same time: what is killed dies.
func TestKillRace(t *testing.T) {
	needRoot(t)
	for i := range 30 {
		g, err := Create(location(t, fmt.Sprint("TestKillRace", i)), nil)
		ok(t, err)
		cleanUp(t, g)
		c := start(t, g, "/bin/bash", "-c", "while :; do /bin/true; done")
		var all sync.WaitGroup
		for _, f := range []func(){
			func() { _ = g.Freeze(t.Context()) },
			func() { _ = g.Freeze(t.Context()); _ = g.Thaw() },
			func() { _, _ = g.Stats() },
			func() { _, _ = g.Pids() },
			func() { time.Sleep(time.Duration(i) * 100 * time.Microsecond); ok(t, g.Kill()) },
		} {
			all.Go(f)
		}
		all.Wait()
		done := make(chan error)
		go func() { done <- c.Wait() }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("it lives on")
		}
		ok(t, g.Delete(t.Context()))
	}
}

func TestForkBomb(t *testing.T) {
	g := newTestGroup(t)
	ok(t, g.Update(resources(t, `{"pids": {"limit": 150}}`)))
	start(t, g, "/bin/bash", "-c", "bomb() { bomb 2>/dev/null | bomb 2>/dev/null & }; bomb 2>/dev/null; sleep 100")
	eventually(t, "processes", func() bool {
		pids, err := g.Pids()
		ok(t, err)
		return len(pids) > 50
	})
	pids, err := g.Pids()
	ok(t, err)
	if len(pids) > 150 {
		t.Errorf("%d processes with a limit of 150", len(pids))
	}
	began := time.Now()
	ok(t, g.Kill())
	eventually(t, "end", func() bool { return g.Delete(t.Context()) == nil })
	t.Logf("%d processes killed and deleted in %v", len(pids), time.Since(began))
}

// Without cgroup.kill, which a machine with nothing but v1 does not have.
func TestForkBombV1(t *testing.T) {
	g := newTestGroup(t)
	if g.V2() {
		t.Skip("needs cgroup v1")
	}
	start(t, g, "sleep")
	if d := g.dir(""); d != nil { // it must not be found
		hidden := *d
		g.dirs = slices.DeleteFunc(slices.Clone(g.dirs), func(d dir) bool { return d.v2() })
		t.Cleanup(func() { g.dirs = append([]dir{hidden}, g.dirs...) })
	}
	ok(t, g.Update(resources(t, `{"pids": {"limit": 150}}`)))
	c := start(t, g, "/bin/bash", "-c", "bomb() { bomb 2>/dev/null | bomb 2>/dev/null & }; bomb 2>/dev/null; sleep 100")
	eventually(t, "processes", func() bool {
		pids, err := g.Pids()
		ok(t, err)
		return len(pids) > 50
	})
	ok(t, g.Kill())
	_ = c.Wait()
	eventually(t, "end", func() bool {
		pids, err := g.Pids()
		ok(t, err)
		return len(pids) == 0
	})
}

// A process that does not end, in a group that does not freeze: Kill gives up, and
// says where.
func TestKillGivesUp(t *testing.T) {
	dead := exec.Command("/bin/true") // which does not end once more
	ok(t, dead.Start())
	defer dead.Wait()
	for name, files := range map[string]map[string]string{
		"devices": {},
		"freezer": {"freezer.state": "THAWING\n"}, // what is written does not change all of it
	} {
		files["cgroup.procs"] = fmt.Sprintln(dead.Process.Pid)
		g := fakeGroup(t, Dir{Controllers: []string{name}}, files)
		want := fmt.Sprintf("kill cgroup: %s: after 20 rounds there are still processes [%d]", g.Dirs[0].absolute(), dead.Process.Pid)
		if err := g.Kill(); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		ok(t, os.WriteFile(g.Dirs[0].absolute()+"/cgroup.procs", nil, 0))
		ok(t, g.Kill())
	}
}

func TestSignal(t *testing.T) {
	g := newTestGroup(t)
	a, b := start(t, g, "/bin/sleep", "1000"), start(t, g, "/bin/sleep", "1000")
	ok(t, g.Signal(0))
	ok(t, g.Signal(unix.SIGTERM))
	for _, c := range []string{fmt.Sprint(a.Wait()), fmt.Sprint(b.Wait())} {
		equal(t, "end", c, "signal: terminated")
	}
}

func TestDelete(t *testing.T) {
	g := newTestGroup(t)
	for _, d := range g.dirs {
		if d.v2() || slices.Contains(d.Controllers, "memory") {
			ok(t, os.MkdirAll(d.absolute()+"/a/b/c", 0o755))
			ok(t, os.MkdirAll(d.absolute()+"/d", 0o755))
		}
	}
	c := start(t, g, "sleep")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := g.Delete(ctx)
	if want := fmt.Sprintf("it has processes [%d]", c.Process.Pid); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want %s", err, want)
	}
	pids, err := g.Pids() // it still can be asked
	ok(t, err)
	equal(t, "pids", fmt.Sprint(pids), fmt.Sprint([]int{c.Process.Pid}))
	go func() {
		time.Sleep(100 * time.Millisecond)
		_ = c.Process.Kill()
		_, _ = c.Process.Wait()
	}()
	ok(t, g.Delete(t.Context())) // waits
	ok(t, g.Delete(t.Context()))
}

func TestManyAtOnce(t *testing.T) {
	needRoot(t)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 12 {
				err := func() error {
					l, err := Resolve(fmt.Sprintf("%s/TestManyAtOnce-%d-%d", base, worker, i), "id", false)
					if err != nil {
						return err
					}
					g, err := Create(l, nil)
					if err != nil {
						return err
					}
					defer g.Delete(context.Background())
					j, err := g.Join()
					if err != nil {
						return err
					}
					c := command(t, j, "sleep")
					err = c.Start()
					j.Close()
					if err != nil {
						return err
					}
					err = errors.Join(
						g.Set(&specs.Linux{}),
						g.Update(&specs.LinuxResources{}),
						g.Freeze(context.Background()), g.Thaw(), g.Kill())
					_ = c.Wait()
					return errors.Join(err, g.Delete(context.Background()))
				}()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
